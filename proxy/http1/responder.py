"""The reply to one request: framing, connection persistence, and who may still write.

Invariant: a responder writes to its connection only while its request is the one being answered there; once
finished, aborted or left by the client it is detached and every call is a no-op, so late callbacks of an
upstream can't corrupt the next reply.
"""

import asyncio
import socket
import struct
from typing import Protocol

from proxy.errors import ProxyError
from proxy.http1 import framing
from proxy.http1.messages import Listener, Request
from proxy.http1.server_state import ServerState

_LENGTH = 0
_CHUNKED = 1
_UNTIL_CLOSE = 2
_NO_BODY = 3

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Line(Protocol):
    """What a responder needs of its connection."""

    transport: asyncio.Transport
    state: ServerState

    def finished(self, responder: "HttpResponder") -> None:
        """The reply is complete."""

    def cut(self, responder: "HttpResponder") -> None:
        """The reply ends here, incomplete."""

    def pause_body(self) -> None:
        """Stop reading."""

    def resume_body(self) -> None:
        """Read again."""


class HttpResponder:
    """See ``messages.Responder``.

    ``keep`` says whether the connection may persist after this reply, ``streams`` that the request body goes
    to the listener, ``body_open`` that it is still arriving, ``early`` holds what of it came before its
    turn; ``verdict`` is the answer when the application refused the request by its head, ``declined`` says that
    there is no time for it; ``held`` is what its body counts in the server's budget.
    """

    __slots__ = (
        "_framing",
        "_left",
        "body_open",
        "declined",
        "early",
        "held",
        "keep",
        "line",
        "listener",
        "request",
        "started",
        "streams",
        "verdict",
    )

    def __init__(self, line: Line, request: Request, keep: bool) -> None:
        self.line: Line | None = line
        self.request = request
        self.keep = keep
        self.listener: Listener | None = None
        self.started = False
        self.body_open = False
        self.early = b""
        self.streams = False
        self.verdict: ProxyError | None = None
        self.declined = False
        self.held = 0
        self._framing = _LENGTH
        self._left = 0

    @property
    def gone(self) -> bool:
        """Whether nobody is left to answer."""
        return self.line is None

    def reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Send a whole reply: head and body in one write unless the body is large."""
        line = self.line
        if line is None:
            return
        if self.started:
            raise RuntimeError("this request is being answered already")
        self.started = True
        request = self.request
        if self.keep and request.http_minor == 1 and not self.body_open and not line.state.closing_replies:
            connection = b""
        else:
            connection = self._connection(line)
        if status in framing.BODILESS:
            data = b"%b%b%b%b\r\n" % (framing.status_line(status), line.state.date, headers, connection)
            line.transport.write(data)
        elif len(body) < framing.SEPARATE_WRITE_BYTES:
            data = b"%b%b%b%bcontent-length: %d\r\n\r\n%b" % (
                framing.STATUS_LINES.get(status) or framing.status_line(status),
                line.state.date,
                headers,
                connection,
                len(body),
                body if request.method != "HEAD" else b"",
            )
            line.transport.write(data)
        else:
            head = self._head(line, status, headers, connection, len(body))
            line.transport.writelines((head,) if request.method == "HEAD" else (head, body))
        line.finished(self)

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        """Send the head; it is written at once."""
        line = self.line
        if line is None:
            return
        if self.started:
            raise RuntimeError("this request is being answered already")
        self.started = True
        if status in framing.BODILESS:
            self._framing = _NO_BODY
        elif length is not None:
            self._framing = _LENGTH
            self._left = length
        elif self.request.http_minor == 1:
            self._framing = _CHUNKED
        else:
            self._framing = _UNTIL_CLOSE
            self.keep = False
        line.transport.write(self._head(line, status, headers, self._connection(line), length))
        if self.held and not self.request.body:
            self.let_go(
                line
            )  # the application has no more use for the body, and a stream may last for minutes
        if self.request.method == "HEAD":
            self._framing = _NO_BODY

    def write(self, data: bytes) -> None:
        """Send a piece of the body; an empty piece sends nothing."""
        line = self.line
        if line is None or not data:
            return
        if not self.started:
            raise RuntimeError("write before start")
        kind = self._framing
        if kind == _CHUNKED:
            line.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        elif kind == _LENGTH:
            self._spend(len(data))
            line.transport.write(data)
        elif kind == _UNTIL_CLOSE:
            line.transport.write(data)

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece and the end in one write.

        A reply that is shorter than its declared length is cut instead, so that the client can tell.
        """
        line = self.line
        if line is None:
            return
        if not self.started:
            raise RuntimeError("finish before start")
        kind = self._framing
        if kind == _CHUNKED:
            line.transport.write(framing.last_chunk(data))
        elif kind == _LENGTH:
            if data:
                self._spend(len(data))
                line.transport.write(data)
            if self._left:
                self.abort()
                return
        elif kind == _UNTIL_CLOSE and data:
            line.transport.write(data)
        line.finished(self)

    def abort(self) -> None:
        """Cut the connection. What was written before is still delivered where the cut is visible anyway; a
        body that ends with the connection is cut with a reset."""
        line = self.line
        if line is None:
            return
        if self._framing == _UNTIL_CLOSE and self.started:
            sock = line.transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            line.transport.abort()
        line.cut(self)

    def pause_body(self) -> None:
        """Stop reading the request body. While paused a disconnect may go unnoticed."""
        if self.line is not None and self.body_open:
            self.line.pause_body()

    def resume_body(self) -> None:
        """Read the request body again."""
        if self.line is not None and self.body_open:
            self.line.resume_body()

    def refuse(self, error: ProxyError) -> None:
        """Answer with an error in OpenAI's shape, or cut if a reply was started."""
        if self.started:
            self.abort()
        elif self.line is not None:
            headers = framing.error_headers(error.status, self.line.state.app.refusal_headers())
            self.reply(error.status, headers, error.body())

    def decline(self) -> None:
        """Say that there is too much to do."""
        line = self.line
        if line is not None:
            self.started = True
            state = line.state
            block = state.app.refusal_headers()
            line.transport.write(framing.declined(state.date, block, self._connection(line)))
            line.finished(self)

    def let_go(self, line: Line) -> None:
        """The request's body is held no longer."""
        line.state.budget.bodies -= self.held
        self.held = 0

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            self.abort()
            raise RuntimeError(f"the reply is {-self._left} bytes longer than its declared length")

    def _connection(self, line: Line) -> bytes:
        if self.keep and (self.body_open or line.state.closing_replies):
            self.keep = False
        if self.keep:
            return b"" if self.request.http_minor == 1 else b"connection: keep-alive\r\n"
        return b"connection: close\r\n"

    def _head(self, line: Line, status: int, headers: bytes, connection: bytes, length: int | None) -> bytes:
        if self._framing == _NO_BODY:
            size = b""
        elif length is not None:
            size = b"content-length: %d\r\n" % length
        elif self._framing == _CHUNKED:
            size = b"transfer-encoding: chunked\r\n"
        else:
            size = b""
        return b"%b%b%b%b%b\r\n" % (framing.status_line(status), line.state.date, headers, connection, size)
