"""The load generators: wrk for throughput, a closed loop of one for latency, an open loop at a fixed rate.

Invariant: a measurement counts only replies with status 200, and a single bad reply voids it (``Failed``).
The clients here are plain blocking sockets: an event loop's timers are coarser than what is measured.
"""

import json
import os
import re
import select
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from loadtests.peers import Proxy, Upstream, tool
from loadtests.processes import Cores, Failed, cpu_seconds

SCRIPT = Path(__file__).with_name("templates") / "post.lua"
PATH = "/v1/chat/completions"
MAX_LOAD_SHARE = 0.9
SATURATED = 0.95


@dataclass(frozen=True, slots=True)
class Throughput:
    """One wrk run: requests per second, and the shares of a core that either side used."""

    rate: float
    p50_ms: float
    p99_ms: float
    worker_share: float
    load_share: float

    @property
    def is_load_bound(self) -> bool:
        """The load side was too busy for ``rate`` to be the proxy's own."""
        return self.load_share > MAX_LOAD_SHARE

    @property
    def is_saturated(self) -> bool:
        """The proxy had no core time left, so that ``rate`` is what it can do."""
        return self.worker_share >= SATURATED

    @property
    def capacity(self) -> float:
        """What the proxy serves with its core to itself: ``rate``, or requests per CPU second if it was held up."""
        return self.rate if self.is_saturated else self.rate / max(self.worker_share, 0.01)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Sorted latencies in milliseconds."""

    samples: tuple[float, ...]

    def at(self, percent: float) -> float:
        """The latency that ``percent`` of the requests did not exceed."""
        return self.samples[min(len(self.samples) - 1, int(len(self.samples) * percent / 100))]


def chat_body(size: int, *, model: str = "loadtest", stream: bool = False) -> bytes:
    """A chat request of exactly ``size`` bytes, as an SDK would write it."""
    document: dict[str, object] = {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": ""},
        ],
        "model": model,
        "temperature": 0.2,
    }
    if stream:
        document["stream"] = True
    empty = len(json.dumps(document, separators=(",", ":")))
    filler = "What is the capital of France, and why? " * (size // 40 + 1)
    messages = document["messages"]
    assert isinstance(messages, list)
    messages[1]["content"] = filler[: size - empty]
    return json.dumps(document, separators=(",", ":")).encode()


def run_wrk(
    proxy: Proxy, upstream: Upstream, cores: Cores, body: Path, *, connections: int = 64, seconds: int = 4
) -> Throughput:
    """Drive a proxy as hard as ``connections`` allow.

    Raises:
        Failed: If any reply was not 2xx/3xx or a connection broke.
        Skipped: If wrk is not installed.
    """
    url = f"http://127.0.0.1:{proxy.port}{PATH}"
    command = [
        "taskset",
        "-c",
        str(cores.load),
        tool("wrk", "wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
    ]
    before = (cpu_seconds(proxy.worker_pids), cpu_seconds([*upstream.pids, *proxy.side_pids]))
    started = os.times()
    begun = time.monotonic()
    done = subprocess.run(
        [*command, "-s", str(SCRIPT), url],
        env={**os.environ, "LOADTEST_BODY": str(body)},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
    )
    elapsed = time.monotonic() - begun
    ended = os.times()
    found = re.search(r"JSON (\{.*\})", done.stdout)
    if found is None:
        raise Failed(f"wrk said: {done.stdout[-500:]} {done.stderr[-500:]}")
    seen = json.loads(found.group(1))
    if seen["bad_status"] or seen["socket_errors"] or not seen["requests"]:
        raise Failed(f"{proxy.name}: {seen}")
    after = (cpu_seconds(proxy.worker_pids), cpu_seconds([*upstream.pids, *proxy.side_pids]))
    client = ended.children_user + ended.children_system - started.children_user - started.children_system
    return Throughput(
        rate=seen["requests"] / seen["seconds"],
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        worker_share=(after[0] - before[0]) / elapsed,
        load_share=(after[1] - before[1] + client) / elapsed,
    )


def request_bytes(port: int, body: bytes) -> bytes:
    """A whole POST request."""
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer client-key\r\naccept: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


class Reply:
    """Collects one reply with a content length from a socket."""

    __slots__ = ("_data", "_missing")

    def __init__(self) -> None:
        self._data = b""
        self._missing: int | None = None

    def feed(self, data: bytes) -> bool:
        """Add bytes; True when the reply is complete.

        Raises:
            Failed: On any other status than 200, a missing length, or an ended connection.
        """
        if not data:
            raise Failed("the connection ended within a reply")
        if self._missing is None:
            self._data += data
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = self._data[:end].lower()
            found = re.search(rb"\r\ncontent-length: *(\d+)", head)
            if not head.startswith(b"http/1.1 200") or found is None:
                raise Failed(f"unexpected reply: {self._data[:300]!r}")
            self._missing = int(found.group(1)) - (len(self._data) - end - 4)
        else:
            self._missing -= len(data)
        return self._missing <= 0


def connect(port: int) -> socket.socket:
    """A connection without Nagle's delay."""
    made = socket.create_connection(("127.0.0.1", port), 5.0)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def one_at_a_time(port: int, body: bytes, *, requests: int, warm_up: int = 200) -> Latencies:
    """Latency at concurrency 1 over one connection."""
    request = request_bytes(port, body)
    samples: list[float] = []
    with connect(port) as connection:
        for _ in range(warm_up + requests):
            started = time.perf_counter()
            connection.sendall(request)
            reply = Reply()
            while not reply.feed(connection.recv(262_144)):
                pass
            samples.append((time.perf_counter() - started) * 1000)
    return Latencies(tuple(sorted(samples[warm_up:])))


def at_rate(port: int, body: bytes, *, rate: float, seconds: float, connections: int = 64) -> Latencies:
    """Latency at a constant rate, counted from when each request should have been sent.

    Raises:
        Failed: If the proxy can't keep up, so that every connection is busy when a request is due.
    """
    request = request_bytes(port, body)
    idle = deque(connect(port) for _ in range(connections))
    busy: dict[socket.socket, tuple[float, Reply]] = {}
    samples: list[float] = []
    total = int(rate * seconds)
    warm_up = int(rate)
    start = time.perf_counter() + 0.05
    sent = 0
    try:
        while len(samples) < total + warm_up:
            due = start + sent / rate
            now = time.perf_counter()
            if sent < total + warm_up and now >= due:
                if not idle:
                    raise Failed(f"port {port} can't keep up with {rate:g} requests/s")
                connection = idle.popleft()
                connection.sendall(request)
                busy[connection] = (due, Reply())
                sent += 1
                continue
            # select() and not epoll: its timeout is in microseconds, epoll's in whole milliseconds.
            wait = due - now if sent < total + warm_up else 5.0
            for connection in select.select(list(busy), [], [], max(wait, 0.0))[0]:
                due_at, reply = busy[connection]
                if reply.feed(connection.recv(262_144)):
                    samples.append((time.perf_counter() - due_at) * 1000)
                    del busy[connection]
                    idle.append(connection)
    finally:
        for connection in [*idle, *busy]:
            connection.close()
    return Latencies(tuple(sorted(samples[warm_up:])))


def on_core(core: int, function: Callable[[], Latencies]) -> Latencies:
    """Run a client of this process on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return function()
    finally:
        os.sched_setaffinity(0, allowed)


def spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles over the median: how steady rounds were."""
    if len(values) < 2:
        return 0.0
    low, middle, high = quantiles(values, n=4)
    return (high - low) / 2 / middle
