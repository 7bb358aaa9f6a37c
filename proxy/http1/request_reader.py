"""From bytes to requests: the parsing half of a client connection, sans-io.

Invariant: what is kept of an unfinished message is bounded: a head by the line and header limits, a body by
``max_body_bytes``, chunk framing and trailers by an allowance over the body they carry. Trailers are dropped.
"""

from typing import NoReturn, Protocol

import httptools

from optimizer.routing import Limits
from proxy.errors import BodyTooLarge, Overloaded, ProxyError
from proxy.http1 import request_head
from proxy.http1.budget import DECLINED_BODY_BYTES, SPARED_BODY_BYTES
from proxy.http1.framing import Refused
from proxy.http1.messages import BodyMode, Request
from proxy.http1.responder import HttpResponder, Line
from proxy.http1.server_state import ServerState

_BUFFER = BodyMode.BUFFER
_STREAM = BodyMode.STREAM
_DECLINE = BodyMode.DECLINE
_MANY_PIECES = 256
_CHUNK_OVERHEAD_BYTES = 64 * 1024
_CHUNK_OVERHEAD_FACTOR = 8  # a chunk of one byte takes six


class Receiver(Line, Protocol):
    """What a reader tells its connection, from inside ``feed``."""

    def request_ready(self, responder: HttpResponder) -> None:
        """A request is to be handled, after those before it."""

    def stream_body(self, responder: HttpResponder, data: bytes) -> None:
        """Body of a streamed request."""

    def stream_end(self, responder: HttpResponder) -> None:
        """End of a streamed request's body."""


class _Halt(Exception):
    """Stops llhttp; the reason is in ``RequestReader._refusal``."""


