"""Making the tail of the log durable twice a second, on behalf of writers that never wait for a disk."""

import os
from pathlib import Path

from optimizer.durable import sync_directory
from optimizer.log.segment import list_numbers, list_sources, segment_path, writer_lives


class LogSync:
    """Flushes what all writers appended since the last call. It blocks on the disk: run it in a thread."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        # Per source: the newest segment that was synced and its size then.
        self._done: dict[str, tuple[int, int]] = {}
        self._ended: set[str] = set()

    def sync(self) -> int:
        """Make durable what is in the log now; returns the number of files flushed.

        Raises:
            OSError: If the disk refuses; the next call tries again.
        """
        flushed = 0
        sources = list_sources(self._log_directory)
        if any(source not in self._done for source in sources):
            sync_directory(self._log_directory)
        for source in sources:
            if source in self._ended:
                continue
            directory = self._log_directory / source
            # Asked before reading sizes: what a dead writer wrote is all there.
            ended = not writer_lives(directory)
            flushed += self._sync_source(directory, source)
            if ended:
                self._ended.add(source)
        self._ended.intersection_update(sources)
        self._done = {source: done for source, done in self._done.items() if source in sources}
        return flushed

    def _sync_source(self, directory: Path, source: str) -> int:
        last, last_size = self._done.get(source, (0, -1))
        numbers = [number for number in list_numbers(directory) if number >= last]
        if any(number > last for number in numbers):
            sync_directory(directory)
        flushed = 0
        for number in numbers:
            try:
                descriptor = os.open(segment_path(directory, number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # Compressed or dropped; compression has synced it.
            try:
                size = os.fstat(descriptor).st_size
                if (number, size) != (last, last_size):
                    os.fdatasync(descriptor)
                    flushed += 1
            finally:
                os.close(descriptor)
            self._done[source] = (number, size)
        self._done.setdefault(source, (0, -1))
        return flushed
