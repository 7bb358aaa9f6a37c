"""The listening side: sockets, connection bookkeeping, drain.

Invariant: every accepted connection belongs to exactly one ``Server`` until it is lost; there is no task per
connection or request, and one timer for all deadlines.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from optimizer.routing import Limits
from proxy.http1.messages import Application
from proxy.http1.server_connection import ServerConnection
from proxy.http1.server_state import ServerState

_BACKLOG = 2048


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

    def announce_drain(self) -> None:
        """From now on every reply says ``connection: close``; new connections are still accepted."""
        self._state.closing_replies = True

    async def drain(self, seconds: float) -> int:
        """Stop accepting, let requests finish for up to ``seconds``, cut the rest.

        Returns how many were cut.
        """
        state = self._state
        state.draining = state.closing_replies = True
        for server in self._servers:
            server.close()
        for connection in list(state.connections):
            connection.drain()
        empty = asyncio.Event()
        state.on_empty = empty.set
        if state.connections:
            try:
                async with asyncio.timeout(seconds):
                    await empty.wait()
            except TimeoutError:
                pass
        cut = sum([connection.kill() for connection in list(state.connections)])
        if state.connections:
            # abort() reports the loss in the next turns of the loop
            await asyncio.wait_for(empty.wait(), 5)
        self._servers.clear()
        state.stop()
        return cut

    def _connection(self) -> ServerConnection:
        return ServerConnection(self._state)
