"""One request to an upstream, from the caller's side.

Invariant: after ``cancel`` no sink callback ever comes, and the slot in the pool is free again at once, in
whichever phase the call was: waiting, connecting, sending, or receiving.
"""

from collections.abc import Callable
from typing import Protocol

from proxy.errors import Overloaded, UpstreamFault
from proxy.http1.messages import ReplySink

_PENDING_BYTES = 64 * 1024


class Carrier(Protocol):
    """The connection that a call is on."""

    def send_more(self, data: bytes) -> None:
        """Send more of a streamed body."""

    def body_ended(self) -> None:
        """A streamed body is complete: the wait for the reply begins."""

    def pause_reply(self) -> None:
        """Stop reading the reply."""

    def resume_reply(self) -> None:
        """Read the reply again."""

    def discard(self) -> None:
        """Close, at once."""

    def move_cutoff(self, cutoff: float) -> None:
        """From now on the call must end by then."""


class Exchange(Protocol):
    """The pool that a call belongs to."""

    def withdraw(self, call: "Call") -> None:
        """The call no longer waits or connects."""

    def bound_call(self, call: "Call", bound: tuple[str, float] | None) -> None:
        """Set the call's cutoff: the earlier of the origin's total and ``bound`` seconds from now."""


class Call:
    """Handle of one request; see the module.

    ``connect_ms`` is the time that making a connection took (0 when one was reused), ``reused`` whether
    it was reused. ``on_pause`` / ``on_resume`` may be set for streamed bodies: the upstream takes them
    slower than they are written. ``cutoff`` is when it fails whatever happens, on the pool's clock, and ``bound`` the
    name and the seconds of the deadline behind it.
    """

    __slots__ = (
        "_paused",
        "began",
        "body",
        "bound",
        "carrier",
        "chunked",
        "connect_ms",
        "cutoff",
        "done",
        "ended",
        "exchange",
        "head",
        "head_only",
        "on_pause",
        "on_resume",
        "retry",
        "reused",
        "sink",
        "streamed",
    )

    def __init__(
        self, exchange: Exchange, head: bytes, body: bytes, sink: ReplySink, *, retry: bool, streamed: bool
    ) -> None:
        self.exchange = exchange
        self.head = head
        self.body: bytes | bytearray = body
        self.sink = sink
        self.retry = retry
        self.streamed = streamed
        self.ended = not streamed
        self.chunked = False
        self.head_only = head.startswith(b"HEAD ")
        self.carrier: Carrier | None = None
        self.began = 0.0
        self.cutoff = 0.0
        self.bound = ("total", 0.0)
        self.done = False
        self.connect_ms = 0.0
        self.reused = False
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self._paused = False

    def cancel(self) -> None:
        """Give up: closes the connection, or leaves the queue. No callback comes afterwards."""
        if self.done:
            return
        self.done = True
        carrier = self.carrier
        if carrier is not None:
            self.carrier = None
            carrier.discard()
        else:
            self.exchange.withdraw(self)

    def limit(self, bound: tuple[str, float] | None) -> None:
        """Replace the deadline given to ``send``: ``bound`` seconds from now, or only the origin's own."""
        if self.done:
            return
        self.exchange.bound_call(self, bound)
        if self.carrier is not None:
            self.carrier.move_cutoff(self.cutoff)

    def pause(self) -> None:
        """Stop reading the reply (the caller's client is slow); the idle deadline rests."""
        if self.carrier is not None:
            self.carrier.pause_reply()

    def resume(self) -> None:
        """Read the reply again."""
        if self.carrier is not None:
            self.carrier.resume_reply()

    def write(self, data: bytes) -> None:
        """Send a piece of a body opened with ``Pool.open``, chunk-framed if its head said so."""
        if self.done or self.ended or not data:
            return
        if self.chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._send(data)

    def end(self) -> None:
        """The streamed body is complete."""
        if self.done or self.ended:
            return
        if self.chunked:
            self._send(b"0\r\n\r\n")
        self.ended = True
        if self.carrier is not None:
            self.carrier.body_ended()

    def fail(self, fault: UpstreamFault | Overloaded) -> None:
        """Engine only: tell the sink that there will be no reply."""
        if not self.done:
            self.done = True
            self.carrier = None
            self.sink.reply_failed(fault)

    def connected(self) -> None:
        """Engine only: what was written before there was a connection has been handed over."""
        self.body = b""
        if self._paused:
            self._paused = False
            self.upload_resumed()

    def upload_paused(self) -> None:
        """Engine only: the upstream takes the body slower than it is written."""
        if self.streamed and self.on_pause is not None and not self.done:
            self.on_pause()

    def upload_resumed(self) -> None:
        """Engine only: the upstream caught up."""
        if self.streamed and self.on_resume is not None and not self.done:
            self.on_resume()

    def _send(self, data: bytes) -> None:
        if self.carrier is not None:
            self.carrier.send_more(data)
            return
        if not isinstance(self.body, bytearray):
            self.body = bytearray(self.body)
        self.body += data
        if len(self.body) > _PENDING_BYTES and not self._paused:
            self._paused = True
            self.upload_paused()
