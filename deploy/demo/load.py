"""Callers: ask at a steady rate, rate some of the answers, and remember what they were told.

Standard library and aiohttp only, and nothing of ours: ``deploy/compose.yaml`` runs this file alone in a container.
"""

import argparse
import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

ROUTE = "assistant"
REQUEST_ID = "x-llm-optimizer-request-id"
SIDE = "x-llm-optimizer-side"
RATED_EVERY = 5
TIMEOUT_S = 20.0


@dataclass(slots=True)
class Seen:
    """What callers saw. ``answered`` are ids of requests with a complete answer, ``rated`` of accepted ratings."""

    answered: set[str] = field(default_factory=set)
    rated: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0


class Load:
    """Asks each node in turn; ratings go to the next node, which need not know the request."""

    def __init__(self, nodes: Sequence[str], *, per_second: float, seed: int = 7) -> None:
        self.seen = Seen()
        self._nodes = list(nodes)
        self._pause_s = 1.0 / per_second
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, and until everything under way has ended."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            loop = asyncio.get_running_loop()
            due = loop.time()
            for number in itertools.count():
                if stop.is_set():
                    break
                task = asyncio.create_task(self._one(session, number))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                due += self._pause_s
                await asyncio.sleep(max(0.0, due - loop.time()))
            await asyncio.gather(*self._tasks)

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        first, second = self._random.randint(2, 99), self._random.randint(2, 99)
        question = f"What is {first} + {second}?"
        body = {"model": ROUTE, "messages": [{"role": "user", "content": question}]}
        node = self._nodes[number % len(self._nodes)]
        began = time.monotonic()
        try:
            async with session.post(f"{node}/v1/chat/completions", json=body) as reply:
                answer = await reply.json()
                if reply.status != 200:
                    self.seen.failed[f"status {reply.status}"] += 1
                    return
                request_id = reply.headers[REQUEST_ID]
                self.seen.answered.add(request_id)
                self.seen.sides[reply.headers.get(SIDE, "control")] += 1
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.seen.failed[type(error).__name__] += 1
            return
        finally:
            self.seen.longest_s = max(self.seen.longest_s, time.monotonic() - began)
        if number % RATED_EVERY == 0:
            text = str(answer["choices"][0]["message"]["content"])
            other = self._nodes[(number + 1) % len(self._nodes)]
            await self._rate(session, other, request_id, float(str(first + second) in text))

    async def _rate(self, session: aiohttp.ClientSession, node: str, request_id: str, value: float) -> None:
        rating = {"request_id": request_id, "metric": "quality", "value": value, "source": "demo"}
        try:
            async with session.post(f"{node}/v1/feedback", json=rating) as reply:
                if reply.status < 300:
                    self.seen.rated.add(request_id)
                else:
                    self.seen.failed[f"rating: status {reply.status}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            self.seen.failed[f"rating: {type(error).__name__}"] += 1


async def _main(nodes: Sequence[str], per_second: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    load = Load(nodes, per_second=per_second)
    running = asyncio.create_task(load.run(stop))
    while not running.done():
        await asyncio.wait((running,), timeout=10)
        seen = load.seen
        print(
            f"{len(seen.answered)} answered, {len(seen.rated)} rated, failed: {dict(seen.failed)}", flush=True
        )
    running.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nodes", nargs="+", help="addresses such as http://node-1:8080")
    parser.add_argument("--per-second", type=float, default=20.0)
    given = parser.parse_args()
    asyncio.run(_main(given.nodes, given.per_second))
