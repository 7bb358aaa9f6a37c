"""The listening side: sockets, connection bookkeeping, drain.

Invariant: every accepted connection belongs to exactly one ``Server`` until it is lost; there is no task per
connection or request, and one timer for all deadlines.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

from optimizer.routing import Limits
from proxy.http1.messages import Application
from proxy.http1.server_connection import ServerConnection
from proxy.http1.server_state import QUIET_S, ServerState

_BACKLOG = 2048
# What the last bytes of the replies that drain() ends may take to get out.
_FLUSH_S = 2.0


class Server:
    """Serves an application over any number of listening sockets.

    ``limits`` is called for every request, so that a reload takes effect at once.
    """

    def __init__(
        self,
        app: Application,
        limits: Callable[[], Limits],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._state = ServerState(app, limits, self._loop, clock)
        self._servers: list[asyncio.AbstractServer] = []

    async def listen(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Listen on TCP; port 0 picks a free one. Returns the port. Raises OSError."""
        server = await self._loop.create_server(
            self._connection, host, port, reuse_port=reuse_port or None, backlog=_BACKLOG
        )
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def listen_socket(self, sock: socket.socket) -> int:
        """Listen on a bound TCP socket. Returns its port. Raises OSError.

        A socket whose other descriptors stay open elsewhere keeps its queue of new connections when this server
        stops, so that whoever takes it over serves them.
        """
        server = await self._loop.create_server(self._connection, sock=sock, backlog=_BACKLOG)
        self._servers.append(server)
        bound: int = sock.getsockname()[1]
        return bound

    async def listen_unix(self, path: str | Path) -> None:
        """Listen on a unix socket. Raises OSError."""
        self._servers.append(
            await self._loop.create_unix_server(self._connection, str(path), backlog=_BACKLOG)
        )

    @property
    def open_connections(self) -> int:
        """Accepted and not yet lost."""
        return len(self._state.connections)

    @property
    def inflight(self) -> int:
        """Requests that are with the application."""
        return self._state.inflight

    @property
    def buffered_bytes(self) -> int:
        """Bytes of request bodies and unsent replies that are held now; see ``budget``."""
        return self._state.budget.held

    @property
    def evicted(self) -> int:
        """Slow readers cut so far because memory was short."""
        return self._state.budget.evicted

    def announce_drain(self) -> None:
        """From now on every reply says ``connection: close``; new connections are still accepted."""
        self._state.closing_replies = True

    async def drain(self, seconds: float) -> int:
        """Stop accepting, let requests finish for up to ``seconds``, then end the rest.

        A connection without a request is closed once it was quiet for a second, because its client may be about
        to use it; until then its next request is served. At the end the listeners of open requests are told,
        and what they still write has two seconds to get out. Returns how many requests were cut.
        """
        state = self._state
        state.draining = state.closing_replies = True
        # What the kernel has accepted already is taken over before the socket goes, which would reset it.
        await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        self._servers.clear()
        soon = state.sweeper.soon
        for connection in list(state.connections):
            since = connection.quiet_since()
            if since <= soon - QUIET_S:
                connection.close_quiet()
            elif since <= soon:
                connection.deadline = min(connection.deadline, since + QUIET_S)
        await self._emptied(seconds)
        cut = {connection for connection in list(state.connections) if connection.stop()}
        await self._emptied(_FLUSH_S)
        cut |= {connection for connection in list(state.connections) if connection.kill()}
        if state.connections:
            # abort() reports the loss in the next turns of the loop
            await self._emptied(5)
        state.stop()
        return len(cut)

    async def _emptied(self, seconds: float) -> None:
        """Wait until there is no connection any more, for up to ``seconds``."""
        state = self._state
        if not state.connections:
            return
        empty = asyncio.Event()
        state.on_empty = empty.set
        try:
            async with asyncio.timeout(seconds):
                await empty.wait()
        except TimeoutError:
            pass

    def _connection(self) -> ServerConnection:
        return ServerConnection(self._state)
