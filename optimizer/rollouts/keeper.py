"""Evidence about every rollout that splits a route: fed by the workers' reports and by ratings, judged again and again.

It follows the log as a consumer of ``optimizer.ingest``, so that what it knows is saved together with the cursors, and
a restart neither loses nor repeats an observation. Reports are read by a feed of their own, ahead of a learner that may
be behind. Evidence belongs to one stage of one attempt; whatever was counted under another is dropped.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from optimizer.log.segment import Position
from optimizer.reward import QUALITY
from optimizer.rollouts.book import Book
from optimizer.rollouts.evaluation import Evaluation
from optimizer.rollouts.feed import GuardFeed
from optimizer.rollouts.guards import Observation, SideCounts
from optimizer.rollouts.machine import is_all_at_once
from optimizer.rollouts.records import SPLITTING, Optimization
from optimizer.rollouts.traffic import Rates
from optimizer.rollouts.verdicts import PASSED, Decision, Verdict
from optimizer.routing import CANDIDATE
from optimizer.settings import RolloutPlan

_VERSION: Final = 1
_SHORTEST_S: Final = 1.0

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
        self.feed = GuardFeed(log_directory, cursor=cursor)
        self.rates = Rates(now=now())
        self._stops: dict[tuple[str, str], None] = {}
        self.polled_at = 0.0
        self.acknowledged: dict[int, int] = {}

    # --- as a consumer of the log -------------------------------------------------------------------

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """Reports come through the feed, ratings through ``rated``: nothing to do here."""

    def snapshot(self) -> bytes:
        """The evidence, and how far the reports were read."""
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
                plan, fraction = record.rollout.plan, record.rollout.percentage / 100.0
                self._evaluations[rollout, stage] = Evaluation.restore(
                    plan, stage, fraction, raw, stages=_comparing(plan), sticky=self._is_sticky(record.route)
                )
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
        if record is None:
            return
        counts = SideCounts(rated=1, quality=value, quality2=value * value)
        if decision.get("side") == CANDIDATE:
            self._of(record).observe(Observation(candidate=counts))
        else:
            self._of(record).observe(Observation(control=counts))

    def poll(self) -> int:
        """Read the reports that are there; returns how many rollouts have news.

        Raises:
            OSError: The log can't be read; nothing was lost.
        """
        now = self._now()
        splitting = self._splitting()
        self._forget(splitting)
        seen: defaultdict[str, list[SideCounts]] = defaultdict(lambda: [SideCounts(), SideCounts()])
        news: set[str] = set()
        while True:
            fed = self.feed.poll()
            self.rates.add(fed.requests, now=now)
            self.acknowledged.update(fed.acknowledged)
            for _, rollout, stage, side, counts in fed.observations:
                record = splitting.get(rollout)
                if record is None or record.rollout is None or record.rollout.stage != stage:
                    continue
                seen[rollout][side == CANDIDATE] += counts
            for rollout, (control, candidate) in seen.items():
                self._of(splitting[rollout]).observe(Observation(control, candidate))
            news.update(seen)
            seen.clear()
            self._stops |= {
                (rollout, reason): None for _, rollout, reason in fed.stops if rollout in splitting
            }
            if fed.caught_up:
                break
        self.polled_at = now
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
            decision = evaluation.decision(enough_time=due or key in self._passed)
            if decision.kind == PASSED:
                self._passed.add(key)
            else:
                self._passed.discard(key)
            found.append(Judgement(record, decision, evaluation.verdicts()))
        return found

    def verdicts(self, record: Optimization) -> tuple[Verdict, ...]:
        """The guards of a rollout as they stand; empty without one."""
        return self._of(record).verdicts() if record.status in SPLITTING and record.rollout else ()

    def _is_due(self, record: Optimization) -> bool:
        rollout, now = record.rollout, self._now()
        assert rollout is not None
        stage = rollout.plan.stages[rollout.stage]
        if now < rollout.stage_started_at + stage.duration_s:
            return False
        key = (rollout.id, rollout.stage)
        # A short stage is looked at as often as it lasts, or its waiting time could end between two looks.
        interval_s = min(rollout.plan.checks.interval_s, max(stage.duration_s, _SHORTEST_S))
        if now < self._checked.get(key, 0.0) + interval_s:
            return False
        self._checked[key] = now
        return True

    # --- inside -------------------------------------------------------------------------------------

    def _splitting(self) -> dict[str, Optimization]:
        return {
            record.rollout.id: record
            for record in self._book.live()
            if record.status in SPLITTING and record.rollout is not None
        }

    def _of(self, record: Optimization) -> Evaluation:
        rollout = record.rollout
        assert rollout is not None
        key = (rollout.id, rollout.stage)
        found = self._evaluations.get(key)
        if found is None:
            found = self._evaluations[key] = Evaluation(
                rollout.plan,
                rollout.stage,
                rollout.percentage / 100.0,
                stages=_comparing(rollout.plan),
                sticky=self._is_sticky(record.route),
            )
        return found

    def _forget(self, splitting: Mapping[str, Optimization]) -> None:
        present = {
            (record.rollout.id, record.rollout.stage) for record in splitting.values() if record.rollout
        }
        for key in [key for key in self._evaluations if key not in present]:
            del self._evaluations[key]
            self._checked.pop(key, None)
            self._passed.discard(key)


def _comparing(plan: RolloutPlan) -> int:
    """Over how many stages the chance of a false alarm is split: those that are stages at all."""
    return max(sum(not is_all_at_once(stage) for stage in plan.stages), 1)
