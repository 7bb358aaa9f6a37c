"""One connection to an upstream: a request out, its reply in, then back to the pool or closed.

Invariant: a connection goes back to the pool only if the reply ended by its own framing, both sides agreed to
keep it, the whole request was sent, and not one byte came after the reply. Anything else closes it: a
connection whose state is in doubt could hand one caller another's reply.
"""

import asyncio
from typing import Any, Protocol, cast

import httptools

from proxy.errors import ProtocolFault, ResetFault, TimeoutFault, UpstreamFault
from proxy.http1.call import Call
from proxy.http1.framing import SEPARATE_WRITE_BYTES
from proxy.http1.origin import Origin
from proxy.http1.sweep import Sweeper

MAX_HEAD_BYTES = 64 * 1024
_NEVER = float("inf")


class Home(Protocol):
    """The pool, as its connections see it."""

    origin: Origin
    loop: asyncio.AbstractEventLoop

    sweeper: Sweeper

    def release(self, connection: "ClientConnection") -> None:
        """The connection can carry another request."""

    def forget(self, connection: "ClientConnection") -> None:
        """The connection is closed or closing; its slot is free."""

    def again(self, call: Call) -> None:
        """Try the call on a fresh connection."""


class ClientConnection(asyncio.Protocol):
    """Protocol of a connection to an upstream.

    ``deadline`` (first byte, idle, keep-alive) and ``cutoff`` (total) are watched by the pool's sweep.
    """

    __slots__ = (
        "_call",
        "_complete",
        "_crash",
        "_delivered",
        "_extra",
        "_fresh",
        "_head_done",
        "_headers",
        "_home",
        "_keep",
        "_large",
        "_parser",
        "_quiet",
        "_reading_paused",
        "_unsent",
        "_write_paused",
        "cutoff",
        "deadline",
        "transport",
    )

    def __init__(self, home: Home) -> None:
        self.transport: asyncio.Transport | None = None
        self.deadline = _NEVER
        self.cutoff = _NEVER
        self._home = home
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self._call: Call | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._fresh = True  # carried no request before
        self._head_done = False
        self._complete = False
        self._keep = False
        self._extra = False  # something came after the reply
        self._delivered = False  # the sink got something in this read
        self._quiet = 0  # bytes since the sink last got something
        self._large = False
        self._crash: Exception | None = None
        self._reading_paused = False
        self._write_paused = False
        self._unsent = 0

    # asyncio callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio callback."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio callback: the end of a close-delimited reply, a keep-alive race, or a fault."""
        call = self._call
        self._call = None
        self._home.forget(self)
        del self._parser
        if call is None:
            return
        if not self._head_done:
            if self._quiet == 0 and call.retry and call.reused:
                call.retry = False
                call.carrier = None
                self._home.again(call)
                return
            call.fail(ResetFault("The upstream closed the connection before it replied."))
        elif exc is None and not self._keep and self._until_close():
            self._finish(call)
        else:
            call.fail(ResetFault("The upstream closed the connection in the middle of its reply."))

    def data_received(self, data: bytes) -> None:
        """asyncio callback."""
        if self._call is None:
            self.discard()  # nobody asked
            return
        self._delivered = False
        if not self._head_done and len(data) + self._quiet > MAX_HEAD_BYTES:
            self._large = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broken(error)
            return
        if self._complete:
            self._ended()
        elif self._delivered:
            self._quiet = 0
            call = self._call
            if call is not None:
                if not self._reading_paused:
                    self.deadline = self._home.sweeper.soon + self._home.origin.idle_s
                try:
                    call.sink.reply_flush()
                except Exception as error:  # noqa: BLE001  # a failing sink must not take the pool's state along
                    self._crashed(error)
        else:
            self._quiet += len(data)
            if self._quiet > MAX_HEAD_BYTES:
                self._fail(
                    ProtocolFault("The upstream's reply head, trailers or chunk framing is too large.")
                )

    def pause_writing(self) -> None:
        """asyncio callback: the upstream takes the request slower than we send it."""
        self._write_paused = True
        call, transport = self._call, self.transport
        if call is not None and transport is not None:
            if not call.ended:
                self._unsent = transport.get_write_buffer_size()
                self.deadline = self._home.sweeper.soon + self._home.origin.idle_s
            call.upload_paused()

    def resume_writing(self) -> None:
        """asyncio callback."""
        self._write_paused = False
        call = self._call
        if call is not None:
            if not call.ended and not self._head_done:
                self.deadline = _NEVER
            call.upload_resumed()

    # the pool

    def start(self, call: Call) -> None:
        """Send a request. The connection must be idle."""
        home, origin, transport = self._home, self._home.origin, self.transport
        assert transport is not None
        self._call = call
        call.carrier = self
        call.reused = not self._fresh
        self._fresh = False
        self.cutoff = call.cutoff
        body = call.body
        if len(body) < SEPARATE_WRITE_BYTES:
            transport.write(call.head + body)
        else:
            transport.writelines((call.head, body))
        if call.ended:
            self._unsent = 0
            self.deadline = home.sweeper.soon + origin.first_byte_s
        elif not self._write_paused:
            self.deadline = _NEVER
        if call.streamed:
            call.connected()

    def usable(self) -> bool:
        """Whether an idle connection is still open, as far as is known."""
        return self.transport is not None and not self.transport.is_closing()

    def expire(self, now: float) -> None:
        """A deadline passed."""
        call, transport, origin = self._call, self.transport, self._home.origin
        if call is None or transport is None:
            self.discard()
            return
        if self.cutoff <= now:
            self._fail(TimeoutFault(*call.bound))
            return
        unsent = transport.get_write_buffer_size()
        if unsent and unsent != self._unsent and not self._head_done:
            # a large request that still makes progress
            self._unsent = unsent
            self.deadline = now + (origin.first_byte_s if call.ended else origin.idle_s)
        elif self._head_done or not call.ended:
            self._fail(TimeoutFault("idle", origin.idle_s))
        else:
            self._fail(TimeoutFault("first_byte", origin.first_byte_s))

    def cut(self) -> None:
        """Close now; the call fails."""
        self._fail(ResetFault("The connection to the upstream was closed by the proxy."))

    # Carrier

    def send_more(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self.transport is not None:
            self.transport.write(data)

    def body_ended(self) -> None:
        """The streamed body is complete."""
        if not self._head_done:
            self._unsent = 0
            self.deadline = self._home.sweeper.soon + self._home.origin.first_byte_s

    def pause_reply(self) -> None:
        """Stop reading; the idle deadline rests."""
        if not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            if self._head_done:
                self.deadline = _NEVER
            self.transport.pause_reading()

    def resume_reply(self) -> None:
        """Read again."""
        if self._reading_paused and self.transport is not None:
            self._reading_paused = False
            if self._head_done:
                self.deadline = self._home.sweeper.soon + self._home.origin.idle_s
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def move_cutoff(self, cutoff: float) -> None:
        """The call's own deadline was replaced."""
        self.cutoff = cutoff

    def discard(self) -> None:
        """Close at once; nobody is told."""
        self._call = None
        self.deadline = self.cutoff = _NEVER
        if self.transport is not None:
            self.transport.abort()
        self._home.forget(self)

    # llhttp callbacks

    def on_message_begin(self) -> None:
        """llhttp callback: also the first byte after a complete reply."""
        if self._complete:
            self._extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp callback; trailers are dropped."""
        if not self._head_done:
            self._headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        """llhttp callback."""
        call = self._call
        if call is None or self._complete:
            return
        parser = self._parser
        status = parser.get_status_code()
        headers, self._headers = self._headers, []
        if status < 200:
            if status < 100 or status == 101:
                self._refuse(f"The upstream sent status {status}.")
            return
        if self._large and sum([len(n) + len(v) + 4 for n, v in headers]) > MAX_HEAD_BYTES:
            self._refuse("The upstream's reply head is too large.")
        self._head_done = self._delivered = True
        call.body = b""  # it will not be sent again, and the reply may take minutes
        self._keep = keep = parser.should_keep_alive()
        if not keep:
            self._headers = headers
        codings = 0
        for name, value in headers:
            if len(name) == 17 and name == b"transfer-encoding":
                codings += 1
                if codings > 1 or value.lower() != b"chunked":
                    self._refuse("The upstream used a transfer coding other than chunked.")
        try:
            call.sink.reply_head(status, headers)
        except Exception as error:
            self._crash = error
            raise
        if call.head_only:
            self._complete = True

    def on_body(self, data: bytes) -> None:
        """llhttp callback."""
        call = self._call
        if call is None:
            return
        if self._complete:
            self._extra = True
            return
        self._delivered = True
        try:
            call.sink.reply_body(data)
        except Exception as error:
            self._crash = error
            raise

    def on_message_complete(self) -> None:
        """llhttp callback; also after a 1xx."""
        if self._head_done:
            self._complete = True

    # inside

    def _ended(self) -> None:
        """A reply ended by its own framing."""
        call, transport = self._call, self.transport
        self._call = None
        if call is None or transport is None:
            return
        reusable = self._keep and not self._extra and call.ended and transport.get_write_buffer_size() == 0
        if not reusable:
            self.discard()
        else:
            if call.head_only:
                self._parser = httptools.HttpResponseParser(self)
            if self._reading_paused:
                self._reading_paused = False
                transport.resume_reading()
            self._head_done = self._complete = self._large = False
            self._quiet = 0
            self.cutoff = _NEVER
            self._home.release(self)
        self._finish(call)

    def _finish(self, call: Call) -> None:
        call.carrier = None
        call.done = True
        try:
            call.sink.reply_end()
        except Exception as error:  # noqa: BLE001  # a failing sink must not take the pool's state along
            self._report(error)

    def _until_close(self) -> bool:
        """Whether the reply's body is delimited by the end of the connection."""
        return not any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    def _refuse(self, reason: str) -> None:
        self._crash = ProtocolFault(reason)
        raise self._crash

    def _broken(self, error: httptools.HttpParserError) -> None:
        crash = self._crash
        if self._call is None:
            self.discard()
        elif self._complete:
            self._extra = True
            self._ended()
        elif isinstance(crash, ProtocolFault):
            self._fail(crash)
        elif crash is not None:
            self._crashed(crash)
        else:
            self._fail(ProtocolFault(f"The upstream's reply is not valid HTTP/1.1: {error}."))

    def _fail(self, fault: UpstreamFault) -> None:
        call = self._call
        self.discard()
        if call is not None:
            try:
                call.fail(fault)
            except Exception as error:  # noqa: BLE001  # a failing sink must not take the pool's state along
                self._report(error)

    def _crashed(self, error: Exception) -> None:
        """The sink itself failed: our mistake, but the caller still needs an end."""
        self._report(error)
        self._fail(ResetFault("The reply could not be relayed."))

    def _report(self, error: Exception) -> None:
        context: dict[str, Any] = {"message": "a ReplySink failed", "exception": error}
        self._home.loop.call_exception_handler(context)
