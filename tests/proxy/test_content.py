"""Content on disk: who may read it, how much of it there is, and that it never hurts a request."""

import os
import stat
from pathlib import Path

import pytest

from optimizer.judging.sample import Sample, encode
from proxy.content import (
    LOOKED_S,
    MOST_SEGMENTS,
    ContentWriter,
    closed_segments,
    read_segment,
    stored_bytes,
    sweep,
)


class Clock:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def line(number: int = 1, answer: str = "42") -> bytes:
    return encode(Sample(f"req_{number}", "chat", "a", "mk", "vk", 1, 0.5, "chat", {}, answer))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(tmp_path: Path, clock: Clock) -> ContentWriter:
    return ContentWriter(tmp_path / "content", source="1-1-worker", clock=clock, most_bytes=4096)


def test_a_segment_is_handed_over_after_about_a_second(
    writer: ContentWriter, clock: Clock, tmp_path: Path
) -> None:
    """What is being written belongs to the worker; then it is whole, for the owner only."""
    assert writer.append(line(1))
    writer.tick()
    assert closed_segments(tmp_path / "content", now=0.0) == []
    assert writer.append(line(2))
    clock.time += 1.0
    writer.tick()

    (path,) = closed_segments(tmp_path / "content", now=0.0)
    assert [sample.request_id for sample in read_segment(path)] == ["req_1", "req_2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert writer.report()["kept"] == 2


def test_no_more_is_kept_than_the_cap(writer: ContentWriter, tmp_path: Path) -> None:
    """When nobody judges, sampling stops; requests do not notice."""
    for number in range(10):
        writer.append(line(number, "x" * 1000))
        writer.close()

    assert writer.report()["full"] > 0
    assert stored_bytes(tmp_path / "content") < 4096 + 1200


def test_a_segment_is_not_preceded_by_a_walk_over_thousands_of_others(tmp_path: Path, clock: Clock) -> None:
    """When nobody judges, segments are few as well as small, and they are not looked at for every new one."""
    directory = tmp_path / "content"
    directory.mkdir()
    for number in range(MOST_SEGMENTS):
        (directory / f"old-{number}.jsonl").touch()
    writer = ContentWriter(directory, source="w", clock=clock)

    assert not writer.append(line())
    assert writer.report()["full"] == 1
    for path in directory.iterdir():
        path.unlink()
    assert not writer.append(line())  # nobody has looked again
    clock.time += LOOKED_S
    assert writer.append(line())
    writer.close()
    for number in range(MOST_SEGMENTS):
        (directory / f"new-{number}.jsonl").touch()
    assert writer.append(line())
    writer.close()
    clock.time += LOOKED_S

    assert not writer.append(line())


def test_a_directory_that_can_not_be_written_loses_samples_and_nothing_else(tmp_path: Path) -> None:
    """Counted, and not tried again at once."""
    (tmp_path / "content").write_text("in the way")
    clock = Clock()
    writer = ContentWriter(tmp_path / "content", source="w", clock=clock)

    assert not writer.append(line())
    assert not writer.append(line())

    assert (writer.report()["failed"], writer.report()["slow"]) == (1, 1)
    (tmp_path / "content").unlink()
    clock.time += 0.3
    assert writer.append(line())
    writer.close()


def test_a_slow_disk_is_left_alone(tmp_path: Path) -> None:
    """After a write beyond five milliseconds the next ones are left out, for longer each time, up to a minute."""
    times = [0.0]

    def clock() -> float:
        times[0] += 0.006  # Each look at the clock, so each write takes that long.
        return times[0]

    writer = ContentWriter(tmp_path / "content", source="w", clock=clock)
    pauses = []
    for number in range(12):
        assert writer.append(line(number))
        began = times[0]
        while not writer.append(line(100)):
            times[0] += 0.1
        pauses.append(times[0] - began)
        times[0] += 120.0

    assert pauses[0] < 1.0
    assert pauses == sorted(pauses)
    assert 60.0 <= pauses[-1] < 61.0
    assert writer.report()["slow"] > 10


def test_what_a_killed_worker_left_is_found(writer: ContentWriter, tmp_path: Path) -> None:
    """An open segment that nobody wrote to for half a minute is closed for it, torn line included."""
    writer.append(line(1))
    (path,) = (tmp_path / "content").iterdir()
    with path.open("ab") as file:
        file.write(line(2)[:20])
    written = path.stat().st_mtime

    assert closed_segments(tmp_path / "content", now=written + 29.0) == []
    (found,) = closed_segments(tmp_path / "content", now=written + 31.0)

    assert found.suffix == ".jsonl"
    assert [sample.request_id for sample in read_segment(found)] == ["req_1"]
    # The worker was not dead after all: it begins another one.
    writer.close()
    assert writer.append(line(3))
    writer.close()
    assert len(closed_segments(tmp_path / "content", now=written)) == 2


def test_old_content_goes_and_so_does_too_much_of_it(tmp_path: Path) -> None:
    """By age whatever it is, then the oldest first."""
    for number in range(4):
        path = tmp_path / f"w-{number}.jsonl"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000.0 * number, 1000.0 * number))

    swept = sweep(tmp_path, now=3600.0, max_age_s=3000.0, most_bytes=250)

    assert (swept.removed, swept.stored_bytes) == (2, 200)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w-2.jsonl", "w-3.jsonl"]


def test_no_directory_is_no_content(tmp_path: Path) -> None:
    """Nobody has sampled anything yet, or somebody removed a segment just now."""
    nowhere = tmp_path / "nowhere"

    assert closed_segments(nowhere, now=0.0) == []
    assert read_segment(nowhere / "a.jsonl") == []
    assert stored_bytes(nowhere) == 0
    assert sweep(nowhere, now=0.0).removed == 0
