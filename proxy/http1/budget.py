"""How many bytes the connections of one server hold together, and who goes first when it is too much.

Invariant: ``bodies`` is exact at any moment: request bytes that were received and whose request is not over yet.
``unsent`` is what waits for slow readers as of the last look: when one gets slow, and at every sweep. What sits
below a transport's own high-water mark is looked at once a second, because asking costs a call per connection.

Counted is what was received or written; an optimized request keeps about twice its body more (the parsed document,
the body for its upstream) until its reply begins.
"""

from collections.abc import Collection
from typing import Protocol

# A reader that caught a bad moment is not slow yet.
_GRACE_S = 1.0
_SMALL_BUFFERS_EVERY = 10

DECLINED_BODY_BYTES = 64 * 1024
"""Bodies up to this size are read and dropped when their request is declined, so that the connection survives."""

SPARED_BODY_BYTES = 1024 * 1024
"""Bodies up to this size are taken over budget for what must always be answered."""


class Reader(Protocol):
    """A connection whose client reads what we write."""

    def unsent(self) -> int:
        """Bytes in its write buffer."""

    def kill(self) -> bool:
        """Close now; True if a request was cut."""


class Budget:
    """See the module. ``ceiling`` is what ``bodies`` may reach now; ``evicted`` counts slow readers cut for room."""

    __slots__ = ("_limit", "_looks", "_slow", "_small", "bodies", "ceiling", "evicted", "unsent")

    def __init__(self, limit: int) -> None:
        self.bodies = 0
        self.unsent = 0
        self.ceiling = limit
        self.evicted = 0
        self._limit = limit
        self._small = 0
        self._looks = 0
        # The longest slow first: a dict keeps the order of insertion.
        self._slow: dict[Reader, tuple[int, float]] = {}

    @property
    def held(self) -> int:
        """All bytes counted."""
        return self.bodies + self.unsent + self._small

    def slow(self, reader: Reader, now: float) -> None:
        """The reader's buffer is over its high-water mark."""
        size = reader.unsent()
        self._slow[reader] = (size, now)
        self.unsent += size
        self._settle()

    def caught_up(self, reader: Reader) -> None:
        """The reader is not slow any more, or gone."""
        entry = self._slow.pop(reader, None)
        if entry is not None:
            self.unsent -= entry[0]
            self._settle()

    def look(self, limit: int, now: float, readers: Collection[Reader]) -> None:
        """Count again what changes by itself, and make room if it has become too much."""
        self._limit = limit
        self._looks += 1
        if self._looks % _SMALL_BUFFERS_EVERY == 0:
            slow = self._slow
            self._small = sum([reader.unsent() for reader in readers if reader not in slow])
        if self._slow:
            for reader, (_, since) in self._slow.items():
                self._slow[reader] = (reader.unsent(), since)
            self.unsent = sum([size for size, _ in self._slow.values()])
        self._settle()
        if self.bodies > self.ceiling:
            self.make_room(0, now)

    def make_room(self, wanted: int, now: float) -> bool:
        """Whether ``wanted`` more bytes of bodies fit, after cutting slow readers if need be."""
        if self.bodies + wanted <= self.ceiling:
            return True
        for reader, (_, since) in list(self._slow.items()):
            if since > now - _GRACE_S:
                break
            self.evicted += 1
            self.caught_up(reader)
            reader.kill()
            if self.bodies + wanted <= self.ceiling:
                return True
        return False

    def _settle(self) -> None:
        self.ceiling = self._limit - self.unsent - self._small
