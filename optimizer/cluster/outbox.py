"""Which feedback is on its way to which node, and from where each must be read again: no input or output in here.

The log is read once, by the ``front``. A node that does not take its feedback fills the room that it has in memory;
from then on what is for it stays in the log, and is read again from where that began as soon as there is room. So one
dead node costs a bounded amount of memory and holds nobody else up. Every event is always in memory, or after the mark
of its node, or after the front.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from optimizer.log.reader import Batch, Cursor, Entry

START: Final = (0, 0)
_SEPARATOR: Final = "/"


@dataclass(slots=True, eq=False)
class Parcel:
    """One line for another node; ``expires_at`` is in Unix seconds.

    ``doubtful`` is one that may be acknowledged already, because it was sent or read again. ``send_at`` is in the
    sender's monotonic seconds.
    """

    event_id: str
    node: int
    line: bytes
    source: str
    at: tuple[int, int]
    expires_at: float
    send_at: float = 0.0
    doubtful: bool = False
    sent: bool = False


@dataclass(slots=True)
class Target:
    """What is under way to one node; ``behind`` is from where on it is not in memory."""

    parcels: dict[str, Parcel] = field(default_factory=dict)
    behind: dict[str, tuple[int, int]] | None = None
    check_at: float = 0.0
    pause_s: float = 0.0


class Outbox:
    """The parcels of one sender. ``parse`` makes one of a line, None of a line that is not for another node."""

    def __init__(
        self,
        saved: Mapping[str, tuple[int, int]],
        parse: Callable[[Entry], Parcel | None],
        *,
        room: int,
        room_in_all: int,
        least_room: int,
    ) -> None:
        """Go on where ``to_save`` was; a node has room for ``room`` parcels, and for less when there are many nodes."""
        self.targets: dict[int, Target] = {}
        self.front: dict[str, tuple[int, int]] = {}
        self._parse = parse
        self._room = room
        self._room_in_all = room_in_all
        self._least_room = least_room
        try:
            self._restore(saved)
        except ValueError:
            self.targets, self.front = {}, {}  # Not ours; what is handed over twice does no harm.

    def __len__(self) -> int:
        return sum(len(target.parcels) for target in self.targets.values())

    def parcels(self) -> Iterator[Parcel]:
        """Everything in memory."""
        return chain.from_iterable(target.parcels.values() for target in self.targets.values())

    def room(self) -> int:
        """How many parcels one node has room for at present."""
        share = self._room_in_all // max(len(self.targets), 1)
        return min(self._room, max(share, self._least_room))

    def take(self, batch: Batch) -> None:
        """What was read at the front."""
        at = dict(self.front)
        for entry in batch.entries:
            parcel = self._parse(entry)
            if parcel is not None:
                target = self.targets.setdefault(parcel.node, Target())
                if target.behind is None and not self._add(target, parcel):
                    target.behind = dict(at)
            at[entry.source] = _after(entry)
        self.front = dict(batch.cursor)

    def hungry(self) -> Iterator[tuple[int, Cursor]]:
        """Nodes for which there is room again, and from where what is for them must be read."""
        half = self.room() // 2
        for node, target in self.targets.items():
            behind = target.behind
            if behind is not None and len(target.parcels) <= half:
                # With every source, so that one that is not in what was read is known to be gone.
                yield node, {source: behind.get(source, START) for source in self.front}

    def take_again(self, node: int, batch: Batch) -> None:
        """What was read from where ``hungry`` said; what the front has still to read is left to it."""
        target = self.targets[node]
        at = dict(target.behind or {})
        for entry in batch.entries:
            if (entry.segment, entry.offset) >= self.front.get(entry.source, START):
                continue
            parcel = self._parse(entry)
            if parcel is not None and parcel.node == node:
                parcel.doubtful = True
                if not self._add(target, parcel):
                    target.behind = at
                    return
            at[entry.source] = _after(entry)
        known = {
            source: min(place, self.front[source])
            for source, place in batch.cursor.items()
            if source in self.front
        }
        target.behind = known if any(place < self.front[source] for source, place in known.items()) else None
        self._tidy(node)

    def remove(self, parcels: Iterable[Parcel]) -> None:
        """They arrived, or are given up."""
        for parcel in parcels:
            target = self.targets.get(parcel.node)
            if target is not None and target.parcels.pop(parcel.event_id, None) is not None:
                self._tidy(parcel.node)

    def cursor(self) -> dict[str, tuple[int, int]]:
        """Up to where nothing of the log is needed any more."""
        lowest = dict(self.front)
        for target in self.targets.values():
            lowest = _lower(lowest, target)
        return lowest

    def to_save(self) -> dict[str, tuple[int, int]]:
        """The front by source, and by ``<node hex>/<source>`` from where each node's feedback is to be read again."""
        saved = dict(self.front)
        for node, target in self.targets.items():
            saved[f"{node:08x}{_SEPARATOR}"] = START
            for source, place in _lower(self.front, target).items():
                saved[f"{node:08x}{_SEPARATOR}{source}"] = place
        return saved

    def _restore(self, saved: Mapping[str, tuple[int, int]]) -> None:
        for name, place in saved.items():
            node, separator, source = name.partition(_SEPARATOR)
            if not separator:
                self.front[name] = place
                continue
            target = self.targets.setdefault(int(node, 16), Target(behind={}))
            if source and target.behind is not None:
                target.behind[source] = place

    def _add(self, target: Target, parcel: Parcel) -> bool:
        if parcel.event_id in target.parcels:
            return True
        if len(target.parcels) >= self.room():
            return False
        target.parcels[parcel.event_id] = parcel
        return True

    def _tidy(self, node: int) -> None:
        target = self.targets[node]
        if not target.parcels and target.behind is None:
            del self.targets[node]


def _after(entry: Entry) -> tuple[int, int]:
    return entry.segment, entry.offset + len(entry.line) + 1


def _lower(front: Cursor, target: Target) -> dict[str, tuple[int, int]]:
    """From where everything that is for ``target`` is read again; a source that is left out, from its beginning."""
    behind = target.behind
    if behind is None:
        lowest = dict(front)
    else:
        lowest = {source: min(place, behind[source]) for source, place in front.items() if source in behind}
    for parcel in target.parcels.values():
        if parcel.source in lowest:
            lowest[parcel.source] = min(lowest[parcel.source], parcel.at)
    return lowest
