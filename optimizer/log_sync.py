"""Making the event log durable: whatever was appended is synced within half a second, by the optimizer.

Workers only ``write``; a crash of a process loses nothing they wrote, and this bounds what a power loss
takes. Works on files by path, so it needs nothing from their writers, and runs in a thread, because a sync
waits for the disk.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

_log = logging.getLogger(__name__)


class LogSyncer:
    """Syncs files with the given endings one level below each directory. ``synced`` and ``errors`` count."""

    def __init__(
        self, directories: Sequence[Path], *, endings: tuple[str, ...] = (".jsonl", ".positions")
    ) -> None:
        self._directories = tuple(directories)
        self._endings = endings
        self._states: dict[str, tuple[int, int]] = {}
        self.synced = 0
        self.errors = 0

    def sync(self) -> int:
        """Sync every file that changed since it was synced last, and the directories of new ones.

        Returns:
            How many files were synced. A file that can not be is counted and tried again next time.
        """
        found: dict[str, tuple[int, int]] = {}
        synced = 0
        for directory in self._directories:
            for path, state in _files(directory, self._endings):
                if self._states.get(path) == state:
                    found[path] = state
                elif self._sync_file(path, is_new=path not in self._states):
                    found[path] = state
                    synced += 1
        self._states = found
        self.synced += synced
        return synced

    async def run(self, interval_s: float = 0.5) -> None:
        """Sync for ever, a pause of ``interval_s`` between. Ends when cancelled."""
        while True:
            await asyncio.to_thread(self.sync)
            await asyncio.sleep(interval_s)

    def _sync_file(self, path: str, *, is_new: bool) -> bool:
        try:
            _sync(path, os.O_RDONLY)
            if is_new:
                _sync(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        except OSError as error:
            self.errors += 1
            if self.errors % 1000 == 1:
                _log.error("%s can not be synced: %s", path, error)
            return False
        return True


def _files(directory: Path, endings: tuple[str, ...]) -> list[tuple[str, tuple[int, int]]]:
    """Paths below ``directory``'s children with (size, modification time in ns), taken before any sync."""
    found = []
    try:
        with os.scandir(directory) as children:
            folders = [child.path for child in children if child.is_dir(follow_symlinks=False)]
        for folder in folders:
            with os.scandir(folder) as items:
                for item in items:
                    if item.name.endswith(endings):
                        facts = item.stat()
                        found.append((item.path, (facts.st_size, facts.st_mtime_ns)))
    except FileNotFoundError:
        # Retention took something meanwhile; the next round sees what is left.
        pass
    return found


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
