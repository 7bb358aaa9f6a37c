"""Bytes of HTTP/1.1 that do not depend on a connection: status lines, header blocks, chunks, error replies.

Invariant: what leaves this module can't smuggle: a header block built here has no CR, LF or NUL inside a
name or value and never contains framing, which belongs to the engine.
"""

import re
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from proxy.errors import Overloaded, ProxyError, error_body

ENGINE_HEADERS = frozenset(
    (
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers that the engine writes itself or that end at this hop: never pass them to a ``Responder``."""

SEPARATE_WRITE_BYTES = 64 * 1024
"""From this size on, head and body are handed over side by side instead of being copied together."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?\Z")

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii"))
    for status in HTTPStatus
}
BODILESS = frozenset((204, 304))
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def status_line(status: int) -> bytes:
    """Status line for any code in 200..999; unknown codes have an empty phrase."""
    line = STATUS_LINES.get(status)
    return b"HTTP/1.1 %d \r\n" % status if line is None else line


def encode_headers(pairs: Iterable[tuple[bytes | str, bytes | str]]) -> bytes:
    """Encode headers into one block, ``name: value CRLF`` each.

    Raises:
        ValueError: If a name is not a token or a value contains a control character (tab is allowed).
    """
    lines = []
    for name, value in pairs:
        name_bytes = name.encode("ascii") if isinstance(name, str) else name
        value_bytes = value.encode("latin-1") if isinstance(value, str) else value
        if _TOKEN.match(name_bytes) is None:
            raise ValueError(f"{name_bytes!r} is not a header name")
        if _FORBIDDEN_IN_VALUE.search(value_bytes) is not None:
            raise ValueError(f"the value of {name_bytes!r} has a control character in it")
        lines.append(b"%b: %b\r\n" % (name_bytes, value_bytes))
    return b"".join(lines)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; ``data`` must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(data: bytes) -> bytes:
    """The last data (may be empty) and the end of a chunked body."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else LAST_CHUNK


def date_header(seconds: float) -> bytes:
    """The ``date`` header line for a unix time."""
    return f"date: {formatdate(seconds, usegmt=True)}\r\n".encode("ascii")


def is_host(value: bytes) -> bool:
    """Whether ``value`` is a possible ``Host``: a name or address and an optional port, or empty."""
    return _HOST.match(value) is not None


class Refused(ProxyError):
    """The engine itself turns the request down: HTTP was broken or a bound was passed."""

    kind = "invalid_request_error"

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def error_headers(status: int, block: bytes) -> bytes:
    """``block`` and what else belongs to an error reply: its type, and when to come back if that helps."""
    return block + (_JSON_RETRY if status == 503 else _JSON)


def error_reply(status: int, body: bytes, date: bytes, block: bytes) -> bytes:
    """A complete JSON reply that ends the connection; ``block`` holds further headers."""
    return b"%b%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
        status_line(status),
        date,
        error_headers(status, block),
        len(body),
        body,
    )


def declined(date: bytes, block: bytes, connection: bytes) -> bytes:
    """The reply to a request that there is no time for. Made of constants: it has to cost next to nothing."""
    return b"".join((STATUS_LINES[503], date, block, connection, _DECLINED))


def too_many_connections() -> bytes:
    """What a client gets when there are too many connections."""
    return error_body(
        "Too many open connections (server.max_connections). Retry in a second.",
        kind="service_unavailable",
        code="overloaded",
    )


_JSON = b"content-type: application/json\r\n"
_JSON_RETRY = _JSON + b"retry-after: 1\r\n"
_DECLINED_BODY = Overloaded("The proxy has more requests than it can serve. Retry after a second.").body()
_DECLINED = b"%bcontent-length: %d\r\n\r\n%b" % (_JSON_RETRY, len(_DECLINED_BODY), _DECLINED_BODY)
