"""A canary over two nodes on real engines: taken back everywhere at once, and never given while somebody can't hear.

The tests are one story over one cluster, each with an optimization of its own.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest

from loadtests.cluster.scene import Engines, Node, cluster_blocks, engines
from loadtests.processes import Skipped
from optimizer.cluster.sharding import shard_of

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(180)]

KEY: Final = "the-admin-key-of-this-test"
ROUTE: Final = "chat"
TO_NEW: Final = {"arms": ["new"], "baseline": "new", "policy": {"type": "fixed"}}


class Upstream:
    """Answers chat at once; half of the requests to a model in ``failing`` get a 500: too few for a hard stop."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.asked: Counter[str] = Counter()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                model = orjson.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
                upstream.asked[model] += 1
                failed = model in upstream.failing and upstream.asked[model] % 2 == 0
                body = orjson.dumps({"error": {"message": "planted"}} if failed else _completion(model))
                self.send_response(500 if failed else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing to say."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def _completion(model: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


class Crowd:
    """Callers of every node until the end; ``answers`` are (asked at, node, status, side), by Unix seconds."""

    def __init__(self, nodes: list[Node]) -> None:
        self.answers: list[tuple[float, int, int, str]] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(index, node.url), daemon=True)
            for index, node in enumerate(nodes)
            for _ in range(3)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, index: int, url: str) -> None:
        body = {"model": ROUTE, "messages": [{"role": "user", "content": "hi"}]}
        with httpx.Client(timeout=20.0) as client:
            while not self._stop.wait(0.01):
                at = time.time()
                try:
                    reply = client.post(f"{url}/v1/chat/completions", json=body)
                except httpx.HTTPError:
                    time.sleep(0.1)  # its node is dead at the moment
                    continue
                side = reply.headers.get("x-llm-optimizer-side", "")
                self.answers.append((at, index, reply.status_code, side))

    def candidates(self, since: float, until: float = float("inf")) -> Counter[int]:
        """How many answers came from a candidate, by node."""
        return Counter(
            index for at, index, _, side in list(self.answers) if side == "candidate" and since <= at < until
        )

    def last(self, index: int) -> float:
        return max((at for at, node, _, side in list(self.answers) if node == index and side == "candidate"))

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(25.0)


