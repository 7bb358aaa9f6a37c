"""Evidence about every rollout that splits a route: fed by the workers' reports and by ratings, judged again and again.

It follows the log as a consumer of ``optimizer.ingest``, so that what it knows is saved together with the cursors, and
a restart neither loses nor repeats an observation. Reports are read by a feed of their own, ahead of a learner that may
be behind. Evidence belongs to one stage of one attempt; whatever was counted under another is dropped.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from optimizer.log.segment import Position
from optimizer.reward import QUALITY
from optimizer.rollouts.book import Book
from optimizer.rollouts.evaluation import Evaluation
from optimizer.rollouts.feed import GuardFeed, Seen
from optimizer.rollouts.guards import Observation, SideCounts
from optimizer.rollouts.machine import is_all_at_once
from optimizer.rollouts.progress import Progress, progress_of
from optimizer.rollouts.records import SPLITTING, Optimization, Rollout
from optimizer.rollouts.traffic import Rates
from optimizer.rollouts.verdicts import PASSED, Decision, Verdict
from optimizer.routing import CANDIDATE, CONTROL
from optimizer.settings import RolloutPlan

_VERSION: Final = 2  # evidence of other bets cannot be continued
_SHORTEST_S: Final = 1.0
_PORTION: Final = 20
"""Outcomes that are taken in at once when many reports are read together: few enough to bet on, enough to tell."""
_PASSES: Final = 8
"""How many pieces of the log one look reads at most: after a long absence the event loop must not stand still."""

_log = logging.getLogger(__name__)

StageKey: TypeAlias = tuple[str, int]  # rollout id, stage


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be thought of a rollout now."""

    record: Optimization
    decision: Decision
    verdicts: tuple[Verdict, ...]


