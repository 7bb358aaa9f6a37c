"""The public port: held by the supervisor, one listening socket for each worker slot.

The invariant is that a slot's sockets outlive its processes. What waits in a socket's queue when a worker dies or is
replaced is taken by the slot's next process, because the kernel resets a queue only when nobody holds the socket.
Standard library only.
"""

import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import Any, Final

Address = tuple[int, Any]
"""(family, what ``bind`` takes)."""

_ABSENT: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class StartRefused(Exception):
    """``serve`` can't start here; the message says what to do."""


class SlotSockets:
    """The sockets of one worker slot: one for each address of the host. Bound; the slot's process listens."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = tuple(sockets)

    @property
    def port(self) -> int:
        """The port that all of them have."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the slot's process inherits."""
        return tuple(sock.fileno() for sock in self._sockets)

    def close(self) -> None:
        """Let go; a process that still holds the sockets keeps them open."""
        for sock in self._sockets:
            sock.close()


def open_slots(host: str, port: int, count: int) -> list[SlotSockets]:
    """Bind ``count`` slots to an address; port 0 becomes one free port for all of them.

    Raises:
        StartRefused: The address is taken, not ours, or unknown.
    """
    slots: list[SlotSockets] = []
    with contextlib.ExitStack() as undo:
        for number in range(count):
            slot = SlotSockets(_open_slot(resolve(host, port), is_first=number == 0))
            undo.callback(slot.close)
            port = slot.port
            slots.append(slot)
        undo.pop_all()
    return slots


def resolve(host: str, port: int) -> list[Address]:
    """The addresses that listening on ``host`` means; ``localhost`` may have two.

    Raises:
        StartRefused: The host is unknown.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartRefused(f"the host {host!r} can't be listened on: {error}") from error
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def hold_port(family: int, address: Any, *, is_first: bool = True) -> socket.socket:
    """Bind a SO_REUSEPORT socket; ``is_first``: nobody else may have the port, not even sharing it.

    A listener of somebody else is found here, with one clear message. The socket does not listen: until a worker
    does, callers are refused rather than kept waiting.

    Raises:
        StartRefused: The address is taken or not ours.
    """
    # SO_REUSEPORT alone would let two products of one user share the port silently: ask without it first.
    if is_first and address[1]:
        with _socket(family) as probe:
            _bind(probe, address)
    holder = _socket(family)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(holder, address)
    except StartRefused:
        holder.close()
        raise
    return holder


def base_url(host: str, port: int) -> str:
    """The URL a local client uses for a listener on ``host``."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound
    if ":" in shown and not shown.startswith("["):
        shown = f"[{shown}]"
    return f"http://{shown}:{port}"


def _open_slot(addresses: Sequence[Address], *, is_first: bool) -> list[socket.socket]:
    made: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for family, (name, port, *rest) in addresses:
            wanted = port or (made[0].getsockname()[1] if made else 0)
            try:
                sock = hold_port(family, (name, wanted, *rest), is_first=is_first)
            except StartRefused as refused:
                # `localhost` is often known as ::1 on machines without IPv6.
                if len(addresses) > 1 and _code(refused) in _ABSENT:
                    continue
                raise
            undo.callback(sock.close)
            made.append(sock)
        undo.pop_all()
    if not made:
        raise StartRefused(f"no address of {addresses} can be listened on. Choose another --host.")
    return made


def _code(refused: StartRefused) -> int | None:
    cause = refused.__cause__
    return cause.errno if isinstance(cause, OSError) else None


def _socket(family: int) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise StartRefused(f"can't listen: {error.strerror}. Choose another --host.") from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # As the event loop does it: "::" and "0.0.0.0" are two addresses.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _bind(sock: socket.socket, address: Any) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        raise StartRefused(
            f"can't listen on {address[0]}:{address[1]}: {error.strerror}. "
            "Stop what uses it, or choose another port with --port."
        ) from error
