"""Every way a store of optimizations can fail.

StoreError           the database is away, refuses or does not answer; whether the call was carried out is not known
├── StaleRevision    it holds a higher revision of the record; nothing was written
└── UnknownRow       no audit row has the id that a page was to start from
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
