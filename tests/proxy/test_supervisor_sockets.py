"""The listening sockets of worker slots, with real sockets on loopback."""

import socket

import pytest

from proxy.supervisor_sockets import StartRefused, base_url, open_slots, resolve


def adopt(descriptor: int) -> socket.socket:
    """What a slot's process does with the descriptor it inherits (there a copy, as here)."""
    return socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)


def test_all_slots_share_one_port() -> None:
    """Port 0 becomes one free port; each slot has a socket of its own."""
    slots = open_slots("127.0.0.1", 0, 3)

    ports = {slot.port for slot in slots}
    assert len(ports) == 1
    assert ports != {0}
    assert len({slot.descriptors for slot in slots}) == 3
    for slot in slots:
        slot.close()


def test_what_waits_in_a_slot_outlives_its_process() -> None:
    """A connection that the first process never accepted is accepted by the next one, with what it sent."""
    (slot,) = open_slots("127.0.0.1", 0, 1)
    first = adopt(slot.descriptors[0])
    first.listen()
    with socket.create_connection(("127.0.0.1", slot.port), timeout=2) as caller:
        caller.sendall(b"hello")
        first.close()

        second = adopt(slot.descriptors[0])
        second.listen()
        connection, _ = second.accept()

        assert connection.recv(5) == b"hello"
        connection.close()
        second.close()
    slot.close()


def test_nobody_is_kept_waiting_before_a_worker_listens() -> None:
    """A slot without a process refuses connections at first, and again once everybody has let go."""
    (slot,) = open_slots("127.0.0.1", 0, 1)
    address = ("127.0.0.1", slot.port)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)
    worker = adopt(slot.descriptors[0])
    worker.listen()
    socket.create_connection(address, timeout=1).close()
    slot.close()
    socket.create_connection(address, timeout=1).close()
    worker.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


@pytest.mark.parametrize("shares", [True, False])
def test_a_port_in_use_is_refused_with_a_way_out(shares: bool) -> None:
    """Also when the other listener has SO_REUSEPORT, which would share it silently."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        other.bind(("127.0.0.1", 0))
        other.listen()

        with pytest.raises(StartRefused, match="--port"):
            open_slots("127.0.0.1", other.getsockname()[1], 2)


def test_a_name_with_two_addresses_is_listened_on_at_both() -> None:
    """`localhost` means ::1 as well where the machine has it; both get the same port."""
    families = {family for family, _ in resolve("localhost", 0)}
    try:
        slots = open_slots("localhost", 0, 2)
    except StartRefused as refused:
        pytest.skip(f"localhost can't be bound here: {refused}")

    assert 1 <= len(slots[0].descriptors) <= len(families)
    assert len(slots[0].descriptors) == len(slots[1].descriptors)
    for slot in slots:
        slot.close()


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    """An unknown name and somebody else's address; nothing stays open."""
    with pytest.raises(StartRefused, match="listen"):
        open_slots(host, 0, 1)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("fe80::1", "http://[fe80::1]:1"),
        ("example", "http://example:1"),
    ],
)
def test_the_ready_line_shows_a_url_that_works(host: str, url: str) -> None:
    """A wildcard address is shown as the loopback address."""
    assert base_url(host, 1) == url
