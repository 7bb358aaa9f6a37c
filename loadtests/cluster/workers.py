"""CPU per request with one worker and with two, at equal load: what spreading a node over cores costs.

Invariant: both nodes get the same requests at the same constant rate, in turns.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from loadtests.cluster.scene import Node, configuration
from loadtests.load import at_rate, chat_body, on_core
from loadtests.peers import nginx_upstream
from loadtests.processes import cores, cpu_seconds

RATE: Final = 400.0
SECONDS: Final = 5.0
PROMPT: Final = 2048
_WARM_UP_S: Final = 1.0


def workers(rounds: int) -> Sequence[Mapping[str, Any]]:
    """Rows for the page.

    Raises:
        Failed: If a node can't keep up with the rate.
        Skipped: If nginx is not installed, or there is only one core.
    """
    allowed = cores()
    body = chat_body(PROMPT, model="chat")
    cost: dict[int, list[float]] = {1: [], 2: []}
    late: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-workers-") as name, ExitStack() as stack:
        directory = Path(name)
        upstream = stack.enter_context(nginx_upstream(allowed, directory))
        nodes = {}
        for count in cost:
            node = Node(
                f"{count} workers", directory / str(count), configuration(upstream.url), workers=count
            )
            stack.callback(node.stop)
            node.start()
            nodes[count] = node
        for number in range(rounds):
            for count in (1, 2) if number % 2 else (2, 1):
                node = nodes[count]
                pids = node.worker_pids()
                before = cpu_seconds(pids)
                seen = on_core(
                    allowed.load, lambda port=node.port: at_rate(port, body, rate=RATE, seconds=SECONDS)
                )
                # The first second's requests are not in the latencies, but they did cost.
                sent = RATE * SECONDS + RATE * _WARM_UP_S
                cost[count].append((cpu_seconds(pids) - before) / sent * 1e6)
                late[count].append(seen.at(99))
    rows = [
        {
            "name": f"CPU per request with {count} worker{'s' if count > 1 else ''}",
            "value": round(median(cost[count]), 1),
            "unit": "us",
            "asked": "",
            "note": f"{RATE:g} requests/s, {rounds} rounds of {SECONDS:g} s, 99 % within {median(late[count]):.1f} ms",
        }
        for count in cost
    ]
    ratio = median(two / one for one, two in zip(cost[1], cost[2], strict=True))
    rows.append(
        {
            "name": "2 workers / 1",
            "value": round(ratio, 3),
            "unit": "x",
            "asked": "",
            "note": "median of the rounds",
        }
    )
    return rows
