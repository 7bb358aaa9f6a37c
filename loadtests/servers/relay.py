"""A TCP relay in front of any server, that can pass, refuse, stall and cut: a network that fails.

It runs in a thread of its own, so that tests with and without an event loop can use it, and it keeps its port while it
refuses.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from typing import Final, Literal

Mode = Literal["pass", "refuse", "stall", "cut"]

_CHUNK: Final = 256 * 1024
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST.


class Relay:
    """Forwards from its ``port`` to ``target`` (host:port, which may be set later).

    ``mode``: ``pass``; ``refuse``: present connections are reset, new ones refused; ``stall``: connections are taken
    and kept, but no byte gets through until the mode is another (then those that waited do); ``cut``: present and new
    connections are reset. ``delay_s`` is added to every chunk in both directions.
    """

    def __init__(self, target: str = "") -> None:
        self.target = target
        self.delay_s = 0.0
        # Bound, never listening: it keeps the port ours while nobody listens there.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self._mode: Mode = "refuse"
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()
        self.mode = "pass"

    @property
    def address(self) -> str:
        """host:port that clients connect to."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._writers) // 2

    @property
    def mode(self) -> Mode:
        """What happens to connections; in force when the assignment returns."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        asyncio.run_coroutine_threadsafe(self._set(mode), self._loop).result(10)

    def drop(self) -> None:
        """Reset the present connections, once."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(10)

    def close(self) -> None:
        """End everything; the relay is of no use afterwards."""
        if not self._loop.is_closed():
            self.mode = "refuse"
            asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
            self._reserved.close()

    async def _set(self, mode: Mode) -> None:
        self._mode = mode
        if mode in ("refuse", "cut"):
            await self._drop()
        if mode == "stall":
            self._flowing.clear()
        else:
            self._flowing.set()
        if mode == "refuse":
            if self._server is not None:
                self._server.close()
                self._server = None
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=_bound(self.port), limit=_CHUNK)

    async def _drop(self) -> None:
        for writer in self._writers:
            _reset(writer)
        self._writers.clear()

    async def _finish(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._mode == "cut":
            _reset(writer)
            return
        self._writers.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            await self._flowing.wait()
            host, _, port = self.target.rpartition(":")
            back, onward = await asyncio.open_connection(host, int(port), limit=_CHUNK)
            self._writers.add(onward)
            await asyncio.gather(self._pump(reader, onward), self._pump(back, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, onward):
                if end is not None:
                    self._writers.discard(end)
                    _reset(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
