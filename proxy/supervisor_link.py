"""The channel between the supervisor and one child: JSON objects, one per line, on a socket pair.

The invariant is that the end of the channel is the end of its owner: a child whose link ends knows that its
supervisor is gone, however it went, and nothing has to be polled. Messages are small (secrets, ready, stop), so
the socket's own buffer is the queue; a message that does not fit ends the link. Standard library only: workers
and the supervisor start through this module.
"""

import json
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Message = dict[str, Any]

# How a child is told to stop: ``{"stop": ...}``. Workers know the difference.
DRAIN: Final = "drain"
"""Not ready any more, but serving for the drain delay; then no new connection, and what is under way ends."""
QUICKLY: Final = "quickly"
"""The same without the delay: nobody else is going to send callers elsewhere."""
RETIRE: Final = "retire"
"""Another process of the slot has taken over: let go of the port, answer what is under way or just coming."""
AT_ONCE: Final = "at once"
"""Cut what is under way, so that its callers can see it, and end."""

MAX_LINE_BYTES = 4 * 1024 * 1024
_SEND_TIMEOUT_S = 5.0


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected (supervisor end, child end); neither is inherited unless passed by its descriptor."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class LineBuffer:
    """Cuts a byte stream into JSON objects; anything else on a line raises ``ValueError``."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that ``data`` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError("a message on the supervisor link is too long")
        messages = []
        for line in lines:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("a message on the supervisor link must be an object")  # noqa: TRY004 - bytes are at fault
            messages.append(message)
        return messages


class Link:
    """One end of the channel.

    ``send`` may be called before ``attach``, so a child can report before it has an event loop. After ``attach``,
    ``on_message`` is called for every message, in order, and ``on_end`` exactly once when the other side is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(_SEND_TIMEOUT_S)
        self._buffer = LineBuffer()
        self._loop: AbstractEventLoop | None = None
        self._on_message: Callable[[Message], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self.ended = False

    @classmethod
    def from_descriptor(cls, descriptor: int) -> "Link":
        """Adopt the inherited descriptor that ``--link-fd`` names."""
        sock = socket.socket(fileno=descriptor)
        sock.set_inheritable(False)
        return cls(sock)

    def send(self, message: Mapping[str, Any]) -> bool:
        """Send one message; False when the other side is gone (which ``on_end`` reports as well)."""
        if self.ended:
            return False
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            self._sock.settimeout(_SEND_TIMEOUT_S)
            self._sock.sendall(data)
        except OSError:
            return False
        finally:
            if self._loop is not None:
                self._sock.setblocking(False)
        return True

    def attach(
        self,
        loop: "AbstractEventLoop",
        *,
        on_message: Callable[[Message], None],
        on_end: Callable[[], None],
    ) -> None:
        """Read from now on, in ``loop``."""
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        self._sock.setblocking(False)
        loop.add_reader(self._sock.fileno(), self._readable)

    def close(self) -> None:
        """Stop reading and close; ``on_end`` is not called."""
        self.ended = True
        if self._loop is not None and self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(64 * 1024)
            messages = self._buffer.feed(data)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ValueError):
            data, messages = b"", []
        if self._on_message is not None:
            for message in messages:
                self._on_message(message)
        if not data and not self.ended:
            self.close()
            if self._on_end is not None:
                self._on_end()
