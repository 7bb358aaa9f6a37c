"""Byte relays: requests that are carried through without being understood.

``Relay`` copies one request and its reply between a ``Responder`` and an upstream ``Call``, both ways
streaming, with back-pressure in both directions. Two uses: ``/v1/...`` paths that are not optimized,
and the paths that the optimizer process answers over its unix socket.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from proxy import headers as crossing
from proxy.errors import Overloaded, ProxyError
from proxy.http1.client import Call, Pool
from proxy.http1.messages import Request, Responder

_JSON = b"content-type: application/json\r\n"


class Closing(Protocol):
    """Hears how a relay ended: with the status shown, with a fault, or because the client left."""

    def __call__(self, relay: "Relay", status: int, fault: ProxyError | None, *, gone: bool) -> None: ...


class Relay:
    """One relayed request. Implements ``ReplySink`` and ``Listener``.

    ``closing`` is called exactly once, before the last bytes reach the client. ``refused`` may turn a
    fault into another reply (status, headers, body); ``withheld`` may name a fault that stands in for an upstream's
    reply of a status. ``status`` and ``headers`` are the upstream's (0 and empty before its reply);
    ``sent_bytes`` and ``size`` count the bodies, ``sent_at`` is the start.
    """

    __slots__ = (
        "_closed",
        "_closing",
        "_ids",
        "_last",
        "_refused",
        "_request",
        "_responder",
        "_withheld",
        "call",
        "headers",
        "sent_at",
        "sent_bytes",
        "size",
        "status",
    )

    def __init__(
        self,
        request: Request,
        responder: Responder,
        *,
        ids: bytes,
        closing: Closing,
        refused: Callable[[ProxyError], tuple[int, bytes, bytes]] | None = None,
        withheld: Callable[[int], ProxyError | None] | None = None,
    ) -> None:
        self._request = request
        self._responder = responder
        self._ids = ids
        self._closing = closing
        self._refused = refused
        self._withheld = withheld
        self._closed = False
        self._last = b""
        self.call: Call | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.sent_at = 0.0
        self.sent_bytes = 0
        self.size = 0
        self.status = 0

    def begin(
        self, pool: Pool, head: bytes, *, streamed: bool, bound: tuple[str, float] | None = None
    ) -> None:
        """Send ``head`` (complete, with its framing); the body follows as it arrives, or is there already.

        ``bound`` is a deadline for the whole of a body that is there; see ``Call.limit``.
        """
        self.sent_at = perf_counter()
        self._responder.listener = self
        if streamed:
            self.call = pool.open(head, self)
            self.call.on_pause = self._responder.pause_body
            self.call.on_resume = self._responder.resume_body
        else:
            self.call = pool.send(head, self._request.body, self, bound=bound)

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.headers = headers
        fault = self._withheld(status) if self._withheld is not None else None
        if fault is not None:
            if self.call is not None:
                self.call.cancel()
            self.reply_failed(fault)
            return
        length = crossing.find(headers, b"content-length")
        self._responder.start(
            status,
            crossing.returned_raw(headers) + self._ids,
            int(length) if length is not None else None,
        )

    def reply_body(self, data: bytes) -> None:
        # One piece is held back, so that the record is written before the last bytes are.
        if self._last:
            self._responder.write(self._last)
        self._last = data
        self.size += len(data)

    def reply_flush(self) -> None:
        if self._last:
            self._responder.write(self._last)
            self._last = b""

    def reply_end(self) -> None:
        self._close(self.status, None)
        self._responder.finish(self._last)

    def reply_failed(self, fault: ProxyError) -> None:
        if self._responder.started:
            self._close(self.status, fault)
            self._responder.abort()
            return
        status, block, body = (
            self._refused(fault) if self._refused is not None else (fault.status, _JSON, fault.body())
        )
        self._close(status, fault)
        self._responder.reply(status, block + self._ids, body)

    def client_body(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        if self.call is not None:
            self.call.write(data)

    def client_end(self) -> None:
        if self.call is not None:
            self.call.end()

    def server_stopping(self) -> None:
        if self.call is not None:
            self.call.cancel()
        self.reply_failed(Overloaded("The proxy is being stopped. Send the request again."))

    def client_gone(self) -> None:
        if self.call is not None:
            self.call.cancel()
        self._close(499, None, gone=True)

    def client_paused(self) -> None:
        if self.call is not None:
            self.call.pause()

    def client_resumed(self) -> None:
        if self.call is not None:
            self.call.resume()

    def _close(self, status: int, fault: ProxyError | None, *, gone: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        # Cut the cycles with responder and call, so that reference counting frees all three at once.
        self._responder.listener = None
        if self.call is not None:
            self.call.on_pause = self.call.on_resume = None
            self.call = None
        self._closing(self, status, fault, gone=gone)
