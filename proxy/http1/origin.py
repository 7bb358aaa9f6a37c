"""Where an upstream is and how to get there, compiled once per routing table.

Invariant: an ``Origin`` needs no further look at configuration or environment; its TLS context verifies the
peer unless the configuration says not to, and is made once.
"""

import base64
import ssl
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

from optimizer.routing import Upstream

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy: https goes through CONNECT, http in absolute-form.

    ``authorization`` is a whole header line, or empty.
    """

    host: str
    port: int
    authorization: bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """Address, TLS and bounds of one upstream.

    Durations are seconds; ``authority`` is the value for ``Host``. ``allow_private`` permits a public name to
    resolve to private addresses; ``refused`` holds the hosts whose refusal was logged.
    """

    scheme: str
    host: str
    port: int
    authority: str
    unix_socket: str | None = None
    proxy: Proxy | None = None
    ssl_context: ssl.SSLContext | None = None
    server_hostname: str | None = None
    connect_s: float = 5.0
    first_byte_s: float = 30.0
    idle_s: float = 30.0
    total_s: float | None = None
    max_connections: int = 1000
    keepalive_s: float = 50.0
    allow_private: bool = False
    refused: set[str] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def from_upstream(cls, upstream: Upstream) -> Self:
        """Compile; the path of ``base_url`` is the caller's business.

        Raises:
            ValueError: If ``base_url`` or ``proxy`` is not usable.
            OSError: If ``ca_file`` can't be read.
        """
        url = _split(upstream.base_url, "base_url")
        host = url.hostname or ""
        port = url.port or _PORTS[url.scheme]
        shown = f"[{host}]" if ":" in host else host
        secure = url.scheme == "https"
        return cls(
            scheme=url.scheme,
            host=host,
            port=port,
            authority=shown if port == _PORTS[url.scheme] else f"{shown}:{port}",
            unix_socket=upstream.unix_socket,
            proxy=_proxy(upstream.proxy) if upstream.proxy else None,
            ssl_context=tls_context(upstream.ca_file, verify=upstream.verify_tls) if secure else None,
            server_hostname=host.rstrip(".") if secure else None,
            connect_s=upstream.connect_s,
            first_byte_s=upstream.first_byte_s,
            idle_s=upstream.idle_s,
            total_s=upstream.total_s,
            max_connections=upstream.max_connections,
            keepalive_s=upstream.keepalive_s,
            allow_private=upstream.allow_private,
        )

    def head(self, head: bytes) -> bytes:
        """The request head as this origin's next hop wants it: absolute-form for http through a proxy."""
        if self.proxy is None or self.ssl_context is not None or self.unix_socket is not None:
            return head
        method, _, rest = head.partition(b" ")
        line, _, headers = rest.partition(b"\r\n")
        return b"%b http://%b%b\r\n%b%b" % (
            method,
            self.authority.encode("ascii"),
            line,
            self.proxy.authorization,
            headers,
        )


def tls_context(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    """A client context: TLS 1.2 or newer, HTTP/1.1 only; ``ca_file`` replaces the system's authorities."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _split(text: str, what: str) -> SplitResult:
    url = urlsplit(text)
    if url.scheme not in _PORTS:
        raise ValueError(f"{what} must start with http:// or https://")
    if not url.hostname or not url.hostname.isascii():
        raise ValueError(f"{what} must name a host (ASCII; punycode for others)")
    if what == "base_url" and (url.username is not None or url.password is not None):
        raise ValueError(f"{what} must not contain credentials")
    return url


def _proxy(text: str) -> Proxy:
    url = _split(text, "proxy")
    if url.scheme != "http":
        raise ValueError("proxy must start with http://")
    line = b""
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        line = b"proxy-authorization: Basic %b\r\n" % base64.b64encode(pair)
    return Proxy(url.hostname or "", url.port or 80, line)
