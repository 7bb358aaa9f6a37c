"""The worker's side of the admin surface: forward to the optimizer process, or say that it is away.

The optimizer alone authorises. A worker strips inbound internal headers, adds the caller's address and its
own token, and passes on every header that authorisation looks at (``proxy.control.access``).
"""

import orjson

from proxy import headers as crossing
from proxy.errors import ProxyError
from proxy.http1.client import Pool
from proxy.http1.messages import Request, Responder
from proxy.relay import Relay

_PREFIXES = ("/api/v1/", "/ui/", "/openapi")
_EXACT = frozenset(("/metrics", "/health/detailed", "/ui", "/api/v1"))
_WATCHED = frozenset(("/metrics", "/health/detailed"))
_WATCHED_S = 5.0
_JUDGED = (
    b"host",
    b"authorization",
    b"x-api-key",
    b"origin",
    b"sec-fetch-site",
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"content-type",
    b"accept",
    b"accept-encoding",
    b"if-match",
    b"if-none-match",
    b"idempotency-key",
    b"last-event-id",
)
_JSON = b"content-type: application/json\r\n"
_TEXT = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
_RETRY = b"retry-after: 2\r\n"
_PAGE = (
    b"content-type: text/html; charset=utf-8\r\ncontent-security-policy: default-src 'none'\r\n"
    b"cache-control: no-store\r\nrefresh: 3\r\n"
)
_PAGE_AWAY = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    "<title>No answer yet</title><h1>The optimizer process does not answer</h1>"
    "<p>Requests of applications are served on. This page asks again every three seconds.</p></html>"
)


class AdminLink:
    """Forwards requests over the optimizer's unix socket."""

    def __init__(self, pool: Pool, *, token: str, worker: int) -> None:
        self._pool = pool
        self._token = token.encode()
        self._worker = worker

    def owns(self, path: str) -> bool:
        return path in _EXACT or path.startswith(_PREFIXES)

    def forward(self, request: Request, responder: Responder) -> None:
        """Relay ``request``; its body is already complete."""

        def refused(fault: ProxyError) -> tuple[int, bytes, bytes]:
            del fault
            return self._away(request.path)

        def closing(relay: Relay, status: int, fault: ProxyError | None, *, gone: bool) -> None:
            """Admin requests leave their trace in the optimizer's audit, not in the request log."""

        relay = Relay(request, responder, ids=b"", closing=closing, refused=refused)
        # Whoever watches the product must learn soon that the optimizer does not answer.
        bound = ("total", _WATCHED_S) if request.path in _WATCHED else None
        relay.begin(self._pool, self._head(request), streamed=False, bound=bound)

    def _head(self, request: Request) -> bytes:
        head = request.method.encode("latin-1") + b" " + request.target + b" HTTP/1.1\r\n"
        for name, value in request.headers.items():
            if name in _JUDGED or name.startswith(b"x-forwarded"):
                head += name + b": " + value + b"\r\n"
        head += crossing.PEER + b": " + request.peer.encode("latin-1") + b"\r\n"
        head += crossing.WORKER + b": " + self._token + b"\r\n"
        if request.caller is not None:
            # Feedback is bound to the key that made the request; the tag is what the request's id tells of it.
            head += b"%b: %d\r\n" % (crossing.KEY_TAG, request.caller.tag)
        if request.body or request.method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
            head += b"content-length: %d\r\n" % len(request.body)
        return head + b"\r\n"

    def _away(self, path: str) -> tuple[int, bytes, bytes]:
        if path == "/metrics":
            text = (
                "# HELP llm_optimizer_optimizer_up Whether the optimizer process answers.\n"
                "# TYPE llm_optimizer_optimizer_up gauge\n"
                "llm_optimizer_optimizer_up 0\n"
                "# HELP llm_optimizer_worker_up Whether this worker serves.\n"
                "# TYPE llm_optimizer_worker_up gauge\n"
                f'llm_optimizer_worker_up{{worker="{self._worker}"}} 1\n'
            )
            return 200, _TEXT, text.encode()
        if path == "/health/detailed":
            body = orjson.dumps(
                {"status": "degraded", "components": {"worker": "healthy", "optimizer": "unreachable"}}
            )
            return 503, _JSON + _RETRY, body
        if path == "/ui" or path.startswith("/ui/"):
            return 503, _PAGE + _RETRY, _PAGE_AWAY.encode()
        body = orjson.dumps(
            {
                "error": {
                    "code": "SERVICE_UNAVAILABLE",
                    "message": "The optimizer process does not answer; requests are served on. Retry soon.",
                    "details": {},
                }
            }
        )
        return 503, _JSON + _RETRY, body