class Story:
    """Two nodes, their engines and callers."""

    def __init__(self, servers: Engines, nodes: list[Node], upstream: Upstream) -> None:
        self.servers = servers
        self.nodes = nodes
        self.upstream = upstream
        self.crowd = Crowd(nodes)
        self._made = 0
        self._running = ""

    def call(self, index: int, method: str, path: str, body: Any = None) -> httpx.Response:
        heads = {"authorization": f"Bearer {KEY}"}
        return httpx.request(method, self.nodes[index].url + path, json=body, headers=heads, timeout=20.0)

    def view(self, index: int) -> dict[str, Any]:
        return dict(self.call(index, "GET", "/api/v1/cluster").json())

    def owner(self) -> int:
        """Which node owns the route, -1 while none does."""
        wanted = shard_of(ROUTE, 4)
        for index in range(len(self.nodes)):
            with contextlib.suppress(httpx.HTTPError, KeyError):
                view = self.view(index)
                if any(row["shard"] == wanted and row["owner"] == view["node"] for row in view["shards"]):
                    return index
        return -1

    def is_shared_out(self) -> bool:
        """Whether both nodes know each other and both own shards, so that nothing moves any more."""
        views = [self.view(index) for index in range(len(self.nodes))]
        owners = [{row["owner"] for row in view["shards"]} for view in views]
        everybody = {view["node"] for view in views}
        return all(each == everybody for each in owners)

    def canary(self, index: int, *, percentage: float = 40.0) -> str:
        """Begin one through a node and wait until both nodes send candidates traffic."""
        self.upstream.failing.clear()
        if self._running:  # of a test that failed
            until(
                lambda: (
                    self.rollback(0, self._running).is_success
                    or self.status(0, self._running) == "rolled_back"
                )
            )
        self._made += 1
        body = {"name": f"one {self._made}", "strategy": "manual", "route": ROUTE, "parameters": TO_NEW}
        made = until(lambda: self._accepted(index, "/api/v1/optimize", body), 30.0)
        self._running = id_ = str(made["id"])
        until(lambda: self.status(index, id_) == "proposed")
        stages = [{"percentage": percentage, "duration_sec": 900}, {"percentage": 100}]
        until(
            lambda: self._accepted(index, f"/api/v1/optimize/{id_}/deploy", {"canary": {"stages": stages}}),
            30.0,
        )
        self.both()
        return id_

    def _accepted(self, index: int, path: str, body: Any) -> dict[str, Any] | None:
        reply = self.call(index, "POST", path, body)
        assert reply.status_code < 300 or reply.status_code == 503, reply.text
        return dict(reply.json()) if reply.status_code < 300 else None

    def both(self, seconds: float = 30.0) -> None:
        """Wait until both nodes send candidates traffic."""
        since = time.time()
        until(lambda: len(self.crowd.candidates(since)) == len(self.nodes), seconds)

    def rollback(self, index: int, id_: str) -> httpx.Response:
        return self.call(index, "POST", f"/api/v1/optimize/{id_}/rollback")

    def status(self, index: int, id_: str) -> str:
        return str(self.call(index, "GET", f"/api/v1/optimize/{id_}").json().get("status"))


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with (
        tempfile.TemporaryDirectory(prefix="llm-optimizer-rollouts-") as name,
        contextlib.ExitStack() as stack,
    ):
        upstream = Upstream()
        stack.callback(upstream.server.shutdown)
        try:
            servers = stack.enter_context(engines(Path(name)))
        except Skipped as reason:
            pytest.skip(str(reason))
        document = {
            "admin": {"key": KEY},
            "upstreams": {
                "mock": {
                    "base_url": upstream.url,
                    "api_key": "literal-key",
                    "allow_private": True,
                    "breaker": False,
                }
            },
            "models": {
                model: {"upstream": "mock", "model": model, "price": {"input": 1, "output": 4}}
                for model in ("old", "new")
            },
            "routes": {ROUTE: {"arms": ["old", "new"], "baseline": "old", "policy": "fixed"}},
            **cluster_blocks(servers, shards=4),
        }
        nodes = [Node(f"node {n}", Path(name) / f"node{n}", document, workers=2) for n in (1, 2)]
        for node in nodes:
            stack.callback(node.stop)
            node.start()
        made = Story(servers, nodes, upstream)
        stack.callback(made.crowd.end)
        until(made.is_shared_out, 40.0)
        yield made


@pytest.mark.parametrize("through", ["owner", "other"])
def test_a_person_takes_a_candidate_away_on_all_nodes_within_a_second(story: Story, through: str) -> None:
    owner = story.owner()
    index = owner if through == "owner" else 1 - owner
    id_ = story.canary(index)
    asked = time.time()
    assert (said := story.rollback(index, id_)).is_success, said.text
    time.sleep(1.5)
    assert [story.crowd.last(node) - asked < 1.0 for node in (0, 1)] == [True, True]
    assert story.status(0, id_) == story.status(1, id_) == "rolled_back"


def test_a_guard_takes_it_away_on_all_nodes_within_a_second_of_the_decision(story: Story) -> None:
    id_ = story.canary(0)
    story.upstream.failing.add("new")
    until(lambda: story.status(0, id_) == "rolled_back")
    decided = story.call(0, "GET", f"/api/v1/optimize/{id_}").json()["updated_at"]
    time.sleep(1.5)
    assert [story.crowd.last(node) - decided < 1.0 for node in (0, 1)] == [True, True]


