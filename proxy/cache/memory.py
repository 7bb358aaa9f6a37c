"""The answers that one worker keeps in memory. Invariant: together they never take more than ``limit`` bytes.

What was used least recently goes first; what has expired is never given, and goes when it is met.
"""

from collections import OrderedDict
from collections.abc import Callable

from proxy.cache.entry import Entry

_SWEPT = 8


class MemoryStore:
    """Entries by key. ``size`` are the bytes they take. ``clock`` gives monotonic seconds."""

    def __init__(self, limit: int, *, clock: Callable[[], float]) -> None:
        self.size = 0
        self.evicted = 0
        self._limit = limit
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, Entry]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """The entry of that key, None if there is none or it has expired."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return found[1]

    def put(self, key: bytes, entry: Entry, ttl_s: float) -> None:
        """Keep an entry for ``ttl_s``, in the place of an older one; one that is larger than everything is not kept."""
        if key in self._entries:
            self._drop(key)
        if entry.size > self._limit or ttl_s <= 0.0:
            return
        self.sweep()
        self._make_room(self._limit - entry.size)
        self._entries[key] = (self._clock() + ttl_s, entry)
        self.size += entry.size

    def use(self, limit: int) -> None:
        """Keep at most ``limit`` bytes from now on."""
        self._limit = limit
        self._make_room(limit)

    def sweep(self, most: int = _SWEPT) -> None:
        """Let go of what has expired among the ``most`` entries that were used least recently."""
        now = self._clock()
        oldest = [key for key, _ in zip(self._entries, range(most), strict=False)]
        for key in oldest:
            if self._entries[key][0] <= now:
                self._drop(key)

    def _make_room(self, most: int) -> None:
        while self.size > most:
            self._drop(next(iter(self._entries)))
            self.evicted += 1

    def _drop(self, key: bytes) -> None:
        self.size -= self._entries.pop(key)[1].size
