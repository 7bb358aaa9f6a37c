"""What one poll of the log came to, on its way: batches per partition, and what is put aside.

It outlives the producer that sends it. A batch leaves it when the broker has acknowledged it, so that after a failure
only the others are sent again.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optimizer.cluster.outgoing import Outgoing, Poison, Splitter
from optimizer.log.reader import Entry
from optimizer.sinks.base import SinkStats

Batch = Sequence[Outgoing]


class Shipment:
    """The records of some entries, and ``cursor``, the place in the log behind them.

    ``put_aside`` are lines that can never be delivered.
    """

    def __init__(self, cursor: Mapping[str, tuple[int, int]]) -> None:
        self.cursor = cursor
        self.put_aside: list[bytes] = []
        self._left: list[Batch] = []
        self._sent: list[tuple[Batch, asyncio.Future[Any]]] = []

    @property
    def waiting(self) -> list["asyncio.Future[Any]"]:
        """The answers that are still to come."""
        return [future for _, future in self._sent if not future.done()]

    @property
    def unsent(self) -> list[Batch]:
        """What is to be sent, in this order within each partition."""
        return self._left

    @property
    def records(self) -> int:
        """How many are not acknowledged."""
        return sum(len(batch) for batch in self._left) + sum(len(batch) for batch, _ in self._sent)

    def fill(
        self, entries: Iterable[Entry], splitter: Splitter, *, batch_bytes: int, most_bytes: int
    ) -> None:
        """Take the lines of ``entries``; a record of more than ``most_bytes`` is put aside."""
        open_batches: dict[int, list[Outgoing]] = {}
        sizes: dict[int, int] = {}
        for entry in entries:
            try:
                records = splitter(entry.line)
                place = f"{entry.source}:{entry.segment}:{entry.offset}"
            except Poison:
                self.put_aside.append(entry.line)
                continue
            for number, bare in enumerate(records):
                record = bare.placed(place, number)
                size, partition = record.size, record.partition
                if size > most_bytes:
                    self.put_aside.append(record.value)
                    continue
                batch = open_batches.get(partition)
                if batch is None or sizes[partition] + size > batch_bytes:
                    batch = open_batches[partition] = []
                    sizes[partition] = 0
                    self._left.append(batch)
                batch.append(record)
                sizes[partition] += size

    def send_again(self) -> int:
        """Everything that was not acknowledged is unsent again; how many records of it had been sent."""
        in_doubt = sum(len(batch) for batch, _ in self._sent)
        self._left = [batch for batch, _ in self._sent] + self._left
        self._sent = []
        return in_doubt

    def sent(self, batch: Batch, future: "asyncio.Future[Any]") -> None:
        """The first of ``unsent`` is on its way."""
        assert self._left[0] is batch
        del self._left[0]
        self._sent.append((batch, future))

    def collect(
        self, stats: SinkStats, too_large: type[BaseException], failures: list[BaseException]
    ) -> bool:
        """Take in the answers; whether a batch was refused because it is ``too_large``.

        Of such a batch each record is to be sent alone, and one that is alone already is put aside. All other errors
        are added to ``failures``.
        """
        open_: list[tuple[Batch, asyncio.Future[Any]]] = []
        alone: list[Batch] = []
        refused = False
        for batch, future in self._sent:
            if not future.done():
                open_.append((batch, future))
                continue
            error = ConnectionError("given up") if future.cancelled() else future.exception()
            if error is None:
                stats.delivered += len(batch)
            elif not isinstance(error, too_large):
                open_.append((batch, future))
                failures.append(error)
            else:
                refused = True
                if len(batch) > 1:
                    alone += [[record.late()] for record in batch]
                else:
                    self.put_aside.append(batch[0].value)
        self._sent, self._left = open_, alone + self._left
        return refused