def test_while_redis_is_away_nothing_is_given_and_what_there_is_stays(story: Story) -> None:
    """And a rollback holds on the owner's node at once, on the others when a Redis without anything is back."""
    owner = story.owner()
    id_ = story.canary(owner)
    story.servers.redis_relay.mode = "stall"
    try:
        time.sleep(12.0)  # longer than a candidate may go without anybody guarding it
        assert len(story.crowd.candidates(time.time() - 1.0)) == 2
        refused = story.call(owner, "POST", f"/api/v1/optimize/{id_}/promote")
        assert refused.status_code == 503
        assert "Redis" in refused.text
        asked = time.time()
        # Any node knows still whom to ask.
        assert (said := story.rollback(1 - owner, id_)).is_success, said.text
        time.sleep(1.5)
        assert story.crowd.last(owner) - asked < 1.0
        assert story.crowd.last(1 - owner) - asked > 1.0
        story.servers.redis.flush()
    finally:
        back = time.time()
        story.servers.redis_relay.mode = "pass"
    until(lambda: time.time() > back + 4.0)
    assert story.crowd.last(1 - owner) - back < 3.0


def test_a_wiped_redis_takes_nothing_from_anybody(story: Story) -> None:
    id_ = story.canary(0)
    wiped = time.time()
    story.servers.redis.flush()
    until(lambda: time.time() > wiped + 7.0)
    for second in range(7):
        assert len(story.crowd.candidates(wiped + second, wiped + second + 1.0)) == 2
    assert (said := story.rollback(0, id_)).is_success, said.text


def test_an_owner_that_is_killed_is_replaced_and_the_stage_goes_on(story: Story) -> None:
    id_ = story.canary(0)
    owner = story.owner()
    other = 1 - owner
    pids = story.nodes[owner].pids()
    killed = time.time()
    for pid in (pids["supervisor"], pids["optimizer"], *pids["workers"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    until(lambda: story.owner() == other, 40.0)
    until(lambda: story.status(other, id_) == "running")
    # Its lease is 10 s and the dead are missed after 5: so long, and no longer, may a candidate go unguarded.
    taken = time.time()
    until(lambda: story.crowd.candidates(taken).get(other), 20.0)
    story.nodes[owner].stop()
    story.nodes[owner].start()
    story.both()
    asked = time.time()
    assert (said := story.rollback(owner, id_)).is_success, said.text
    time.sleep(1.5)
    assert [story.crowd.last(node) - asked < 1.0 for node in (0, 1)] == [True, True]
    assert {status for at, node, status, _ in story.crowd.answers if node == other and at > killed} == {200}


def test_a_node_that_hears_nobody_from_its_start_on_sends_no_candidate_traffic(story: Story) -> None:
    """Its last table has one, which may be over for long: Redis, which knows, is away.

    So is the database, or it would own the route itself.
    """
    id_ = story.canary(0)
    owner = story.owner()
    other = 1 - owner
    story.nodes[other].stop()
    story.servers.redis_relay.mode = story.servers.postgres_relay.mode = "stall"
    try:
        began = time.time()
        story.nodes[other].start()
        # Somebody guarded it until it ended, and that holds for the 10 s of a lease.
        until(lambda: time.time() > began + 12.0)
        assert story.crowd.candidates(began + 11.0).get(other) is None
        assert any(
            node == other for at, node, status, _ in story.crowd.answers if at > began and status == 200
        )
    finally:
        story.servers.redis_relay.mode = story.servers.postgres_relay.mode = "pass"
    story.both()
    until(lambda: story.rollback(other, id_).is_success)


def test_while_kafka_swallows_everything_candidates_go_to_control(story: Story) -> None:
    """Nobody sees what they do; within a few seconds and the lease of the guards."""
    id_ = story.canary(0)
    story.servers.kafka.relay.mode = "stall"
    try:
        stalled = time.time()
        until(lambda: time.time() > stalled + 17.0)
        assert not story.crowd.candidates(time.time() - 1.0)
    finally:
        story.servers.kafka.relay.mode = "pass"
    story.both(40.0)
    until(lambda: story.rollback(0, id_).is_success)
