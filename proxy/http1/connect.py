"""Making a connection to an origin: TCP or unix socket, through a proxy if there is one, TLS on top.

Invariant: whatever fails, nothing stays open. No data-plane byte is read or written here except a CONNECT
and its answer.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar, cast

import httptools

from proxy.errors import ConnectFault
from proxy.http1.origin import Origin, Proxy

_MAX_ANSWER_BYTES = 16 * 1024

P = TypeVar("P", bound=asyncio.Protocol)


async def connect(loop: asyncio.AbstractEventLoop, origin: Origin, factory: Callable[[], P]) -> None:
    """Connect a protocol made by ``factory``; its ``connection_made`` hands over the transport.

    Raises:
        ConnectFault: If the origin or the proxy can't be reached, or TLS does not verify.
    """
    context, hostname = origin.ssl_context, origin.server_hostname
    try:
        if origin.unix_socket is not None:
            await loop.create_unix_connection(
                factory, origin.unix_socket, ssl=context, server_hostname=hostname
            )
        elif origin.proxy is None:
            await loop.create_connection(
                factory, origin.host, origin.port, ssl=context, server_hostname=hostname
            )
        elif context is None:
            await loop.create_connection(factory, origin.proxy.host, origin.proxy.port)
        else:
            await _tunnel(loop, origin, origin.proxy, factory())
    except OSError as error:  # ssl.SSLError and socket.gaierror are OSErrors
        raise ConnectFault(f"No connection to the upstream: {_words(error)}.") from error


async def _tunnel(
    loop: asyncio.AbstractEventLoop, origin: Origin, proxy: Proxy, protocol: asyncio.Protocol
) -> None:
    target = f"{origin.host}:{origin.port}" if ":" not in origin.host else f"[{origin.host}]:{origin.port}"
    handshake = _Handshake(loop)
    transport, _ = await loop.create_connection(lambda: handshake, proxy.host, proxy.port)
    try:
        name = target.encode("ascii")
        transport.write(b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (name, name, proxy.authorization))
        await handshake.answer
        secured = await loop.start_tls(
            transport,
            protocol,
            cast("ssl.SSLContext", origin.ssl_context),
            server_hostname=origin.server_hostname,
        )
        protocol.connection_made(cast("asyncio.Transport", secured))
    except BaseException:
        transport.abort()
        raise


class _Handshake(asyncio.Protocol):
    """Reads a proxy's answer to CONNECT; ``answer`` is done when the tunnel stands, or has its fault."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[None] = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._seen = 0

    def data_received(self, data: bytes) -> None:
        """asyncio callback."""
        self._seen += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("The proxy's answer is not HTTP.")
        if self._seen > _MAX_ANSWER_BYTES:
            self._fail("The proxy's answer is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio callback."""
        self._fail("The proxy closed the connection.")

    def on_headers_complete(self) -> None:
        """llhttp callback."""
        status = self._parser.get_status_code()
        if 200 <= status < 300 and not self.answer.done():
            self.answer.set_result(None)
        elif status >= 300:
            self._fail(f"The proxy refused the connection with status {status}.")

    def _fail(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectFault(reason))


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
