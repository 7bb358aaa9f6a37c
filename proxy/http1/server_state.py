"""What all connections of one server share.

Invariant: a connection is in ``connections`` from its acceptance until its loss, and ``inflight`` counts the
requests that are with the application.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from optimizer.routing import Limits
from proxy.http1.budget import Budget
from proxy.http1.framing import date_header
from proxy.http1.messages import Application
from proxy.http1.request_head import Hosts, Targets
from proxy.http1.sweep import Sweeper

# How long a connection must have been quiet before it is closed although it may still be wanted: who was busy a
# moment ago is likely to have its next request on the way already.
QUIET_S = 1.0
# Connections over the limit are told so and linger; from this many on they are just cut.
_LINGERING = 512


class Connection(Protocol):
    """What the server does to a connection from outside."""

    deadline: float

    def expire(self, now: float) -> None:
        """The deadline passed."""

    def quiet_since(self) -> float:
        """When it last did something, on the server's clock; infinity while a request is open."""

    def close_quiet(self) -> None:
        """Close it, if no request is open on it."""

    def unsent(self) -> int:
        """Bytes in its write buffer."""

    def stop(self) -> bool:
        """End what is under way so that the client can tell; True if there was something."""

    def kill(self) -> bool:
        """Close now; True if a request was cut."""


class ServerState:
    """Shared by the connections of one server."""

    __slots__ = (
        "_full_until",
        "_loop",
        "app",
        "budget",
        "clock",
        "closing_replies",
        "connections",
        "date",
        "draining",
        "hosts",
        "inflight",
        "limits",
        "on_empty",
        "sweeper",
        "targets",
    )

    def __init__(
        self,
        app: Application,
        limits: Callable[[], Limits],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        self.app = app
        self.limits = limits
        self.clock = clock
        self.connections: set[Connection] = set()
        self.budget = Budget(limits().in_flight_bytes)
        self.inflight = 0
        self.draining = False
        self.closing_replies = False
        self.targets = Targets()
        self.hosts = Hosts()
        self.date = date_header(time.time())
        self.on_empty: Callable[[], None] | None = None
        self._full_until = 0.0
        self._loop = loop
        self.sweeper = Sweeper(loop, clock, self._tick)

    def admit(self, connection: Connection) -> bool | None:
        """Count a new connection, which is tracked until it is lost.

        False if it is one too many, None if there are so many of those that it is not worth a word.
        """
        connections = self.connections
        if not connections:
            self.date = date_header(time.time())
        self.sweeper.start()
        connections.add(connection)
        allowed = self.limits().max_connections
        if len(connections) <= allowed or self._make_room():
            return True
        return False if len(connections) <= allowed + _LINGERING else None

    def _make_room(self) -> bool:
        """Close some of the longest quiet connections, several at once because looking for them costs."""
        soon = self.sweeper.soon
        if soon <= self._full_until:
            return False
        before = soon - QUIET_S
        since = [(c.quiet_since(), c) for c in self.connections]
        quiet = sorted([entry for entry in since if entry[0] <= before], key=lambda entry: entry[0])
        for _, connection in quiet[: 1 + len(since) // 32]:
            connection.close_quiet()
        if not quiet:
            self._full_until = soon
        return bool(quiet)

    def gone(self, connection: Connection) -> None:
        """Forget a lost connection."""
        self.connections.discard(connection)
        if not self.connections and self.on_empty is not None:
            self.on_empty()

    def make_room(self, wanted: int) -> bool:
        """Whether ``wanted`` more bytes of request bodies fit; slow readers are cut for them."""
        return self.budget.make_room(wanted, self.sweeper.soon)

    def report(self, error: BaseException, message: str) -> None:
        """Tell the loop's exception handler about a failure of the application."""
        self._loop.call_exception_handler({"message": message, "exception": error})

    def stop(self) -> None:
        """Stop the timer."""
        self.sweeper.stop()

    def _tick(self, now: float) -> bool:
        self.date = date_header(time.time())
        for connection in [c for c in self.connections if c.deadline <= now]:
            connection.expire(now)
        self.budget.look(self.limits().in_flight_bytes, now, self.connections)
        return bool(self.connections)
