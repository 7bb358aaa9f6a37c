"""Byte relays: requests that are carried through without being understood.

``Relay`` copies one request and its reply between a ``Responder`` and an upstream ``Call``, both ways
streaming, with back-pressure in both directions. Two uses: ``/v1/...`` paths that are not optimized,
and the paths that the optimizer process answers over its unix socket.
"""

from collections.abc import Callable
from time import perf_counter

from proxy import headers as crossing
from proxy.errors import ProxyError
from proxy.http1.client import Call, Pool
from proxy.http1.messages import Request, Responder

_JSON = b"content-type: application/json\r\n"


class Relay:
    """One relayed request. Implements ``ReplySink`` and ``Listener``.

    ``closing`` is called exactly once, before the last bytes reach the client, with
    (status shown, upstream status or 0, fault or None, bytes relayed, client gone).
    ``refused`` may turn a fault into another reply (status, headers, body).
    """

    __slots__ = (
        "_closed",
        "_closing",
        "_ids",
        "_last",
        "_refused",
        "_request",
        "_responder",
        "_size",
        "_status",
        "call",
        "head_at",
        "sent_at",
    )

    def __init__(
        self,
        request: Request,
        responder: Responder,
        *,
        ids: bytes,
        closing: Callable[["Relay", int, int, ProxyError | None, int, bool], None],
        refused: Callable[[ProxyError], tuple[int, bytes, bytes]] | None = None,
    ) -> None:
        self._request = request
        self._responder = responder
        self._ids = ids
        self._closing = closing
        self._refused = refused
        self._status = 0
        self._size = 0
        self._closed = False
        self._last = b""
        self.call: Call | None = None
        self.sent_at = 0.0
        self.head_at = 0.0

    def begin(self, pool: Pool, head: bytes, *, streamed: bool) -> None:
        """Send ``head`` (complete, with its framing); the body follows as it arrives, or is there already."""
        self.sent_at = perf_counter()
        if streamed:
            self.call = pool.open(head, self)
            self.call.on_pause = self._responder.pause_body
            self.call.on_resume = self._responder.resume_body
        else:
            self.call = pool.send(head, self._request.body, self)

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.head_at = perf_counter()
        self._status = status
        length = crossing.find(headers, b"content-length")
        self._responder.start(
            status,
            crossing.returned(headers, raw=True) + self._ids,
            int(length) if length is not None else None,
        )

    def reply_body(self, data: bytes) -> None:
        # One piece is held back, so that the record is written before the last bytes are.
        if self._last:
            self._responder.write(self._last)
        self._last = data
        self._size += len(data)

    def reply_flush(self) -> None:
        if self._last:
            self._responder.write(self._last)
            self._last = b""

    def reply_end(self) -> None:
        self._close(self._status, None)
        self._responder.finish(self._last)

    def reply_failed(self, fault: ProxyError) -> None:
        if self._responder.started:
            self._close(self._status, fault)
            self._responder.abort()
            return
        status, block, body = (
            self._refused(fault) if self._refused is not None else (fault.status, _JSON, fault.body())
        )
        self._close(status, fault)
        self._responder.reply(status, block + self._ids, body)

    def client_body(self, data: bytes) -> None:
        if self.call is not None:
            self.call.write(data)

    def client_end(self) -> None:
        if self.call is not None:
            self.call.end()

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
        if not self._closed:
            self._closed = True
            self._closing(self, status, self._status, fault, self._size, gone)
