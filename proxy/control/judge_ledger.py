"""What judging has spent today and which samples are done, kept across restarts.

Invariant: money is covered by the file before it is spent, a little ahead so that not every call writes; so a kill
costs a day's budget at most that little, and never lets it be spent twice. Which samples are done is saved soon after:
losing it makes a judge be asked again, under the same event ids, which teaches nothing twice.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import orjson

from optimizer.durable import replace_file
from optimizer.judging.budget import BudgetBook

AHEAD: Final = 0.02
"""Share of a day's limit that the file is ahead of what is set aside."""

_log = logging.getLogger("llm_optimizer.judge")


class Ledger:
    """One per node. ``now`` gives Unix seconds."""

    def __init__(self, path: Path, *, now: Callable[[], float]) -> None:
        self.book = BudgetBook()
        self._path = path
        self._now = now
        self._done: set[str] = set()
        self._covered: dict[str, tuple[float, float]] = {}  # judge: day, USD that the file counts as spent
        self._dirty = False
        self._saving = asyncio.Lock()
        self._load()

    def is_done(self, request_id: str) -> bool:
        """Whether nothing more is to be done for a sample."""
        return request_id in self._done

    def finish(self, request_id: str) -> None:
        """Nothing more is to be done for a sample; remembered until its segment is gone."""
        self._done.add(request_id)
        self._dirty = True

    def forget(self, request_ids: Iterable[str]) -> None:
        """Their segment is gone."""
        self._done.difference_update(request_ids)
        self._dirty = True

    async def reserve(self, judge: str, usd: float, *, limit_usd: float) -> bool:
        """Set USD aside, on disk first; False when the budget does not allow it, or the disk does not."""
        now = self._now()
        if not self.book.reserve(judge, usd, limit_usd=limit_usd, now=now):
            return False
        if self._is_covered(judge, now):
            return True
        try:
            await self.save(ahead={judge: AHEAD * limit_usd})
        except OSError as error:
            _log.error("what judging costs can not be saved, so nothing is judged: %s", error)
            self.book.settle(judge, usd, 0.0, now=now)
            return False
        return True

    def settle(self, judge: str, reserved_usd: float, spent_usd: float) -> None:
        """Replace what was set aside by what was spent."""
        self.book.settle(judge, reserved_usd, spent_usd, now=self._now())
        self._dirty = True

    def spent_usd(self, judge: str) -> float:
        """What a judge spent today (UTC)."""
        return self.book.spent_usd(judge, now=self._now())

    async def save_if_changed(self) -> None:
        """Save, if there is something new.

        Raises:
            OSError: If the disk refuses.
        """
        if self._dirty:
            await self.save()

    async def save(self, *, ahead: dict[str, float] | None = None, exactly: bool = False) -> None:
        """Write everything. ``ahead`` is counted as spent by judge; ``exactly`` drops what was covered ahead.

        Raises:
            OSError: If the disk refuses.
        """
        async with self._saving:
            self._dirty = False
            rows = self.book.snapshot()
            covered: dict[str, tuple[float, float]] = {}
            for judge, (day, spent) in rows.items():
                before = self._covered.get(judge, (day, 0.0))
                least = before[1] if before[0] == day and not exactly else 0.0
                covered[judge] = (day, max(spent + (ahead or {}).get(judge, 0.0), least))
            data = orjson.dumps({"spent": covered, "done": sorted(self._done)})
            try:
                await asyncio.to_thread(replace_file, self._path, data)
            except OSError:
                self._dirty = True
                raise
            self._covered = covered

    def _is_covered(self, judge: str, now: float) -> bool:
        self.book.spent_usd(judge, now=now)  # begins the day
        day, spent = self.book.snapshot()[judge]
        covered = self._covered.get(judge)
        return covered is not None and covered[0] == day and covered[1] >= spent

    def _load(self) -> None:
        try:
            saved = orjson.loads(self._path.read_bytes())
            self.book.restore(saved["spent"])
            self._done = {str(request_id) for request_id in saved["done"]}
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            # Judging may cost up to one more day's limit then, which is better than never judging again.
            _log.error("%s can not be read and is begun anew: %s", self._path, error)
