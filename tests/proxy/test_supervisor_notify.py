"""What a service manager hears, over a real datagram socket as systemd's."""

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.supervisor_notify import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """NOTIFY_SOCKET and the socket behind it."""
    name = f"@{secrets.token_hex(8)}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name[1:] if name.startswith("@") else name)
        receiver.settimeout(2)
        yield name, receiver


def test_each_change_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    told = ServiceManager(address)
    told.ready("serving")
    told.reloading()
    told.ready()
    told.stopping("draining")
    heard = [receiver.recv(4096).decode().split("\n") for _ in range(4)]

    assert heard[0] == ["READY=1", "STATUS=serving"]
    assert heard[1][0] == "RELOADING=1"
    assert int(heard[1][1].removeprefix("MONOTONIC_USEC=")) > 0
    assert heard[2:] == [["READY=1"], ["STOPPING=1", "STATUS=draining"]]


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    """No manager, none any more, and one that reads nothing."""
    ServiceManager().ready("x")
    ServiceManager("").ready("x")
    ServiceManager(str(tmp_path / "gone")).ready("x")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        told = ServiceManager(str(tmp_path / "deaf"))
        for _ in range(2000):
            told.ready("x")
