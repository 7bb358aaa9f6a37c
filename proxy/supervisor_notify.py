"""Tells a service manager how the product is, as systemd's sd_notify(3) protocol has it.

Invariant: whatever the manager does, nobody waits for it and nothing fails because of it. Standard library only.
"""

import contextlib
import socket
import time


class ServiceManager:
    """The receiver at ``address``, the value of NOTIFY_SOCKET; without one nothing is told to anybody."""

    def __init__(self, address: str | None = None) -> None:
        # An "@" stands for the zero byte that begins a name outside of the file system.
        self._address = "\0" + address[1:] if address is not None and address.startswith("@") else address

    def ready(self, status: str = "") -> None:
        """It serves (again)."""
        self._say("READY=1", *((f"STATUS={status}",) if status else ()))

    def reloading(self) -> None:
        """The configuration is being read; ``ready`` follows."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._say("STOPPING=1", f"STATUS={status}")

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)
