"""Making a connection to an origin: TCP or unix socket, through a proxy if there is one, TLS on top.

Invariants: whatever fails, nothing stays open; and every address is judged (``proxy.http1.addresses``) before it is
connected to, a name being resolved once, so that the address judged is the address used. No data-plane byte is read or
written here except a CONNECT and its answer.
"""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TypeAlias, TypeVar, cast

import httptools

from proxy.errors import ConnectFault
from proxy.http1.addresses import host_problem, literal, resolution_problem
from proxy.http1.origin import Origin, Proxy

_MAX_ANSWER_BYTES = 16 * 1024
# How long an address has the field to itself before the next one is tried beside it (RFC 8305).
_STAGGER_S = 0.25
_MAX_ADDRESSES = 16

_log = logging.getLogger("llm_optimizer.connect")

P = TypeVar("P", bound=asyncio.Protocol)
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to addresses as text."""


async def connect(
    loop: asyncio.AbstractEventLoop,
    origin: Origin,
    factory: Callable[[], P],
    *,
    resolve: Resolve | None = None,
) -> None:
    """Connect a protocol made by ``factory``; its ``connection_made`` hands over the transport.

    ``resolve`` is the system's resolver unless given.

    Raises:
        ConnectFault: If the origin or the proxy can't or must not be reached, or TLS does not verify.
    """
    context, hostname = origin.ssl_context, origin.server_hostname
    try:
        if origin.unix_socket is not None:
            await loop.create_unix_connection(
                factory, origin.unix_socket, ssl=context, server_hostname=hostname
            )
            return
        _judge_host(origin, origin.host)
        dial = _Dialler(loop, origin, resolve)
        if origin.proxy is None:
            await dial.connect(origin.host, origin.port, factory, context=context, server_hostname=hostname)
        elif context is None:
            await dial.connect(origin.proxy.host, origin.proxy.port, factory)
        else:
            await _tunnel(loop, origin, dial, origin.proxy, factory())
    except OSError as error:  # ssl.SSLError and socket.gaierror are OSErrors
        raise ConnectFault(f"No connection to the upstream: {_words(error)}.") from error


class _Dialler:
    """Connects to hosts on behalf of an origin, by its rules."""

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, resolve: Resolve | None) -> None:
        self._loop = loop
        self._origin = origin
        self._resolve = resolve

    async def connect(
        self,
        host: str,
        port: int,
        factory: Callable[[], P],
        *,
        context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> asyncio.Transport:
        """Connect to an address that was judged; TLS still verifies the name."""
        addresses = await self._addresses(host, port)
        if len(addresses) == 1:
            transport, _ = await self._loop.create_connection(
                factory, addresses[0], port, ssl=context, server_hostname=server_hostname
            )
            return transport
        connected = await _first_of(self._loop, addresses, port)
        try:
            transport, _ = await self._loop.create_connection(
                factory, sock=connected, ssl=context, server_hostname=server_hostname
            )
        except BaseException:
            connected.close()
            raise
        return transport

    async def _addresses(self, host: str, port: int) -> list[str]:
        """Where ``host`` is, every address judged; families take turns, the resolver's favourite first."""
        _judge_host(self._origin, host)
        if literal(host) is not None:
            return [host]
        resolve = self._resolve or self._ask_system
        found = list(dict.fromkeys(await resolve(host, port)))
        problem = resolution_problem(host, map(ip_address, found), allow_private=self._origin.allow_private)
        if problem is not None:
            _refuse(self._origin, host, problem, ", ".join(found[:_MAX_ADDRESSES]))
        if not found:
            raise ConnectFault("No connection to the upstream: its name has no address.")
        first = [address for address in found if (":" in address) == (":" in found[0])]
        others = [address for address in found if address not in first]
        turns = chain.from_iterable(zip_longest(first, others))
        return [address for address in turns if address is not None][:_MAX_ADDRESSES]

    async def _ask_system(self, host: str, port: int) -> list[str]:
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [str(address[0]) for *_, address in found]


def _judge_host(origin: Origin, host: str) -> None:
    problem = host_problem(host)
    if problem is not None:
        _refuse(origin, host, f"its address is not accepted; {problem.rstrip('.')}", "")


def _refuse(origin: Origin, host: str, problem: str, addresses: str) -> None:
    """The caller learns the reason; the operator, once, also the addresses."""
    if host not in origin.refused:
        origin.refused.add(host)
        _log.error("connections to %s are refused: %s", host, problem, extra={"addresses": addresses})
    raise ConnectFault(f"No connection to the upstream: {problem}.")


async def _first_of(loop: asyncio.AbstractEventLoop, addresses: Sequence[str], port: int) -> socket.socket:
    """A socket connected to whichever address answers first; each gets its turn after a while, or a failure.

    Raises:
        OSError: What the last one failed of.
    """
    waiting = list(addresses)
    attempts: set[asyncio.Task[socket.socket]] = set()
    try:
        while True:
            if waiting:
                attempts.add(loop.create_task(_dial(loop, waiting.pop(0), port)))
            await asyncio.wait(
                attempts,
                timeout=_STAGGER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in [attempt for attempt in attempts if attempt.done()]:
                if attempt.exception() is None:
                    attempts.discard(attempt)
                    return attempt.result()
                if waiting or len(attempts) > 1:
                    attempts.discard(attempt)
                else:
                    return attempt.result()  # raises what the last one failed of
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_late)


async def _dial(loop: asyncio.AbstractEventLoop, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    dialled = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        dialled.setblocking(False)
        await loop.sock_connect(dialled, (address, port))
    except BaseException:
        dialled.close()
        raise
    return dialled


def _close_late(attempt: "asyncio.Task[socket.socket]") -> None:
    """Another address was faster."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _tunnel(
    loop: asyncio.AbstractEventLoop,
    origin: Origin,
    dial: _Dialler,
    proxy: Proxy,
    protocol: asyncio.Protocol,
) -> None:
    target = f"{origin.host}:{origin.port}" if ":" not in origin.host else f"[{origin.host}]:{origin.port}"
    handshake = _Handshake(loop)
    transport = await dial.connect(proxy.host, proxy.port, lambda: handshake)
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
    """What went wrong, without the address that asyncio writes into its messages."""
    if isinstance(error, ssl.SSLError | socket.gaierror) or error.errno is None:
        return error.strerror or type(error).__name__
    return os.strerror(error.errno)