class EvaluationKeeper:
    """The evaluations of all rollouts of one node.

    Args:
        book: Which rollouts there are.
        log_directory: Where the workers report.
        cursor: Where to start when nothing was saved: the learner's own cursor.
        is_sticky: Whether the units of a route are more than one request.
        now: Unix seconds.
    """

    name = "evaluations"

    def __init__(
        self,
        book: Book,
        log_directory: Path,
        *,
        cursor: Mapping[str, tuple[int, int]],
        is_sticky: Callable[[str], bool],
        now: Callable[[], float],
    ) -> None:
        self._book = book
        self._directory = log_directory
        self._is_sticky = is_sticky
        self._now = now
        self._evaluations: dict[StageKey, Evaluation] = {}
        self._checked: dict[StageKey, float] = {}
        self._passed: set[StageKey] = set()
        self._judged: dict[StageKey, Judgement] = {}
        self.feed = GuardFeed(log_directory, cursor=cursor)
        self.rates = Rates(now=now())
        self._stops: dict[tuple[str, str], None] = {}
        self.caught_up = False
        self.heard_at = -inf
        self.acknowledged: dict[int, int] = {}
        self._learner_at: dict[str, tuple[int, int]] = {}

    # --- as a consumer of the log -------------------------------------------------------------------

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """Reports come through the feed, ratings through ``rated``; it only has to be known how far the learner is."""
        del event
        self._learner_at[where.source] = (where.segment, where.offset)

    def snapshot(self) -> bytes:
        """The evidence, and how far the reports were read, which is never less far than the learner.

        Who owns a shard next has a copy of the log that begins where the learner was.

        Raises:
            OSError: The log can't be read.
        """
        while self._is_behind():
            before = dict(self.feed.cursor)
            self.poll()
            if before == self.feed.cursor:
                break
        self._learner_at.clear()
        return orjson.dumps(
            {
                "version": _VERSION,
                "cursor": dict(self.feed.cursor),
                "evaluations": [
                    [*key, evaluation.snapshot()] for key, evaluation in self._evaluations.items()
                ],
                "checked": [[*key, at] for key, at in self._checked.items()],
            }
        )

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot; evidence about rollouts that are over is dropped."""
        saved = orjson.loads(data) if data else {}
        if saved.get("version") != _VERSION:
            return
        cursor = {source: (int(at[0]), int(at[1])) for source, at in saved["cursor"].items()}
        self.feed = GuardFeed(self._directory, cursor=cursor)
        by_rollout = self._splitting()
        for rollout, stage, raw in saved["evaluations"]:
            record = by_rollout.get(rollout)
            if record is not None and record.rollout is not None and record.rollout.stage == stage:
                evaluation = self._begin(record, record.rollout)
                evaluation.restore(raw)
                self._evaluations[rollout, stage] = evaluation
        self._checked = {
            (rollout, stage): at
            for rollout, stage, at in saved["checked"]
            if (rollout, stage) in self._evaluations
        }

    # --- evidence -----------------------------------------------------------------------------------

    def rated(self, decision: Mapping[str, Any], signal: str, value: float) -> None:
        """Take note of a rating; ``decision`` is the data of the request's event."""
        rollout = decision.get("rollout")
        if rollout is None or signal != QUALITY:
            return
        record = self._splitting().get(rollout)
        if record is None or record.rollout is None:
            return
        # A rating may come long after its request; workers follow a new stage within the same second.
        if decision["started_ms"] * 1e-3 < record.rollout.stage_started_at:
            return
        counts = SideCounts(rated=1, quality=value, quality2=value * value)
        is_candidate = decision.get("side") == CANDIDATE
        self._observe(record, Observation(candidate=counts) if is_candidate else Observation(control=counts))

    def poll(self) -> int:
        """Read the reports that are there, or the next few megabytes; returns how many rollouts have news.

        ``caught_up`` says whether that was all; not so while a part of the log can't be read.

        Raises:
            OSError: The log can't be read; nothing was lost.
        """
        self.caught_up = False
        now = self._now()
        splitting = self._splitting()
        self._forget(splitting)
        news: set[str] = set()
        unread = self.feed.missed["read_errors"]
        for _ in range(_PASSES):
            fed = self.feed.poll()
            self.rates.add(fed.requests, now=now)
            if fed.acknowledged:
                self.heard_at = now
            self.acknowledged.update(fed.acknowledged)
            for (rollout, stage), seen in _portions(fed.observations):
                record = splitting.get(rollout)
                if record is not None and record.rollout is not None and record.rollout.stage == stage:
                    self._observe(record, seen)
                    news.add(rollout)
            self._stops |= {
                (rollout, reason): None for _, rollout, reason in fed.stops if rollout in splitting
            }
            if fed.caught_up:
                self.caught_up = self.feed.missed["read_errors"] == unread
                break
        return len(news)

    def take_stops(self) -> list[tuple[str, str]]:
        """(rollout id, reason) of what workers have stopped by themselves since the last call."""
        taken = list(self._stops)
        self._stops.clear()
        return taken

    # --- judging ------------------------------------------------------------------------------------

    def judgements(self) -> list[Judgement]:
        """What to think of every rollout now.

        Failing is looked for every time; whether a stage has passed is asked when its duration is over, and then
        every ``HealthChecks.interval_s``, or as often as the stage lasts if that is shorter.
        """
        found = []
        for record in self._splitting().values():
            rollout, evaluation = record.rollout, self._of(record)
            assert rollout is not None
            key = (rollout.id, rollout.stage)
            due = self._is_due(record)
            # Having passed holds until somebody has acted on it: a database may be away at the moment.
            enough_time = due or key in self._passed
            known = self._judged.get(key)
            if known is not None and known.record is record and not enough_time:
                # Nothing was heard since, and twenty looks a second at nothing cost too much.
                found.append(known)
                continue
            decision = evaluation.decision(enough_time=enough_time)
            if decision.kind == PASSED:
                self._passed.add(key)
            else:
                self._passed.discard(key)
            found.append(Judgement(record, decision, evaluation.verdicts()))
            if not enough_time:
                self._judged[key] = found[-1]
        return found

    def verdicts(self, record: Optimization) -> tuple[Verdict, ...]:
        """The guards of a rollout as they stand; empty without one."""
        return self._of(record).verdicts() if record.status in SPLITTING and record.rollout else ()

    def progress(self, record: Optimization) -> Progress | None:
        """How far the present stage of a rollout is, for people; None without one."""
        if record.status not in SPLITTING or record.rollout is None:
            return None
        now = self._now()
        return progress_of(
            self._of(record),
            record.rollout,
            record.status,
            now=now,
            requests_per_s=self.rates.per_second(record.route, now=now),
        )

    def _is_due(self, record: Optimization) -> bool:
        rollout, now = record.rollout, self._now()
        assert rollout is not None
        stage = rollout.plan.stages[rollout.stage]
        if now < rollout.stage_started_at + stage.duration_s:
            return False
        key = (rollout.id, rollout.stage)
        # A short stage is looked at as often as it lasts, or its waiting time could end between two looks.
        interval_s = min(rollout.plan.checks.interval_s, max(stage.duration_s, _SHORTEST_S))
        # A clock that was set back must not put the next look off.
        if 0.0 <= now - self._checked.get(key, -inf) < interval_s:
            return False
        self._checked[key] = now
        return True

    # --- inside -------------------------------------------------------------------------------------

    def _is_behind(self) -> bool:
        return any(self.feed.cursor.get(source, (0, 0)) <= at for source, at in self._learner_at.items())

    def _splitting(self) -> dict[str, Optimization]:
        return {
            record.rollout.id: record
            for record in self._book.live()
            if record.status in SPLITTING and record.rollout is not None
        }

    def _observe(self, record: Optimization, seen: Observation) -> None:
        assert record.rollout is not None
        self._judged.pop((record.rollout.id, record.rollout.stage), None)
        self._of(record).observe(seen)

    def _of(self, record: Optimization) -> Evaluation:
        rollout = record.rollout
        assert rollout is not None
        key = (rollout.id, rollout.stage)
        found = self._evaluations.get(key)
        if found is None:
            found = self._evaluations[key] = self._begin(record, rollout)
        return found

    def _begin(self, record: Optimization, rollout: Rollout) -> Evaluation:
        return Evaluation(
            rollout.plan,
            rollout.stage,
            rollout.percentage / 100.0,
            stages=_comparing(rollout.plan),
            sticky=self._is_sticky(record.route),
            times=rollout.reference_ms is not None,
        )

    def _forget(self, splitting: Mapping[str, Optimization]) -> None:
        present = {
            (record.rollout.id, record.rollout.stage) for record in splitting.values() if record.rollout
        }
        for key in [key for key in self._evaluations if key not in present]:
            del self._evaluations[key]
            self._checked.pop(key, None)
            self._passed.discard(key)
            self._judged.pop(key, None)


def _portions(rows: Iterable[Seen]) -> Iterator[tuple[StageKey, Observation]]:
    """Sums of successive reports, in order; a report is never cut, so both sides of a sum are of the same time."""
    open_: defaultdict[StageKey, Observation] = defaultdict(Observation)
    told: set[tuple[StageKey, str]] = set()
    for _, rollout, stage, side, counts in rows:
        key = (rollout, stage)
        if (key, side) in told:  # a side comes once per report, so this is the next one
            told -= {(key, CONTROL), (key, CANDIDATE)}
            if open_[key].control.resolved + open_[key].candidate.resolved >= _PORTION:
                yield key, open_.pop(key)
        told.add((key, side))
        mine = side == CANDIDATE
        open_[key] += Observation(candidate=counts) if mine else Observation(control=counts)
    yield from open_.items()


def _comparing(plan: RolloutPlan) -> int:
    """Over how many stages the chance of a false alarm is split: those that are stages at all."""
    return max(sum(not is_all_at_once(stage) for stage in plan.stages), 1)
