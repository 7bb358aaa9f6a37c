"""Connections to one upstream, shared by its calls.

Invariant: connections plus connection attempts never exceed ``max_connections``, and each is accounted for
from the moment it is begun until it is closed; who finds no slot waits in a bounded line. Idle connections
are reused last in, first out, so that the spare ones age and are closed.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from proxy.errors import ConnectFault, Overloaded, TimeoutFault, UpstreamFault
from proxy.http1.call import Call
from proxy.http1.client_connection import ClientConnection
from proxy.http1.connect import connect
from proxy.http1.messages import ReplySink
from proxy.http1.origin import Origin
from proxy.http1.sweep import Sweeper

__all__ = ["Call", "Origin", "Pool", "ReplySink"]

_NEVER = float("inf")
_LEAST_WAITING = 16


class _Attempt:
    """A connection being made for a call."""

    __slots__ = ("connection", "deadline", "task")

    def __init__(self, connection: ClientConnection, task: "asyncio.Task[None]", deadline: float) -> None:
        self.connection = connection
        self.task = task
        self.deadline = deadline


class Pool:
    """Sends requests to one origin.

    ``made`` counts connections made, ``reused`` requests that went out on one that had carried others.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.origin = origin
        self.loop = loop or asyncio.get_running_loop()
        self.made = 0
        self.reused = 0
        self._clock = clock
        self.sweeper = Sweeper(self.loop, clock, self._tick)
        self._connections: set[ClientConnection] = set()
        self._idle: list[ClientConnection] = []
        self._attempts: dict[Call, _Attempt] = {}
        self._waiting: OrderedDict[Call, float] = OrderedDict()
        self._rewrites_heads = origin.proxy is not None
        self._max_waiting = max(_LEAST_WAITING, origin.max_connections)
        self._leaving: set[asyncio.Task[None]] = set()  # cancelled attempts that still unwind
        self._closed = False

    @property
    def idle(self) -> int:
        """Open connections without a request."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections with a request, and those being made."""
        return len(self._connections) - len(self._idle) + len(self._attempts)

    @property
    def waiting(self) -> int:
        """Calls without a slot."""
        return len(self._waiting)

    def send(
        self,
        head: bytes,
        body: bytes,
        sink: ReplySink,
        *,
        idempotent_retry: bool = True,
        bound: tuple[str, float] | None = None,
    ) -> Call:
        """Send a whole request. ``head`` is complete, including the empty line at its end.

        ``bound``, a name and seconds from now, is a deadline beside the origin's own; see ``Call.limit``.

        The sink is never called before this returns. ``idempotent_retry``: if a reused connection closes
        before any byte of a reply, the request is sent once more on a fresh one (the upstream closed it
        while it was idle).
        """
        if self._rewrites_heads:
            head = self.origin.head(head)
        call = Call(self, head, body, sink, retry=idempotent_retry, streamed=False)
        self._place(call, bound)
        return call

    def open(self, head: bytes, sink: ReplySink) -> Call:
        """Send a request whose body follows by ``call.write`` and ``call.end``.

        ``head`` declares ``content-length``, or ``transfer-encoding: chunked``, which the call then applies.
        """
        call = Call(self, self.origin.head(head), b"", sink, retry=False, streamed=True)
        call.chunked = b"\r\ntransfer-encoding: chunked\r\n" in head.lower()
        self._place(call, None)
        return call

    def close(self) -> None:
        """Close idle connections and fail what waits; calls under way go on, then their connections close."""
        self._closed = True
        for connection in list(self._idle):
            connection.discard()
        while self._waiting:
            call, _ = self._waiting.popitem(last=False)
            call.fail(Overloaded("The upstream's pool was closed."))

    def abort(self) -> None:
        """Close everything now; calls under way fail."""
        self.close()
        for connection in list(self._connections):
            connection.cut()
        for call in list(self._attempts):
            self._give_up(call)
            call.fail(Overloaded("The upstream's pool was closed."))
        self.sweeper.stop()

    # Home and Exchange

    def release(self, connection: ClientConnection) -> None:
        """Give the connection to who waits, or keep it."""
        if self._waiting:
            call, _ = self._waiting.popitem(last=False)
            self.reused += 1
            connection.start(call)
        elif self._closed:
            connection.discard()
        else:
            connection.deadline = self.sweeper.soon + self.origin.keepalive_s
            self._idle.append(connection)

    def forget(self, connection: ClientConnection) -> None:
        """The connection's slot is free."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._fill()

    def again(self, call: Call) -> None:
        """Send the call on a fresh connection."""
        if self._slots_taken() < self.origin.max_connections:
            self._attempt(call)
        else:
            self._waiting[call] = self._wait_deadline()
            self._waiting.move_to_end(call, last=False)

    def withdraw(self, call: Call) -> None:
        """A call that waits or connects is cancelled."""
        if self._waiting.pop(call, None) is None:
            self._give_up(call)
            self._fill()

    def bound_call(self, call: Call, bound: tuple[str, float] | None) -> None:
        """Set when the call must end: by the origin's total, counted from its start, or by ``bound`` from now."""
        total_s = self.origin.total_s
        call.cutoff = _NEVER
        if total_s is not None:
            call.cutoff, call.bound = call.began + total_s, ("total", total_s)
        if bound is not None and self.sweeper.soon + bound[1] < call.cutoff:
            call.cutoff, call.bound = self.sweeper.soon + bound[1], bound

    # inside

    def _place(self, call: Call, bound: tuple[str, float] | None) -> None:
        origin = self.origin
        if not self._connections:
            self.sweeper.start()
        call.began = self.sweeper.soon
        self.bound_call(call, bound)
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable():
                self.reused += 1
                connection.start(call)
                return
            self._connections.discard(connection)
        if self._closed:
            self.loop.call_soon(call.fail, Overloaded("The upstream's pool was closed."))
        elif self._slots_taken() < origin.max_connections:
            self._attempt(call)
        elif len(self._waiting) < self._max_waiting:
            self._waiting[call] = self._wait_deadline()
        else:
            self.loop.call_soon(
                call.fail, Overloaded(f"All {origin.max_connections} connections to the upstream are busy.")
            )

    def _wait_deadline(self) -> float:
        return self.sweeper.soon + self.origin.connect_s + self.origin.first_byte_s

    def _slots_taken(self) -> int:
        return len(self._connections) + len(self._attempts)

    def _fill(self) -> None:
        """Free slots go to who waits."""
        while self._waiting and self._slots_taken() < self.origin.max_connections:
            call, _ = self._waiting.popitem(last=False)
            self._attempt(call)

    def _attempt(self, call: Call) -> None:
        self.sweeper.start()
        connection = ClientConnection(self)
        task = self.loop.create_task(self._connect(call, connection))
        self._attempts[call] = _Attempt(connection, task, self.sweeper.soon + self.origin.connect_s)

    async def _connect(self, call: Call, connection: ClientConnection) -> None:
        began = self._clock()
        try:
            await connect(self.loop, self.origin, lambda: connection)
        except UpstreamFault as fault:
            self._failed(call, fault)
        except Exception as error:  # noqa: BLE001  # e.g. a TLS library's own errors: the slot must be freed
            self._failed(call, ConnectFault(f"No connection to the upstream: {type(error).__name__}."))
        else:
            if self._attempts.pop(call, None) is None or not connection.usable():
                self._orphan(call, connection)
                return
            self.made += 1
            self._connections.add(connection)
            call.connect_ms = (self._clock() - began) * 1000.0
            connection.start(call)

    def _orphan(self, call: Call, connection: ClientConnection) -> None:
        """Connected, but nobody wants it any more, or it is gone again already."""
        if connection.transport is not None:
            connection.transport.abort()
        self._fill()
        call.fail(ConnectFault("The upstream closed the connection at once."))

    def _failed(self, call: Call, fault: UpstreamFault) -> None:
        if self._attempts.pop(call, None) is not None:
            self._fill()
            call.fail(fault)

    def _give_up(self, call: Call) -> None:
        """Abandon a connection attempt; its slot is free at once, its task unwinds by itself."""
        attempt = self._attempts.pop(call, None)
        if attempt is None:
            return
        self._leaving.add(attempt.task)
        attempt.task.add_done_callback(self._leaving.discard)
        attempt.task.cancel()
        if attempt.connection.transport is not None:
            attempt.connection.transport.abort()

    def _tick(self, now: float) -> bool:
        for connection in [c for c in self._connections if c.deadline <= now or c.cutoff <= now]:
            connection.expire(now)
        origin = self.origin
        for call in [c for c, a in self._attempts.items() if a.deadline <= now or c.cutoff <= now]:
            self._give_up(call)
            self._fill()
            if call.cutoff <= now:
                call.fail(TimeoutFault(*call.bound))
            else:
                call.fail(TimeoutFault("connect", origin.connect_s))
        for call in [c for c, deadline in self._waiting.items() if deadline <= now or c.cutoff <= now]:
            del self._waiting[call]
            if call.cutoff <= now:
                call.fail(TimeoutFault(*call.bound))
            else:
                call.fail(Overloaded("No connection to the upstream became free in time."))
        return bool(self._connections or self._attempts or self._waiting)
