"""Replacing a small file so that a reader, or a crash, sees the old or the new one and nothing between.

Stdlib only: workers, the optimizer and the command line all come through here.
"""

import os
from pathlib import Path
from typing import Literal

Order = Literal["fsync_first", "rename_first"]


def replace_file(path: Path, data: bytes, *, order: Order = "fsync_first", mode: int = 0o600) -> None:
    """Make ``path`` hold exactly ``data``, atomically for readers and across power loss.

    ``fsync_first`` makes the bytes durable before anyone can see them. ``rename_first`` shows them at once
    and makes them durable after: a crash between may leave an unreadable file, which the caller accepts for
    being fast.

    Raises:
        OSError: When the disk refuses; the old file is then still there (``fsync_first``), and no temporary
        is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(descriptor, data)
            if order == "fsync_first":
                os.fsync(descriptor)
            os.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if order == "rename_first":
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, continuing after short writes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
