"""What all connections of one server share.

Invariant: a connection is in ``connections`` from its acceptance until its loss, and ``inflight`` counts the
requests that are with the application.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from optimizer.routing import Limits
from proxy.http1.framing import date_header
from proxy.http1.messages import Application
from proxy.http1.request_head import Hosts, Targets
from proxy.http1.sweep import Sweeper


class Connection(Protocol):
    """What the server does to a connection from outside."""

    deadline: float

    def expire(self, now: float) -> None:
        """The deadline passed."""

    def drain(self) -> None:
        """Close as soon as nothing is in flight."""

    def kill(self) -> bool:
        """Close now; True if a request was cut."""


class ServerState:
    """Shared by the connections of one server."""

    __slots__ = (
        "_loop",
        "app",
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
        self.inflight = 0
        self.draining = False
        self.closing_replies = False
        self.targets = Targets()
        self.hosts = Hosts()
        self.date = date_header(time.time())
        self.on_empty: Callable[[], None] | None = None
        self._loop = loop
        self.sweeper = Sweeper(loop, clock, self._tick)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False if it is one too many (it is still tracked until it is lost)."""
        if not self.connections:
            self.date = date_header(time.time())
        self.sweeper.start()
        self.connections.add(connection)
        return len(self.connections) <= self.limits().max_connections and not self.draining

    def gone(self, connection: Connection) -> None:
        """Forget a lost connection."""
        self.connections.discard(connection)
        if not self.connections and self.on_empty is not None:
            self.on_empty()

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
        return bool(self.connections)
