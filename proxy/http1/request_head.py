"""What a request head must satisfy beyond what llhttp's strict mode checks already.

llhttp refuses bare LF, obs-fold, space before a colon, control characters, two or malformed
Content-Lengths, and Content-Length beside Transfer-Encoding. Here: versions, methods, targets, hosts,
repeated singletons, transfer codings, counts and sizes. Nothing here does IO.
"""

import re

from optimizer.routing import Limits
from proxy.http1.framing import Refused, is_host

METHODS = {
    name.encode("ascii"): name
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
}

_SINGLETONS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization", b"expect")
)
_TARGET = re.compile(rb"/[!-~]*\Z")
_MAX_KNOWN = 512


class Targets:
    """Request targets seen before, validated and split. Bounded: only short ones, and it stops growing."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, str]] = {}

    def split(self, target: bytes, method: str) -> tuple[str, str]:
        """``(path, query)``. Raises Refused (400) unless it is origin-form (or ``*`` for OPTIONS)."""
        known = self._known.get(target)
        if known is not None:
            return known
        if target == b"*" and method == "OPTIONS":
            return "*", ""
        if _TARGET.match(target) is None or b"#" in target:
            raise Refused(400, "The request target must be a path (origin-form).", "invalid_target")
        path, _, query = target.decode("ascii").partition("?")
        if len(self._known) < _MAX_KNOWN and len(target) < 128 and not query:
            self._known[target] = (path, query)
        return path, query


class Hosts:
    """Host header values found valid before. Bounded."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def check(self, host: bytes) -> None:
        """Raises Refused (400) if ``host`` can't be a host."""
        if host in self._known:
            return
        if not is_host(host):
            raise Refused(400, "The Host header is not a host.", "invalid_host")
        if len(self._known) < _MAX_KNOWN and len(host) < 128:
            self._known.add(host)


def add_repeated(headers: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    """Join a header that came before. Raises Refused (400) for those that may come only once."""
    if name in _SINGLETONS:
        raise Refused(400, f"Repeated {name.decode('ascii')} header.", "repeated_header")
    headers[name] = headers[name] + b", " + value


def http_minor(version: str) -> int:
    """1 or 0. Raises Refused: 505 for any other version."""
    if version == "1.1":
        return 1
    if version == "1.0":
        return 0
    raise Refused(505, f"HTTP/{version} is not spoken here, HTTP/1.1 is.", "http_version_not_supported")


def check_size(url: bytes, headers: dict[bytes, bytes], limits: Limits) -> None:
    """Raises Refused: 414 for a long request line, 431 for too many bytes of headers."""
    if len(url) + 20 > limits.max_line_bytes:
        raise too_long_line(limits)
    # ": " and CRLF are four bytes a header.
    if sum(map(len, headers)) + sum(map(len, headers.values())) + 4 * len(headers) > limits.max_header_bytes:
        raise too_large_headers(limits)


def too_long_line(limits: Limits) -> Refused:
    """414."""
    return Refused(414, f"The request line is over {limits.max_line_bytes} bytes.", "request_line_too_long")


def too_large_headers(limits: Limits) -> Refused:
    """431."""
    return Refused(
        431,
        f"The request headers are over {limits.max_header_bytes} bytes or {limits.max_headers} lines.",
        "headers_too_large",
    )


def body_length(headers: dict[bytes, bytes], minor: int) -> int:
    """Bytes of body that follow: -1 means chunked.

    Raises:
        Refused: 501 for a transfer coding other than chunked, 400 for any on HTTP/1.0.
    """
    length = headers.get(b"content-length")
    if length is not None:
        return int(length)
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return 0
    if minor == 0:
        raise Refused(400, "Transfer-Encoding needs HTTP/1.1.", "invalid_transfer_encoding")
    if coding.lower() != b"chunked":
        raise Refused(501, "The only transfer coding spoken here is chunked.", "unsupported_transfer_coding")
    return -1


def wants_continue(headers: dict[bytes, bytes], minor: int) -> bool:
    """Whether the client waits for ``100 Continue``. Raises Refused (417) for any other expectation."""
    expectation = headers.get(b"expect")
    if expectation is None or minor == 0:
        return False
    if expectation.lower() != b"100-continue":
        raise Refused(417, "The only expectation met here is 100-continue.", "expectation_failed")
    return True
