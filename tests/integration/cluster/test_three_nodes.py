"""Three nodes on real engines: a route that looks at requests and a test of prompts, through the death of an owner."""

import contextlib
import os
import random
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest

from loadtests.cluster.scene import SECRET, Node, cluster_blocks, engines
from loadtests.cluster.watch import hash_of
from loadtests.peers import mock_upstream
from loadtests.processes import Skipped, cores
from optimizer.cluster.sharding import shard_of

pytestmark = [pytest.mark.nodes, pytest.mark.slow, pytest.mark.timeout(300)]

KEY: Final = "the-admin-key-of-this-test"
NODES: Final = 3
SHARDS: Final = 6
STEERED: Final = "ask"
TESTED: Final = "write"
KINDS: Final = {"short": ("hi", "small"), "long": ("word " * 300, "large")}
"""What is asked on the route that looks at requests, and the arm that is good at it."""
PROMPTS: Final = {"polite": {"system": "Be polite."}, "brief": {"system": "Be brief."}}
BEST: Final = "large+brief"


class Crowd:
    """Callers of every node until the end, who rate what they get, with ``rates_words`` also that of the prompt test.

    ``answers`` are (asked at, node, kind, arm).
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.answers: deque[tuple[float, int, str, str]] = deque(maxlen=20_000)
        self.failures: Counter[tuple[int, int]] = Counter()
        self.rates_words = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(index, node.url, 3 * index + number), daemon=True)
            for index, node in enumerate(nodes)
            for number in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, index: int, url: str, seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(timeout=20.0) as client:
            while not self._stop.wait(0.03):
                try:
                    self._once(client, index, url, rng)
                except httpx.HTTPError:
                    time.sleep(0.2)  # its node is dead at the moment

    def _once(self, client: httpx.Client, index: int, url: str, rng: random.Random) -> None:
        kind = rng.choice(("short", "long", TESTED))
        content, good = KINDS.get(kind, ("hi", BEST))
        route = STEERED if kind in KINDS else TESTED
        at = time.time()
        body = {"model": route, "messages": [{"role": "user", "content": content}]}
        reply = client.post(f"{url}/v1/chat/completions", json=body)
        if reply.status_code != 200:
            self.failures[index, reply.status_code] += 1
            return
        arm = reply.headers["x-llm-optimizer-arm"]
        self.answers.append((at, index, kind, arm))
        if route == TESTED and not self.rates_words:
            return
        value = float(rng.random() < (0.95 if arm == good else 0.3))
        client.post(
            f"{url}/v1/feedback",
            json={"request_id": reply.headers["x-request-id"], "metric": "quality", "value": value},
        )

    def right(self, since: float, nodes: set[int]) -> dict[str, float]:
        """By kind, the share that the arm that is good at it had, where there were enough answers."""
        found = {}
        for kind, (_, good) in KINDS.items():
            arms = [
                arm
                for at, node, of, arm in list(self.answers)
                if at >= since and node in nodes and of == kind
            ]
            if len(arms) >= 40:
                found[kind] = sum(arm == good for arm in arms) / len(arms)
        return found

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(25.0)


class Cluster:
    """The nodes, from outside."""

    def __init__(self, nodes: list[Node], redis_port: int) -> None:
        self.nodes = nodes
        self.redis_port = redis_port

    def call(self, index: int, method: str, path: str, body: Any = None) -> httpx.Response:
        heads = {"authorization": f"Bearer {KEY}"}
        return httpx.request(method, self.nodes[index].url + path, json=body, headers=heads, timeout=20.0)

    def owners(self, index: int) -> dict[int, str | None]:
        return {
            row["shard"]: row["owner"] for row in self.call(index, "GET", "/api/v1/cluster").json()["shards"]
        }

    def name(self, index: int) -> str:
        return str(self.call(index, "GET", "/api/v1/cluster").json()["node"])

    def owner(self, route: str, alive: tuple[int, ...]) -> int | None:
        """Which of the living nodes owns a route."""
        with contextlib.suppress(httpx.HTTPError, KeyError):
            wanted = self.owners(alive[0])[shard_of(route, SHARDS)]
            return next((index for index in alive if self.name(index) == wanted), None)
        return None

    def pulls(self, index: int, route: str) -> float:
        """How much is known of a route; 0 while nobody says."""
        reply = self.call(index, "GET", f"/api/v1/arms?route={route}")
        document = reply.json()
        if reply.status_code != 200 or document.get("incomplete"):
            return 0.0
        return float(sum(arm["pulls"] for arm in document["arms"]))

    def tested(self) -> set[str]:
        """The routes of which their owners say that prompts are being tested."""
        states = hash_of(self.redis_port, "llm-optimizer:proof:nodes").values()
        return {
            route for state in states for route in orjson.loads(state[state.index("{") :]).get("tests", ())
        }


def until(condition: Callable[[], Any], seconds: float = 40.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.1)
    return found


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="llm-optimizer-three-") as name, contextlib.ExitStack() as stack:
        try:
            servers = stack.enter_context(engines(Path(name), shards=SHARDS))
        except Skipped as reason:
            pytest.skip(str(reason))
        upstream = stack.enter_context(mock_upstream(cores(), Path(name)))
        quick = {"floor": 0.05, "min_pulls": 5}
        document = {
            "log": {"level": "warning"},
            "admin": {"key": KEY},
            "upstreams": {
                "mock": {"base_url": f"{upstream.url}/v1", "api_key": "literal-key", "allow_private": True}
            },
            "models": {
                model: {"upstream": "mock", "model": model, "price": {"input": 1, "output": 4}}
                for model in ("small", "large")
            },
            "prompts": PROMPTS,
            "optimization": {"interval_sec": 1, "strategies": []},
            "routes": {
                STEERED: {
                    "arms": ["small", "large"], "baseline": "large", "context": {}, "objectives": ["quality"],
                    "policy": quick,
                },
                TESTED: {
                    "arms": ["large", *({"model": "large", "prompt": prompt} for prompt in PROMPTS)],
                    "baseline": "large",
                    "policy": {"type": "fixed", "probabilities": {"large": 0.4, "large+polite": 0.3, BEST: 0.3}},
                },
            },
            **cluster_blocks(servers, shards=SHARDS),
        }  # fmt: skip
        assert document["cluster"]["secret"] == SECRET
        nodes = [Node(f"node {n}", Path(name) / f"node{n}", document) for n in range(1, NODES + 1)]
        for node in nodes:
            stack.callback(node.stop)
            node.start()
        made = Cluster(nodes, servers.redis.port)
        until(lambda: len({*made.owners(0).values()} - {None}) == NODES, 60.0)
        yield made


def test_knowledge_and_a_test_go_on_when_their_owner_dies(cluster: Cluster) -> None:
    everybody = (0, 1, 2)
    crowd = Crowd(cluster.nodes)
    try:
        stranger = next(index for index in everybody if index != cluster.owner(TESTED, everybody))
        asked = {
            "name": "which words", "strategy": "prompt_optimization", "route": TESTED,
            "parameters": {"variants": list(PROMPTS), "metrics": ["quality"], "significance_level": 0.01},
        }  # fmt: skip
        made = until(lambda: _made(cluster, stranger, asked))
        until(lambda: cluster.tested() == {TESTED})

        def is_right(since: float, nodes: set[int]) -> bool:
            shares = crowd.right(since, nodes)
            return len(shares) == len(KINDS) and min(shares.values()) > 0.75

        until(lambda: is_right(time.time() - 5.0, set(everybody)), 90.0)
        known = until(lambda: cluster.pulls(0, STEERED))
        until(lambda: cluster.owner(STEERED, everybody) is not None)
        dead = cluster.owner(STEERED, everybody)
        assert dead is not None
        alive = tuple(index for index in everybody if index != dead)
        _kill(cluster.nodes[dead])
        killed = time.time()
        until(lambda: cluster.owner(STEERED, alive) is not None, 60.0)

        # A snapshot is ten seconds old at most, and what came later is in the topic: it knows all that was known.
        until(lambda: cluster.pulls(alive[0], STEERED) > 0.95 * known)
        until(lambda: len(crowd.right(killed, set(alive))) == len(KINDS))
        assert min(crowd.right(killed, set(alive)).values()) > 0.7

        cluster.nodes[dead].stop()
        cluster.nodes[dead].start()
        path = f"/api/v1/optimize/{made['id']}"
        assert _status(cluster, alive[0], path) == "collecting"
        crowd.rates_words = True
        until(lambda: _status(cluster, dead, path) == "proposed", 90.0)
        record = cluster.call(alive[0], "GET", path).json()
        assert record["proposal"]["candidate"]["baseline"] == BEST
        until(lambda: cluster.tested() == set())
        assert not [failed for failed in crowd.failures if failed[0] in alive]
    finally:
        crowd.end()


def _made(cluster: Cluster, index: int, body: Any) -> dict[str, Any] | None:
    reply = cluster.call(index, "POST", "/api/v1/optimize", body)
    assert reply.status_code < 300 or reply.status_code == 503, reply.text
    return dict(reply.json()) if reply.status_code < 300 else None


def _status(cluster: Cluster, index: int, path: str) -> str:
    return str(cluster.call(index, "GET", path).json().get("status"))


def _kill(node: Node) -> None:
    pids = node.pids()
    for pid in (pids["supervisor"], pids["optimizer"], *pids["workers"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
