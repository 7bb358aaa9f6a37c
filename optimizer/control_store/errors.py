"""Every way a store of optimizations can fail.

StoreError           the database is away, refuses or does not answer; whether the call was carried out is not known
├── StaleRevision     it holds a higher revision of the record; nothing was written
├── UnknownRow        no audit row has the id that a page was to start from
└── SnapshotTooLarge  a shard's owner has learned more than is kept; nothing was written

That a tenure is over is no fault of the store: ``optimizer.cluster.types.Fenced``.
"""


class StoreError(Exception):
    """The message says what happened, without secrets and without what was to be stored."""


class StaleRevision(StoreError):
    """Somebody has stored a later state of the record, or another one with the same revision."""

    def __init__(self, record: str, revision: int, stored: int) -> None:
        super().__init__(f"revision {revision} of {record} can't be stored: revision {stored} is")
        self.record = record
        self.revision = revision
        self.stored = stored


class UnknownRow(StoreError):
    """A page of audit rows was asked for from a row that the store does not have."""

    def __init__(self, row: str) -> None:
        super().__init__(f"no audit row {row!r}")
        self.row = row


class SnapshotTooLarge(StoreError):
    """A snapshot has more bytes than a store keeps."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"a snapshot of {size} bytes can't be kept, {most} is the most")
