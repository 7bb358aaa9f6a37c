"""Every way a request can fail, who is to blame, and how the caller is told.

ProxyError
├── ClientFault        4xx: the caller's mistake; teaches nothing
│   ├── ModelNotFound
│   └── BodyTooLarge
├── UpstreamFault      502/504: failure of the arm that was tried
│   ├── ConnectFault       nothing was sent
│   ├── ResetFault         the connection ended before the reply did
│   ├── ProtocolFault      the reply broke HTTP or the event stream's rules
│   └── TimeoutFault       a deadline passed; ``phase`` says which
├── CredentialsRefused 502: the upstream refused our own key; teaches nothing
├── Unavailable        503: no arm can serve this now; teaches nothing
└── Overloaded         503: our own limit; teaches nothing
"""

from collections.abc import Callable

import orjson


class ProxyError(Exception):
    """Base of all: HTTP ``status``, ``code`` (a stable word) and ``kind`` (OpenAI's error type)."""

    status = 500
    code = "internal_error"
    kind = "server_error"
    render: Callable[[int, bytes], bytes] | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def body(self) -> bytes:
        """In OpenAI's error shape, or what ``render`` makes of that for a caller who expects another."""
        body = error_body(str(self), kind=self.kind, code=self.code, param=self.param)
        return body if self.render is None else self.render(self.status, body)


class ClientFault(ProxyError):
    """The request itself is wrong."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, param=param)
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code


class ModelNotFound(ClientFault):
    """The ``model`` field selects nothing."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model {model[:200]!r} does not exist here. GET /v1/models lists routes and models.",
            param="model",
            status=404,
            code="model_not_found",
        )


class BodyTooLarge(ClientFault):
    """The body is over ``max_body_bytes``."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request body is over the limit of {limit} bytes (server.max_body_bytes).",
            status=413,
            code="request_too_large",
        )


class UpstreamFault(ProxyError):
    """The upstream failed; the arm that was tried is taught a failure."""

    status = 502
    code = "upstream_error"
    kind = "upstream_error"


class ConnectFault(UpstreamFault):
    """No connection could be made (refused, DNS, TLS); no byte of the request was sent."""

    code = "upstream_connect_error"


class ResetFault(UpstreamFault):
    """The connection ended before the reply was complete."""

    code = "upstream_reset"


class ProtocolFault(UpstreamFault):
    """The reply was not valid HTTP, or a stream ended without its terminal event."""

    code = "upstream_protocol_error"


class TimeoutFault(UpstreamFault):
    """A deadline passed. ``phase``: ``connect``, ``first_byte``, ``first_token``, ``idle``, ``finish`` or ``total``."""

    status = 504
    code = "upstream_timeout"

    def __init__(self, phase: str, seconds: float) -> None:
        super().__init__(f"The upstream exceeded its {phase} deadline of {seconds:.3g} s.")
        self.phase = phase


class CredentialsRefused(ProxyError):
    """The upstream refused the key that the proxy sent: the operator's business, not the caller's."""

    status = 502
    code = "upstream_auth_error"
    kind = "upstream_error"

    def __init__(self, upstream: str, status: int) -> None:
        super().__init__(f"Upstream {upstream!r} refused the proxy's credentials ({status}).")


class Unavailable(ProxyError):
    """Nothing eligible can serve this request."""

    status = 503
    code = "no_arm_available"
    kind = "service_unavailable"


class Overloaded(ProxyError):
    """Our own bound was reached."""

    status = 503
    code = "overloaded"
    kind = "service_unavailable"


def error_body(message: str, *, kind: str, code: str | None, param: str | None = None) -> bytes:
    """OpenAI's error object, as bytes."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
