"""What passes between the HTTP/1.1 engine and the application on top of it: plain values and protocols.

Invariant: everything here is called on one event loop thread, from transport callbacks, and nothing
awaits. The engine never hands out a request that it would have to correct later: what is malformed was
answered by the engine and is never seen by the application.
"""

import enum
from typing import Any, Protocol

from proxy.errors import Overloaded, UpstreamFault


class BodyMode(enum.Enum):
    """How the application wants the request body."""

    BUFFER = "buffer"
    """``handle`` is called once the whole body is in ``request.body``."""
    STREAM = "stream"
    """``handle`` is called right after the head; the body goes to ``listener.client_body`` as it comes."""
    DECLINE = "decline"
    """Too much to do: the engine answers 503 ``overloaded`` and drops the body; ``handle`` is not called."""


class Request:
    """One request as parsed.

    ``target`` is the request target as sent (always origin-form, or ``*``), ``path`` and ``query`` its two
    halves, still percent-encoded. Header names are lower-cased; repeated headers are joined with ``, ``.
    ``head_at`` and ``body_at`` are readings of the server's clock (``time.perf_counter``), in seconds. ``caller`` is
    the application's: who it found to be asking. So is ``trace``: where the request belongs.
    """

    __slots__ = (
        "body",
        "body_at",
        "caller",
        "head_at",
        "headers",
        "http_minor",
        "method",
        "path",
        "peer",
        "query",
        "target",
        "trace",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        path: str,
        query: str,
        headers: dict[bytes, bytes],
        http_minor: int,
        peer: str,
        head_at: float,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.headers = headers
        self.http_minor = http_minor
        self.peer = peer
        self.head_at = head_at
        self.body_at = head_at
        self.body = b""
        self.caller: Any = None
        self.trace: Any = None


class Listener(Protocol):
    """What the application hears about the client of a request that it is answering."""

    def client_body(self, data: bytes) -> None:
        """A piece of the request body arrived (``STREAM`` only)."""

    def client_end(self) -> None:
        """The request body is complete (``STREAM`` only)."""

    def client_gone(self) -> None:
        """The connection was lost before the reply was finished. At most once, and nothing after it."""

    def client_paused(self) -> None:
        """The client reads slower than we write: stop producing."""

    def client_resumed(self) -> None:
        """The client caught up."""

    def server_stopping(self) -> None:
        """The time to drain is over: end the reply now, so that the client can see that it is incomplete."""


class Responder(Protocol):
    """Answers exactly one request. Calls after the client went away do nothing.

    ``headers`` is an encoded block (``framing.encode_headers``) without any of ``framing.ENGINE_HEADERS``:
    the engine itself writes framing, ``connection`` and ``date``.
    """

    listener: Listener | None
    started: bool

    @property
    def gone(self) -> bool:
        """Whether nobody is left to answer: the client went away, or the reply is complete."""
        ...

    def reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Send a whole reply."""

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        """Send a head; ``length`` None means unknown (chunked, or until close for HTTP/1.0)."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece (may be empty) and the end, in one write."""

    def abort(self) -> None:
        """End the connection so that the client can see that the reply is incomplete."""

    def pause_body(self) -> None:
        """Stop reading the request body (``STREAM``)."""

    def resume_body(self) -> None:
        """Read the request body again."""


class Application(Protocol):
    """What the server serves."""

    def body_mode(self, request: Request) -> BodyMode:
        """Say how the body is wanted; called after the head. A ``ProxyError`` raised here is the answer."""

    def handle(self, request: Request, responder: Responder) -> None:
        """Answer, now or later. A ``ProxyError`` raised here is the answer if none was started."""

    def essential(self, request: Request) -> bool:
        """Whether it must be answered however much there is to do; asked only when memory is short."""

    def refusal_headers(self) -> bytes:
        """Header block of an error reply that the engine writes itself: the id that the caller may quote."""


class ReplySink(Protocol):
    """Receives one upstream reply. Nothing is called after the call was cancelled."""

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The final reply's head; names lower-cased, framing headers included as received."""

    def reply_body(self, data: bytes) -> None:
        """A piece of the body, without chunk framing, content coding untouched."""

    def reply_flush(self) -> None:
        """One socket read is through, something was delivered, and the reply has not ended."""

    def reply_end(self) -> None:
        """The reply is complete by its own framing."""

    def reply_failed(self, fault: UpstreamFault | Overloaded) -> None:
        """There will be no (complete) reply. Exactly one of this and ``reply_end`` is called."""
