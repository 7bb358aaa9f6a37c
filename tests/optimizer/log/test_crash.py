"""Real processes, real SIGKILL: a reader sees each complete line exactly once and no torn one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from optimizer.log.compression import compress_segment
from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader
from optimizer.log.segment import list_sources, writer_lives
from optimizer.log.writer import Disk, LogWriter, WriterBounds

# Writes numbered lines as fast as it can and tells on standard output which one is done. No write counts as slow
# here: a line that waits for the writer's thread would die with the process.
WRITER = """
import os, sys
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, WriterBounds
state = StateDirectory(sys.argv[1])
incarnation = state.allocate_incarnation()
writer = LogWriter(state.log_directory, node=state.node, incarnation=incarnation, role="worker",
                   bounds=WriterBounds(segment_bytes=200_000, reserve_bytes=0, slow_write_s=60.0))
n = 0
while True:
    writer.append(b'{"i":%d,"n":%d,"p":"%s"}\\n' % (incarnation, n, b"x" * (n * 37 % 3000)))
    assert not writer.lost
    os.write(1, b"%d %d\\n" % (incarnation, n))
    n += 1
"""


def start_writer(state: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", WRITER, str(state)], stdout=subprocess.PIPE)


@pytest.mark.slow
def test_killing_writers_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Every line whose append returned is read once, in order."""
    rng = random.Random(7)
    state = StateDirectory(tmp_path / "state")
    reader = LogReader(state.log_directory)
    cursor: dict[str, tuple[int, int]] = {}
    seen: dict[int, list[int]] = {}
    acknowledged: dict[int, int] = {}

    def poll() -> None:
        nonlocal cursor
        while True:
            batch = reader.poll(cursor)
            cursor = batch.cursor
            for _, event in batch.events():
                seen.setdefault(event["i"], []).append(event["n"])
            if not batch.more:
                return

    for _ in range(6):
        children = [start_writer(state.path) for _ in range(2)]
        for child in children:
            assert child.stdout is not None
            last = child.stdout.readline()
            for _ in range(rng.randrange(300)):
                last = child.stdout.readline()
            poll()
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().splitlines()
            child.wait()
            child.stdout.close()
            complete = [line for line in [last, *rest] if len(line.split()) == 2]
            incarnation, number = complete[-1].split()
            acknowledged[int(incarnation)] = int(number)
    poll()

    assert sorted(seen) == sorted(acknowledged) == list(range(1, 13))
    for incarnation, numbers in seen.items():
        assert numbers == list(range(len(numbers)))
        # The pipe's last word may have been cut, so a little more than acknowledged may be there, never less.
        assert len(numbers) >= acknowledged[incarnation]
    assert reader.invalid == 0
    assert not any(writer_lives(state.log_directory / source) for source in list_sources(state.log_directory))


def test_a_reader_follows_a_living_writer_while_old_segments_are_compressed(tmp_path: Path) -> None:
    """Compression under the reader's feet changes nothing that it sees."""
    state = StateDirectory(tmp_path / "state")
    child = start_writer(state.path)
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    reader = LogReader(state.log_directory)
    cursor: dict[str, tuple[int, int]] = {}
    seen: list[int] = []
    compressed = 0
    deadline = time.monotonic() + 20
    try:
        while compressed < 5 and time.monotonic() < deadline:
            child.stdout.read()
            batch = reader.poll(cursor, 50_000)
            cursor = batch.cursor
            seen += [orjson.loads(entry.line)["n"] for entry in batch.entries]
            for source in list_sources(state.log_directory):
                plain = sorted((state.log_directory / source).glob("*.jsonl"))
                if len(plain) > 2:
                    compress_segment(state.log_directory / source, int(plain[0].name[:8]))
                    compressed += 1
    finally:
        child.kill()
        child.wait()
        child.stdout.close()

    assert compressed == 5
    assert seen == list(range(len(seen)))
    assert reader.dropped_segments == 0


def test_a_line_longer_than_the_file_may_grow_is_torn_and_survived(tmp_path: Path) -> None:
    """A real short write, by a limit on the file's size: the line is counted, the next segment goes on."""
    program = """
import resource, sys
from pathlib import Path
from optimizer.log.writer import LogWriter, WriterBounds, Disk
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
now = [0.0]
writer = LogWriter(Path(sys.argv[1]), node=1, incarnation=1, role="worker",
                   bounds=WriterBounds(reserve_bytes=0), disk=Disk(clock=lambda: now[0]))
for n in range(20):
    writer.append(b'{"n":%d,"p":"%s"}\\n' % (n, b"x" * 990))
    now[0] += 10
print(sum(writer.lost.values()), writer.lines_written)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=30, check=True
    )

    reader = LogReader(tmp_path)
    numbers = [event["n"] for _, event in reader.poll({}).events()]
    lost, written = map(int, done.stdout.split())
    assert len(numbers) == written
    assert numbers == sorted(numbers)
    assert lost == 20 - written > 0
    assert written > 10
    assert reader.torn > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root: sudo make test")
def test_a_full_disk_is_survived_and_recovered_from(tmp_path: Path) -> None:
    """A real ENOSPC: lines are lost and counted while the disk is full; afterwards writing goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk],
        capture_output=True,
        check=False,
        timeout=20,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        now = [0.0]
        writer = LogWriter(
            disk / "log",
            node=1,
            incarnation=1,
            role="worker",
            bounds=WriterBounds(reserve_bytes=0),
            disk=Disk(clock=lambda: now[0]),
        )
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 20_000)
        for n in range(100):
            writer.append(b'{"n":%d,"p":"%s"}\n' % (n, b"x" * 990))
            now[0] += 10
        lost_when_full = writer.lost["disk_full"]
        ballast.unlink()
        writer.append(b'{"n":100}\n')
        writer.close()

        numbers = [event["n"] for _, event in LogReader(disk / "log").poll({}).events()]
        assert 40 < lost_when_full < 100
        assert numbers[-1] == 100
        assert len(numbers) == writer.lines_written == 101 - lost_when_full
    finally:
        subprocess.run(["umount", disk], check=False, timeout=20)
