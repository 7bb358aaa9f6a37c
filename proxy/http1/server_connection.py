"""One client connection: bytes in, requests to the application, replies out in order.

Invariant: at most one request is with the application at a time. While it is, nothing more is parsed except
its own streamed body: further bytes are kept aside (bounded, then reading pauses). llhttp can't stop inside
a read, so reads are fed in pieces of ``_PIECE`` bytes while a head or chunked body is open: what was parsed
ahead is bounded by one piece.

A body must keep coming: besides its total time it is held to a least rate, looked at in windows.

A client that closes its sending side counts as gone: it can't be told apart from one that left, and the
upstream request that it caused costs money.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from proxy.errors import Overloaded, ProxyError
from proxy.http1 import framing
from proxy.http1.framing import Refused
from proxy.http1.request_reader import RequestReader
from proxy.http1.responder import HttpResponder
from proxy.http1.server_state import QUIET_S, ServerState

_PIECE = 4096
_HELD_BYTES = 256 * 1024
_LINGER_S = 2.0
_BODY_WINDOW_S = 10.0
_BODY_WINDOW_BYTES = 5_000
_NEVER = float("inf")

_UNKNOWN, _FRESH, _IDLE, _HEAD, _BODY, _BUSY, _CLOSING = range(7)


class ServerConnection(asyncio.Protocol):
    """Protocol of an accepted connection; see the module. ``deadline`` is looked at by the server's sweep."""

    __slots__ = (
        "_advancing",
        "_body_received",
        "_body_until",
        "_current",
        "_feeding",
        "_held",
        "_phase",
        "_queue",
        "_reader",
        "_reading_paused",
        "_refusal",
        "_unsent",
        "_write_paused",
        "deadline",
        "state",
        "transport",
    )

    def __init__(self, state: ServerState) -> None:
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.deadline = _NEVER
        self.state = state
        self._reader: RequestReader = cast("RequestReader", None)
        self._current: HttpResponder | None = None  # with the application
        self._queue: deque[HttpResponder] = deque()  # parsed ahead
        self._held = bytearray()  # received, not parsed
        self._refusal: ProxyError | None = None  # to be sent after the replies before it
        self._feeding = False
        self._advancing = False
        self._reading_paused = False
        self._write_paused = False
        self._unsent = 0
        self._body_received = 0  # at the last look
        self._body_until = _NEVER
        self._phase = _FRESH

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio callback."""
        self.transport = cast("asyncio.Transport", transport)
        state = self.state
        peer = transport.get_extra_info("peername")
        self._reader = RequestReader(self, state, peer[0] if isinstance(peer, tuple) else "unix")
        admitted = state.admit(self)
        if admitted:
            self.deadline = state.sweeper.soon + (QUIET_S if state.draining else state.limits().header_s)
        elif admitted is None:
            self._phase = _CLOSING
            self.transport.abort()
        else:
            body = framing.too_many_connections()
            self._end_with(framing.error_reply(503, body, state.date, state.app.refusal_headers()))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio callback."""
        state = self.state
        state.gone(self)
        self._phase = _CLOSING
        self.deadline = _NEVER
        self._reader.close()
        self._drop_waiting()
        if self._write_paused:
            state.budget.caught_up(self)
        if self._current is not None:
            self._abandon(self._current)

    def data_received(self, data: bytes) -> None:
        """asyncio callback."""
        if self._phase == _CLOSING:
            return
        if (self._current is not None and self._reader.incoming is None) or self._held or self._write_paused:
            self._hold(data)
        elif len(data) <= _PIECE:
            self._feed(data)
        else:
            self._feed_in_pieces(data)

    def pause_writing(self) -> None:
        """asyncio callback."""
        self._write_paused = True
        state = self.state
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = state.sweeper.soon + state.limits().write_stall_s
        state.budget.slow(self, state.sweeper.soon)
        current = self._current
        if current is not None and current.listener is not None:
            self._guarded(current.listener.client_paused)

    def resume_writing(self) -> None:
        """asyncio callback."""
        self._write_paused = False
        self.state.budget.caught_up(self)
        if self._phase == _CLOSING:
            return
        self._phase = _UNKNOWN
        self._settle()
        current = self._current
        if current is None:
            self._advance()
        elif current.listener is not None:
            self._guarded(current.listener.client_resumed)

    # Receiver

    def request_ready(self, responder: HttpResponder) -> None:
        """Handle it now, or when those before it are answered."""
        if self._current is None and not self._write_paused:
            if self._phase != _CLOSING:
                self._begin(responder)
            elif responder.held:
                responder.let_go(self)
        else:
            self._queue.append(responder)

    def stream_body(self, responder: HttpResponder, data: bytes) -> None:
        """Pass on, or keep until its turn (bounded by one piece)."""
        if responder is not self._current:
            responder.early += data
        elif responder.listener is not None:
            self._guarded(responder.listener.client_body, data)

    def stream_end(self, responder: HttpResponder) -> None:
        """Pass on; for a queued request ``_begin`` does it."""
        if responder is self._current and responder.listener is not None:
            self._guarded(responder.listener.client_end)

    # Line

    def finished(self, responder: HttpResponder) -> None:
        """The reply is written: go on with what waits, or close."""
        self._detach(responder)
        if not responder.keep or self.state.closing_replies:
            # A stream that began before the drain could not say so in its head.
            self._close(linger=responder.body_open or bool(self._held) or responder.keep)
            return
        if self._reading_paused:
            self._resume_reading()
        if self._feeding or self._advancing:
            return
        if self._queue or self._held or self._refusal is not None or self._reader.awaits_continue:
            self._advance()
        else:
            self._settle()

    def cut(self, responder: HttpResponder) -> None:
        """The reply stays incomplete: close after what was written."""
        self._detach(responder)
        self._close(linger=False)

    def pause_body(self) -> None:
        """Stop reading; the body deadline does not run meanwhile."""
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
            self.deadline = _NEVER

    def resume_body(self) -> None:
        """Read again, with a fresh body deadline."""
        if self._reading_paused:
            self._resume_reading()
            self._phase = _UNKNOWN
            self._settle()

    # the server

    def expire(self, now: float) -> None:
        """The deadline passed."""
        phase = self._phase
        if self._write_paused or phase == _CLOSING:
            unsent = self.transport.get_write_buffer_size()
            if 0 < unsent != self._unsent:
                self._unsent = unsent
                self.deadline = now + self.state.limits().write_stall_s
            else:
                self.transport.abort()
        elif phase == _BODY and now < self._body_until and self._body_goes_on():
            self.deadline = min(self._body_until, now + _BODY_WINDOW_S)
        elif phase in (_HEAD, _BODY):
            what = "head" if phase == _HEAD else "body"
            self._refuse(Refused(408, f"The request {what} took too long to arrive.", "request_timeout"))
        elif phase in (_FRESH, _IDLE):
            self._close(linger=self.state.draining)
        else:
            self.deadline = _NEVER

    def quiet_since(self) -> float:
        """When the last request was over, or the connection was made; infinity while a request is open."""
        if self._phase == _IDLE:
            return self.deadline - self.state.limits().keepalive_s
        return self.deadline - self.state.limits().header_s if self._phase == _FRESH else _NEVER

    def close_quiet(self) -> None:
        """Close if no request is open. With a half-close: a request that crosses it is not reset."""
        if self._phase in (_FRESH, _IDLE):
            self._close(linger=True)

    def unsent(self) -> int:
        """Bytes in the write buffer."""
        return self.transport.get_write_buffer_size()

    def stop(self) -> bool:
        """End what is under way so that the client can tell; True if there was something."""
        if self._phase == _CLOSING:
            if not self.unsent():
                self.transport.abort()
            return False
        current, stopping = self._current, Overloaded("The proxy is being stopped. Send the request again.")
        if current is not None:
            if current.listener is not None:
                self._guarded(current.listener.server_stopping)
            if self._current is current:
                current.refuse(stopping)
            return True
        if self._reader.request is not None:
            self._refuse(stopping)
            return True
        self._close(linger=False)
        return False

    def kill(self) -> bool:
        """Close at once; True if a request or a reply was cut."""
        cut = self._current is not None or self._reader.request is not None or self.unsent() > 0
        self.transport.abort()
        return cut

    # inside

    def _feed(self, data: bytes) -> None:
        self._feeding = True
        error = self._reader.feed(data)
        self._feeding = False
        if error is not None:
            self._refuse(error)
        elif self._current is None or self._reader.request is not None:
            self._after_feed()

    def _after_feed(self) -> None:
        if self._phase == _CLOSING:
            return
        if self._reader.awaits_continue:
            self._continue()
        if self._current is None and self._queue:
            self._advance()
        self._settle()

    def _feed_in_pieces(self, data: bytes) -> None:
        at, size = 0, len(data)
        reader = self._reader
        while at < size and self._phase != _CLOSING:
            if (self._current is not None and reader.incoming is None) or self._write_paused:
                self._hold(data[at:])
                return
            step = max(reader.missing(), _PIECE)
            self._feed(data[at : at + step])
            at += step

    def _hold(self, data: bytes) -> None:
        reader = self._reader
        if self._refusal is not None or (reader.last and reader.request is None):
            return
        self._held += data
        self.state.budget.bodies += len(data)
        if len(self._held) > _HELD_BYTES and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _begin(self, responder: HttpResponder) -> None:
        self._current = responder
        self._phase = _BUSY
        self.deadline = _NEVER
        state = self.state
        state.inflight += 1
        try:
            if responder.declined:
                responder.decline()
            elif responder.verdict is None:
                state.app.handle(responder.request, responder)
            else:
                responder.refuse(responder.verdict)
        except ProxyError as error:
            responder.refuse(error)
        except Exception as error:  # noqa: BLE001  # the application failed: the client gets a 500, not silence
            state.report(error, "Application.handle failed")
            responder.refuse(ProxyError("Internal error."))
        if responder.early:
            early, responder.early = responder.early, b""
            self.stream_body(responder, early)
        if responder.streams and not responder.body_open and self._reader.incoming is not responder:
            self.stream_end(responder)

    def _advance(self) -> None:
        """Take up what waited behind the reply that was just finished."""
        if self._advancing or self._feeding:
            return
        self._advancing = True
        try:
            while self._current is None and not self._write_paused and self._phase != _CLOSING:
                if self._queue:
                    self._begin(self._queue.popleft())
                elif self._refusal is not None:
                    self._refuse(self._refusal)
                elif self._held:
                    held = bytes(self._held)
                    self._drop_held()
                    if self._reading_paused:
                        self._resume_reading()
                    self._feed_in_pieces(held)
                else:
                    break
        finally:
            self._advancing = False
        if self._phase != _CLOSING:
            if self._reader.awaits_continue:
                self._continue()
            self._settle()

    def _settle(self) -> None:
        """Find out what the connection waits for now, and until when."""
        reader = self._reader
        current = self._current
        if current is not None:
            phase = _BODY if reader.incoming is current and current.body_open else _BUSY
        elif reader.request is not None:
            phase = _BODY
        elif (reader.fed or reader.url) and not reader.last:
            phase = _HEAD
        else:
            phase = _IDLE
        if self._phase in (phase, _CLOSING) or self._write_paused:
            return
        self._phase = phase
        if phase == _BUSY:
            self.deadline = _NEVER
            return
        limits, soon = self.state.limits(), self.state.sweeper.soon
        if phase == _BODY:
            self._body_until = soon + limits.body_s
            self._body_received = reader.received
            self.deadline = min(self._body_until, soon + _BODY_WINDOW_S)
        else:
            self.deadline = soon + (limits.keepalive_s if phase == _IDLE else limits.header_s)

    def _body_goes_on(self) -> bool:
        """Whether the body came fast enough since the last look."""
        before, self._body_received = self._body_received, self._reader.received
        return self._body_received - before >= _BODY_WINDOW_BYTES

    def _continue(self) -> None:
        reader, current = self._reader, self._current
        if current is not None and (current is not reader.incoming or current.started):
            return
        reader.awaits_continue = False
        if reader.untouched():
            self.transport.write(framing.CONTINUE)

    def _refuse(self, error: ProxyError) -> None:
        """Answer with an error after the replies that are due, and close."""
        reader = self._reader
        reader.last = True
        reader.abandon()
        incoming, reader.incoming = reader.incoming, None
        if incoming is not None:
            if incoming is not self._current:
                self._queue.remove(incoming)
            else:
                started = incoming.started
                self._abandon(incoming)
                if started:
                    self._close(linger=False)
                    return
        if self._current is not None or self._queue:
            self._refusal = error
            return
        state = self.state
        block = state.app.refusal_headers()
        self._end_with(framing.error_reply(error.status, error.body(), state.date, block))

    def _end_with(self, data: bytes) -> None:
        self.transport.write(data)
        self._close(linger=True)

    def _close(self, *, linger: bool) -> None:
        """Close once everything is written; ``linger`` while the client may still be sending, because
        closing with unread bytes would reset the connection and lose the reply."""
        self._phase = _CLOSING
        self._reader.abandon()
        self._drop_waiting()
        state = self.state
        if linger and self.transport.can_write_eof():
            self.deadline = state.sweeper.soon + _LINGER_S
            if self._reading_paused:
                self._resume_reading()
            self.transport.write_eof()
            return
        self.deadline = state.sweeper.soon + state.limits().write_stall_s
        self.transport.close()

    def _detach(self, responder: HttpResponder) -> None:
        responder.line = None
        self._current = None
        self.state.inflight -= 1
        if responder.held:
            responder.let_go(self)

    def _drop_waiting(self) -> None:
        """What came ahead of its turn will not be handled."""
        for responder in self._queue:
            if responder.held:
                responder.let_go(self)
        self._queue.clear()
        self._drop_held()

    def _drop_held(self) -> None:
        self.state.budget.bodies -= len(self._held)
        self._held.clear()

    def _resume_reading(self) -> None:
        self._reading_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _abandon(self, responder: HttpResponder) -> None:
        """The client is lost to this request: tell the application once."""
        self._detach(responder)
        if responder.listener is not None:
            self._guarded(responder.listener.client_gone)

    def _guarded(self, callback: Callable[..., None], *args: Any) -> None:
        responder = self._current
        try:
            callback(*args)
        except ProxyError as error:
            if responder is not None:
                responder.refuse(error)
        except Exception as error:  # noqa: BLE001  # a failing listener must not take the connection's state along
            self.state.report(error, "a Listener failed")
            if responder is not None:
                responder.refuse(ProxyError("Internal error."))