class RequestReader:
    """Feeds one llhttp parser.

    ``request`` is the request whose body is still open, ``incoming`` its responder if it streams, ``last``
    says that no further request is accepted, ``awaits_continue`` that the client waits for ``100 Continue``.
    ``fed`` counts the bytes of the unfinished message, ``received`` those of its body, ``url`` is its target if its
    head is open.
    """

    __slots__ = (
        "_expected",
        "_gathered",
        "_headers",
        "_mode",
        "_parser",
        "_peer",
        "_pieces",
        "_receiver",
        "_refusal",
        "_resuming",
        "_spared",
        "_state",
        "_verdict",
        "awaits_continue",
        "fed",
        "incoming",
        "last",
        "received",
        "request",
        "url",
    )

    def __init__(self, receiver: Receiver, state: ServerState, peer: str) -> None:
        self._receiver = receiver
        self._state = state
        self._peer = peer
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self.url = b""
        self._headers: dict[bytes, bytes] = {}
        self.fed = 0  # bytes since the current message began
        self.received = 0  # body bytes of the current message
        self._expected = 0  # its content-length; -1 when chunked
        self._pieces: list[bytes] = []
        self._gathered = bytearray()
        self._mode = _BUFFER
        self._spared = False  # the body is taken however full the budget is
        self._verdict: ProxyError | None = None
        self._refusal: ProxyError | None = None
        self._resuming = False
        self.request: Request | None = None
        self.incoming: HttpResponder | None = None
        self.last = False
        self.awaits_continue = False

    def close(self) -> None:
        """Let go of what holds on to this object."""
        self.abandon()
        del self._parser
        del self._receiver
        self.last = True

    def abandon(self) -> None:
        """The unfinished request will not be finished."""
        if self.request is not None:
            self.request = None
            if self._mode is _BUFFER:
                self._state.budget.bodies -= self.received
                self._pieces.clear()
                self._gathered = bytearray()

    def missing(self) -> int:
        """Bytes of a body of known length that are still to come, else 0."""
        return self._expected - self.received if self.request is not None and self._expected > 0 else 0

    def untouched(self) -> bool:
        """Whether no byte of the open body has come."""
        return self.received == 0

    def feed(self, data: bytes) -> ProxyError | None:
        """Parse; a returned error ends the connection, after the replies to requests before it."""
        self.fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            return self._failure(error)
        return self._excess() if self.fed else None

    def on_url(self, url: bytes) -> None:
        """llhttp callback; may come in fragments."""
        if self._resuming:
            return
        self.url = self.url + url if self.url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp callback; trailers come here too."""
        if self.request is not None:
            return
        name = name.lower()
        headers = self._headers
        if name not in headers:
            headers[name] = value.strip()
            return
        try:
            request_head.add_repeated(headers, name, value.strip())
        except Refused as error:
            self._stop(error)

    def on_headers_complete(self) -> None:
        """llhttp callback."""
        if self._resuming:
            self._resuming = False
            return
        if self.last:
            raise _Halt  # it comes after one that said `connection: close`, and will not be answered
        try:
            self._accept()
        except ProxyError as error:
            self._stop(error)
        except Exception as error:  # noqa: BLE001  # the application failed: the client gets a 500, not silence
            self._state.report(error, "Application.body_mode failed")
            self._stop(ProxyError("Internal error."))

    def on_body(self, data: bytes) -> None:
        """llhttp callback."""
        size = len(data)
        self.received += size
        mode = self._mode
        if mode is not _BUFFER:
            if self._expected < 0 and self.received > self._state.limits().max_body_bytes:
                self._stop(BodyTooLarge(self._state.limits().max_body_bytes))
            if self.incoming is not None:
                self._receiver.stream_body(self.incoming, data)
            return
        budget = self._state.budget
        budget.bodies += size
        if self._expected < 0 and self.received > self._state.limits().max_body_bytes:
            self._stop(BodyTooLarge(self._state.limits().max_body_bytes))
        if budget.bodies > budget.ceiling and not self._spared and not self._state.make_room(0):
            self._stop(_too_much())
        pieces = self._pieces
        pieces.append(data)
        if len(pieces) >= _MANY_PIECES:
            # Joining once is cheapest, but a body in tiny chunks must not cost an object per chunk.
            self._gathered += b"".join(pieces)
            pieces.clear()

    def on_message_complete(self) -> None:
        """llhttp callback."""
        request = self.request
        if request is None or (self._expected and self._parser.should_upgrade()):
            return  # llhttp leaves out the body of an upgrade: _after_upgrade reads it
        self.request = None
        self.fed = 0
        if self._expected:
            self.awaits_continue = False
            request.body_at = self._state.clock()
        if self._mode is _STREAM:
            streaming = self.incoming
            self.incoming = None
            if streaming is not None:
                streaming.body_open = False
                self._receiver.stream_end(streaming)
            return
        pieces = self._pieces
        if pieces or self._gathered:
            request.body = pieces[0] if len(pieces) == 1 and not self._gathered else self._joined()
            pieces.clear()
        responder = HttpResponder(self._receiver, request, not self.last)
        if self._mode is _DECLINE:
            responder.declined = True
        elif self.received:
            responder.held = self.received
        if self._verdict is not None:
            responder.verdict = self._verdict
            self._verdict = None
        self._receiver.request_ready(responder)

    def _joined(self) -> bytes:
        body = b"".join((self._gathered, *self._pieces))
        self._gathered = bytearray()
        return body

    def _accept(self) -> None:
        """Check the head, ask the application what to do with the body."""
        state, parser = self._state, self._parser
        limits = state.limits()
        url, self.url = self.url, b""
        headers, self._headers = self._headers, {}
        minor = request_head.http_minor(parser.get_http_version())
        method = request_head.METHODS.get(parser.get_method())
        if method is None:
            raise Refused(501, "This method is not implemented.", "method_not_implemented")
        if self.fed > limits.max_line_bytes or self.fed > limits.max_header_bytes:
            request_head.check_size(url, headers, limits)
        if len(headers) > limits.max_headers:
            raise request_head.too_large_headers(limits)
        path, query = state.targets.split(url, method)
        host = headers.get(b"host")
        if host is not None:
            state.hosts.check(host)
        elif minor:
            raise Refused(400, "The Host header is missing.", "missing_host")
        length = request_head.body_length(headers, minor)
        if length > limits.max_body_bytes:
            raise BodyTooLarge(limits.max_body_bytes)
        if parser.should_upgrade() and b"websocket" in headers.get(b"upgrade", b"").lower():
            raise Refused(501, "WebSockets are not served here.", "websocket_not_supported")
        awaits_continue = request_head.wants_continue(headers, minor) and length != 0
        if not parser.should_keep_alive():
            self.last = True
        request = Request(method, url, path, query, headers, minor, self._peer, state.clock())
        self._open(request, length, awaits_continue)

    def _open(self, request: Request, length: int, awaits_continue: bool) -> None:
        try:
            mode = self._state.app.body_mode(request)
        except ProxyError as error:
            if length:
                raise
            self._verdict = error
            mode = _BUFFER
        if length and mode is _BUFFER:
            budget = self._state.budget
            if budget.bodies + length > budget.ceiling:
                mode = self._mode_over_budget(request, length)
            else:
                self._spared = False
        if mode is _DECLINE and (awaits_continue or not 0 <= length <= DECLINED_BODY_BYTES):
            raise _too_much()
        self._expected = length
        self.received = 0
        self._mode = mode
        self.request = request
        self.awaits_continue = awaits_continue
        if mode is _STREAM:
            responder = HttpResponder(self._receiver, request, not self.last)
            responder.streams = True
            responder.body_open = length != 0
            self.incoming = responder
            self._receiver.request_ready(responder)

    def _mode_over_budget(self, request: Request, length: int) -> BodyMode:
        state = self._state
        self._spared = 0 < length <= SPARED_BODY_BYTES and state.app.essential(request)
        return _BUFFER if self._spared or state.make_room(max(length, 0)) else _DECLINE

    def _after_upgrade(self, rest: bytes) -> ProxyError | None:
        """Go on in HTTP/1.1: an offer to upgrade (Java's client makes one by default) may be ignored.

        llhttp can't read the body of such a request, so a fresh parser gets a head of our own with the same
        framing.
        """
        self._parser = httptools.HttpRequestParser(self)
        if self.request is not None:
            framing = (
                b"transfer-encoding: chunked"
                if self._expected < 0
                else b"content-length: %d" % self._expected
            )
            connection = b"connection: close\r\n" if self.last else b""
            self._resuming = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: h\r\n%b%b\r\n\r\n" % (connection, framing))
        elif self.last:
            return None
        return self.feed(rest) if rest else None

    def _failure(self, error: httptools.HttpParserError) -> ProxyError | None:
        refusal = self._refusal
        if refusal is not None:
            return refusal
        if self.last and self.request is None:
            return None  # bytes after a request that said `connection: close`
        if "PRI/Upgrade" in str(error):  # llhttp's words for the preface of HTTP/2
            return Refused(505, "HTTP/2 is not spoken here, HTTP/1.1 is.", "http_version_not_supported")
        return Refused(400, f"Malformed HTTP/1.1: {error}.", "malformed_request")

    def _excess(self) -> ProxyError | None:
        """Bounds on an unfinished message, looked at only once it is long."""
        limits: Limits = self._state.limits()
        if self.request is None:
            if not self._headers and len(self.url) + 20 > limits.max_line_bytes:
                return request_head.too_long_line(limits)
            if self.fed > limits.max_line_bytes + limits.max_header_bytes:
                return request_head.too_large_headers(limits)
        elif self._expected < 0:
            allowed = _CHUNK_OVERHEAD_FACTOR * self.received + limits.max_header_bytes + _CHUNK_OVERHEAD_BYTES
            if self.fed > allowed:
                return Refused(400, "The chunk framing outweighs the body.", "malformed_request")
        return None

    def _stop(self, error: ProxyError) -> NoReturn:
        self._refusal = error
        raise _Halt


def _too_much() -> ProxyError:
    return Overloaded(
        "The proxy holds as many bytes as it may (server.in_flight_bytes). Retry after a second."
    )
