"""A log directory and writers for it; whatever a test opens is closed after it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optimizer.log.writer import Disk, LogWriter, WriterBounds

MakeWriter = Callable[..., LogWriter]


@pytest.fixture
def log_directory(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def make_writer(log_directory: Path) -> Iterator[MakeWriter]:
    """Make a writer: ``make_writer(incarnation=1, disk=None, **bounds)``."""
    made: list[LogWriter] = []

    def make(
        incarnation: int = 1, *, role: str = "worker", disk: Disk | None = None, **bounds: float
    ) -> LogWriter:
        writer = LogWriter(
            log_directory,
            node=0xA1,
            incarnation=incarnation,
            role=role,
            bounds=WriterBounds(**{"reserve_bytes": 0, "slow_write_s": 60.0, **bounds}),  # type: ignore[arg-type]
            disk=disk,
        )
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.close()
