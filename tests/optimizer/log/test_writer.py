"""Appending: one write per line, rotation, and what happens when the disk will not have it."""

import errno
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.log.reader import LogReader
from optimizer.log.writer import DETAIL, Disk, LogWriter, WriterBounds, encode, event_source, rfc3339

MakeWriter = Callable[..., LogWriter]


class Clock:
    """Monotonic seconds that move only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FaultyDisk:
    """Writes to the real file, in the way that ``plan`` says for the coming writes; then normally.

    An item of the plan is an errno to raise, or how many bytes of the line to let through.
    """

    def __init__(self) -> None:
        self.plan: list[int | OSError] = []

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.plan:
            return os.write(descriptor, data)
        step = self.plan.pop(0)
        if isinstance(step, OSError):
            raise step
        return os.write(descriptor, data[:step])


def number(i: int) -> bytes:
    return b'{"n":%d}\n' % i


def read_numbers(log_directory: Path) -> list[int]:
    batch = LogReader(log_directory).poll({})
    return [orjson.loads(entry.line)["n"] for entry in batch.entries]


def test_lines_are_there_as_soon_as_append_returns(make_writer: MakeWriter) -> None:
    """Nothing is buffered: another process could read the line at once."""
    writer = make_writer()

    writer.append(number(1))

    assert (writer.directory / "00000001.jsonl").read_bytes() == b'{"n":1}\n'
    assert writer.directory.name == "000000a1-00000001-worker"
    assert (writer.lines_written, writer.bytes_written, writer.lost) == (1, 8, {})


def test_a_segment_that_is_full_or_old_is_followed_by_the_next(make_writer: MakeWriter) -> None:
    """Rotation goes by bytes and, when something is appended, by age."""
    clock = Clock()
    writer = make_writer(disk=Disk(clock=clock), segment_bytes=20, segment_age_s=60.0)

    for i in range(4):
        writer.append(number(i))
    clock.now += 61
    writer.append(number(4))

    sizes = [path.stat().st_size for path in sorted(writer.directory.glob("*.jsonl"))]
    assert sizes == [24, 8, 8]


def test_an_incarnation_that_is_used_again_overwrites_nothing(make_writer: MakeWriter) -> None:
    """It should not happen; if it does, the old segments stay as they are."""
    first = make_writer(1)
    first.append(number(1))
    first.close()

    second = make_writer(1)
    second.append(number(2))

    assert [path.read_bytes() for path in sorted(second.directory.glob("*.jsonl"))] == [number(1), number(2)]


def test_a_torn_line_is_closed_off_and_the_next_one_is_whole(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """However much of a line got through, readers see the whole lines only."""
    for kept in range(1, 8):
        clock, disk = Clock(), FaultyDisk()
        writer = make_writer(kept, disk=Disk(clock=clock, write=disk.write))
        writer.append(number(kept * 10))
        disk.plan = [kept]
        writer.append(number(kept * 10 + 1))
        clock.now += 1
        writer.append(number(kept * 10 + 2))
        assert writer.lost == {"disk_full": 1}

    expected = [kept * 10 + i for kept in range(1, 8) for i in (0, 2)]
    assert read_numbers(log_directory) == expected


def test_tearing_again_within_the_mark_still_recovers(make_writer: MakeWriter, log_directory: Path) -> None:
    """The next try may itself be cut short, in the mark or in the line after it."""
    clock, disk = Clock(), FaultyDisk()
    writer = make_writer(disk=Disk(clock=clock, write=disk.write))
    disk.plan = [3, 2, 9]
    for i in range(4):
        writer.append(number(i))
        clock.now += 10

    assert read_numbers(log_directory) == [3]
    assert writer.lost == {"disk_full": 3}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EFBIG, "disk_full"),
        (errno.EIO, "io_error"),
    ],
)
def test_after_an_error_it_pauses_and_tries_again(
    make_writer: MakeWriter, log_directory: Path, code: int, reason: str
) -> None:
    """Lines during the pause are lost and counted under the same reason, without a system call each."""
    clock, disk = Clock(), FaultyDisk()
    writer = make_writer(disk=Disk(clock=clock, write=disk.write))
    writer.append(number(0))
    disk.plan = [OSError(code, "no"), OSError(code, "no")]

    writer.append(number(1))
    writer.append(number(2))
    still_planned = len(disk.plan)
    clock.now += 0.06
    writer.append(number(3))
    clock.now += 0.06
    writer.append(number(4))
    clock.now += 0.06
    writer.append(number(5))

    assert still_planned == 1
    assert writer.lost == {reason: 4}
    assert read_numbers(log_directory) == [0, 5]


def test_a_directory_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    """A writer can be made where nothing can be written, and starts to write when it can."""
    clock = Clock()
    blocked = tmp_path / "log"
    blocked.write_text("a file where the directory should be")
    writer = LogWriter(
        blocked,
        node=1,
        incarnation=1,
        role="worker",
        bounds=WriterBounds(reserve_bytes=0),
        disk=Disk(clock=clock),
    )

    writer.append(number(1))
    blocked.unlink()
    clock.now += 10
    writer.append(number(2))
    writer.close()

    assert writer.lost == {"io_error": 1}
    assert read_numbers(blocked) == [2]


def test_the_reserve_is_left_to_others_least_important_lines_first(make_writer: MakeWriter) -> None:
    """Statistics stop at twice the reserve, requests at the reserve; both come back with the space."""
    clock = Clock()
    free = [250]
    writer = make_writer(disk=Disk(clock=clock, free_bytes=lambda path: free[0]), reserve_bytes=100)

    outcomes = []
    for free[0] in (250, 150, 50, 250):
        clock.now += 1.1
        before = writer.lines_written
        writer.append(number(1))
        vital = writer.lines_written - before
        writer.append(number(2), priority=DETAIL)
        outcomes.append((vital, writer.lines_written - before - vital))

    assert outcomes == [(1, 1), (1, 0), (0, 0), (1, 1)]
    assert writer.lost == {"disk_full": 3}


def test_free_space_is_looked_at_once_a_second(make_writer: MakeWriter) -> None:
    """Appending costs no extra system call in between."""
    clock = Clock()
    looks = []

    def free_bytes(path: Path) -> int:
        looks.append(clock.now)
        return 10**9

    writer = make_writer(disk=Disk(clock=clock, free_bytes=free_bytes))
    for _ in range(100):
        writer.append(number(1))
        clock.now += 0.05

    assert 4 <= len(looks) <= 6


def test_a_spent_lease_loses_by_class_until_it_is_renewed(
    make_writer: MakeWriter, log_directory: Path
) -> None:
    """Without a sweep the log stays under its cap; refusal closes the segment, so a sweep can make room."""
    clock = Clock()
    writer = make_writer(disk=Disk(clock=clock))
    lease = log_directory / "lease"
    lease.write_text("40\n")
    clock.now += 2

    for i in range(4):
        writer.append(number(i))
    writer.append(number(4), priority=DETAIL)
    writer.append(number(5))
    writer.append(number(6))
    segments_when_refused = len(list(writer.directory.glob("*.jsonl")))
    lease.unlink()
    lease.write_text("1000\n")
    clock.now += 2
    writer.append(number(7))

    assert read_numbers(log_directory) == [0, 1, 2, 3, 5, 7]
    assert writer.lost == {"cap": 2}
    assert segments_when_refused == 2


def test_a_slow_disk_moves_writing_to_a_thread_and_back(log_directory: Path) -> None:
    """After a slow write nothing waits for the disk, until it is quick again; order is kept throughout."""
    gate = threading.Event()
    slow = threading.Event()
    slow.set()

    def write(descriptor: int, data: bytes) -> int:
        if slow.is_set():
            if threading.current_thread().name == "log-writer":
                gate.wait(20)
            else:
                time.sleep(0.01)
        return os.write(descriptor, data)

    writer = LogWriter(
        log_directory,
        node=1,
        incarnation=1,
        role="worker",
        bounds=WriterBounds(reserve_bytes=0, slow_write_s=0.005),
        disk=Disk(write=write),
    )
    writer.append(number(0))
    diverted_at_once = writer.diverted
    for i in range(1, 40):
        writer.append(number(i))
    waiting = writer.state()["queued_bytes"]
    slow.clear()
    gate.set()
    deadline = time.monotonic() + 20
    last = 40
    while writer.diverted and time.monotonic() < deadline:
        writer.append(number(last))
        last += 1
        time.sleep(0.001)
    writer.append(number(last))
    writer.close()

    assert diverted_at_once
    assert waiting > 0
    assert not writer.diverted
    assert not writer.lost
    assert read_numbers(log_directory) == list(range(last + 1))


def test_the_threads_queue_is_bounded_and_loses_statistics_first(log_directory: Path) -> None:
    """With the disk stuck, half the queue is for requests alone; what is beyond its bounds is counted."""
    gate = threading.Event()
    calls: list[bytes] = []

    def write(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            gate.wait(20)
        return os.write(descriptor, data)

    clock_calls = iter(range(10**9))
    writer = LogWriter(
        log_directory,
        node=1,
        incarnation=1,
        role="worker",
        bounds=WriterBounds(reserve_bytes=0, queue_lines=10, queue_bytes=10**6),
        disk=Disk(write=write, clock=lambda: float(next(clock_calls))),
    )
    writer.append(number(0))  # Every reading of this clock is a second later, so this was slow.
    writer.append(number(1))
    deadline = time.monotonic() + 20
    while len(calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)  # The thread holds line 1 now.

    for i in range(2, 10):
        writer.append(number(i), priority=DETAIL)
    statistics_lost = writer.lost["queue_full"]
    for i in range(10, 20):
        writer.append(number(i))
    gate.set()
    writer.close()

    assert statistics_lost == 3
    assert writer.lost == {"queue_full": 8}
    assert read_numbers(log_directory) == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14]


def test_closing_does_not_wait_for_ever_for_a_stuck_disk(log_directory: Path) -> None:
    """A drain must end; what is still queued is counted."""
    gate, stuck = threading.Event(), threading.Event()
    clock_calls = iter(range(10**9))

    def write(descriptor: int, data: bytes) -> int:
        if threading.current_thread().name == "log-writer":
            stuck.set()
            gate.wait(20)
        return os.write(descriptor, data)

    writer = LogWriter(
        log_directory,
        node=1,
        incarnation=1,
        role="worker",
        bounds=WriterBounds(reserve_bytes=0),
        disk=Disk(write=write, clock=lambda: float(next(clock_calls))),
    )
    writer.append(number(0))
    writer.append(number(1))
    assert stuck.wait(20)
    for i in range(2, 5):
        writer.append(number(i))

    writer.close(timeout_s=0.05)

    assert writer.lost == {"queue_full": 3}
    gate.set()


def test_a_process_that_is_never_idle_gets_direct_writing_back(log_directory: Path) -> None:
    """The thread competes with a busy loop for its turns, and still hands back soon."""
    slow = [True]

    def write(descriptor: int, data: bytes) -> int:
        if slow.pop() if slow else False:
            time.sleep(0.02)
        return os.write(descriptor, data)

    writer = LogWriter(
        log_directory,
        node=1,
        incarnation=1,
        role="worker",
        bounds=WriterBounds(reserve_bytes=0, queue_bytes=10**9, queue_lines=10**9, slow_write_s=0.01),
        disk=Disk(write=write),
    )
    written = handed_back = 0
    deadline = time.monotonic() + 20
    while not handed_back and time.monotonic() < deadline:
        writer.append(number(written))
        written += 1
        handed_back = written > 1 and not writer.diverted
    writer.append(number(written))
    writer.close()

    assert handed_back
    assert not writer.lost
    assert writer.lines_written == written + 1
    batch = LogReader(log_directory).poll({}, 1 << 30)
    found = [orjson.loads(entry.line)["n"] for entry in batch.entries]
    assert found == list(range(written + 1))


def test_a_batch_from_the_queue_that_is_cut_short_is_counted_line_by_line(log_directory: Path) -> None:
    """What got through whole is written, the rest is lost, and the torn line is closed off."""
    gate, stuck = threading.Event(), threading.Event()
    cuts = [20]
    clock_calls = iter(range(10**9))

    def write(descriptor: int, data: bytes) -> int:
        if threading.current_thread().name == "log-writer":
            stuck.set()
            gate.wait(20)
            if len(data) > 20 and cuts:
                return os.write(descriptor, data[: cuts.pop()])
        return os.write(descriptor, data)

    writer = LogWriter(
        log_directory,
        node=1,
        incarnation=1,
        role="worker",
        bounds=WriterBounds(reserve_bytes=0),
        disk=Disk(write=write, clock=lambda: float(next(clock_calls))),
    )
    writer.append(number(0))
    writer.append(number(1))
    assert stuck.wait(20)
    for i in range(2, 7):
        writer.append(number(i))
    gate.set()
    writer.close()

    assert writer.lost == {"disk_full": 3}
    assert writer.lines_written == 4
    assert read_numbers(log_directory) == [0, 1, 2, 3]


def test_an_event_is_a_cloud_event_on_one_line() -> None:
    """The envelope carries the fixed attributes, whatever the data."""
    line = encode(
        "req_1", "llm_optimizer.request.v1", event_source(0xA1, "worker", 3), 1_790_000_000_123, {"a": "x\ny"}
    )

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert orjson.loads(line) == {
        "specversion": "1.0",
        "id": "req_1",
        "source": "/000000a1/worker/3",
        "type": "llm_optimizer.request.v1",
        "time": "2026-09-21T14:13:20.123Z",
        "data": {"a": "x\ny"},
    }


@given(st.integers(0, 4_102_444_800_000))
def test_times_are_rfc_3339(time_ms: int) -> None:
    """Milliseconds survive, in UTC, with a Z."""
    text = rfc3339(time_ms)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000) == time_ms


@pytest.mark.parametrize("size", [0, 2**31 + 1])
def test_segments_must_fit_the_position_index(log_directory: Path, size: int) -> None:
    """Offsets are 32-bit."""
    with pytest.raises(ValueError, match="segment_bytes"):
        LogWriter(log_directory, node=1, incarnation=1, role="w", bounds=WriterBounds(segment_bytes=size))
