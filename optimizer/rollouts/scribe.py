"""Writing a change down: event log, book, table, outbox, and how each of them stands.

The one place through which a record changes, so no change is without its event. ``write_down`` is for what takes
traffic or moves none: it does everything at once and leaves disk and database for later. ``enter`` is the last step of
giving.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from optimizer import events
from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.book import Book
from optimizer.rollouts.history import audit_data, row_of, transition_data, transition_id
from optimizer.rollouts.outbox import Outbox
from optimizer.rollouts.records import OVERLAYING, Optimization

MAX_UNLOGGED: Final = 1000
"""How many events wait for a log that takes none; beyond it the oldest are in table and database only."""

_log = logging.getLogger(__name__)


class Scribe:
    """See the module; the arguments are the controller's.

    Attributes:
        transitions: How many, by verb.
        unpublished_takes: Traffic was taken and the table that says so could not be written.
        is_unsynced: Something was appended to the log that may not be on the disk.
    """

    def __init__(
        self,
        book: Book,
        outbox: Outbox,
        *,
        journal: Callable[[str, Mapping[str, Any], str], bool],
        publish: Callable[[bool], None],
        now: Callable[[], float],
    ) -> None:
        self.book = book
        self.outbox = outbox
        self.transitions: Counter[str] = Counter()
        self.unpublished_takes = False
        self.is_unsynced = False
        self._journal = journal
        self._publish = publish
        self._now = now
        self._published = book.overlay_version
        self._unlogged: deque[tuple[str, Mapping[str, Any], str]] = deque(maxlen=MAX_UNLOGGED)

    @property
    def is_published(self) -> bool:
        """Whether the table says what the book says."""
        return not self.unpublished_takes and self._published == self.book.overlay_version

    def row(self, old: Optimization | None, new: Optimization, verb: str, actor: str) -> AuditRow:
        """The audit row that a transition will have."""
        data = transition_data(old, new, verb=verb, actor=actor)
        return row_of(transition_id(new), events.TRANSITION, data, new.updated_at)

    @property
    def unlogged(self) -> int:
        """How many events the log did not take; they are offered to it again."""
        return len(self._unlogged)

    def log(self, old: Optimization | None, new: Optimization, verb: str, actor: str) -> bool:
        """Append the event of a transition; whether the log took it."""
        self.transitions[verb] += 1
        data = transition_data(old, new, verb=verb, actor=actor)
        return self._append(events.TRANSITION, data, transition_id(new))

    def log_again(self) -> None:
        """Offer to the log what it did not take, oldest first, until it refuses again."""
        for _ in range(len(self._unlogged)):
            if not self._append(*self._unlogged.popleft()):
                # It went to the end; the order in the log says nothing, revisions do.
                return

    def write_down(self, old: Optimization | None, new: Optimization, verb: str, actor: str) -> None:
        """Log, book and table, without a wait; database and disk get it later."""
        self.log(old, new, verb, actor)
        self.book.join(new)
        self.outbox.add(new, self.row(old, new, verb, actor))
        if new.status in OVERLAYING or (old is not None and old.status in OVERLAYING):
            self.publish(taking=True)

    def enter(self, new: Optimization) -> None:
        """Put into effect what log and database already have.

        Raises:
            ValueError: No table can be built with it; the book has it nevertheless.
        """
        self.book.join(new)
        try:
            self._write_table(taking=False)
        except OSError as error:
            # It is given as soon as the disk lets the table be written; until then workers keep the last one.
            _log.error("the routing table can not be written: %s", error)

    def publish(self, *, taking: bool) -> None:
        """Write the table; what fails is tried again with every tick."""
        try:
            self._write_table(taking=taking)
        except (OSError, ValueError) as error:
            self.unpublished_takes = self.unpublished_takes or taking
            _log.error("the routing table can not be written: %s", error)

    def audit(self, event_id: str, actor: str, action: str, target: str, detail: Mapping[str, Any]) -> None:
        """Write down what is no transition."""
        data = audit_data(actor, action, target, detail)
        self._append(events.AUDIT, data, event_id)
        self.outbox.add(row=row_of(event_id, events.AUDIT, data, self._now()))

    def _append(self, type_: str, data: Mapping[str, Any], event_id: str) -> bool:
        self.is_unsynced = True
        took = self._journal(type_, data, event_id)
        if not took:
            self._unlogged.append((type_, data, event_id))
        return took

    def _write_table(self, *, taking: bool) -> None:
        version = self.book.overlay_version
        self._publish(taking)
        self.unpublished_takes = False
        self._published = version
