"""Evidence about rollouts: what counts for which stage, and that a restart neither loses nor repeats anything."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optimizer import events
from optimizer.log.node import source_name
from optimizer.log.reader import LogReader
from optimizer.log.writer import LogWriter, encode
from optimizer.rollouts.book import Book
from optimizer.rollouts.keeper import EvaluationKeeper
from optimizer.rollouts.records import Optimization
from optimizer.settings import RolloutPlan, Stage
from tests.optimizer.rollouts.conftest import PLAN, make_record


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A keeper over a log that the test writes as a worker would."""

    def __init__(self, path: Path, record: Optimization) -> None:
        self.clock = Clock()
        self.directory = path
        self.book = Book([record])
        self.record = record
        self.writer = LogWriter(path, node=1, incarnation=1, role="worker")
        self.sent = 0

    def keeper(self) -> EvaluationKeeper:
        return EvaluationKeeper(
            self.book, self.directory, cursor={}, is_sticky=lambda route: False, now=self.clock
        )

    def report(self, *rows: list[Any], stops: list[list[str]] | None = None, requests: int = 0) -> None:
        self.sent += 1
        data = {
            "worker": 1,
            "table_version": 7,
            "routes": [["chat", "big", "control", "completed", requests]] if requests else [],
            "guards": list(rows),
            "stops": stops or [],
        }
        self.writer.append(encode(f"s{self.sent}", events.WORKER_STATS, "/1/worker/1", 1, data))

    def row(self, side: str, stage: int = 0, rollout: str | None = None, **counts: float) -> list[Any]:
        assert self.record.rollout is not None
        return ["chat", rollout or self.record.rollout.id, stage, side, counts]


@pytest.fixture
def stage(tmp_path: Path, running: Optimization) -> Scene:
    return Scene(tmp_path, running)


def totals(keeper: EvaluationKeeper) -> tuple[int, int]:
    """Resolved outcomes of control and candidate, as any guard counts them."""
    (judgement,) = keeper.judgements()
    error = next(verdict for verdict in judgement.verdicts if verdict.guard == "error")
    return error.control_samples, error.candidate_samples


def test_counts_of_both_sides_add_up(stage):
    keeper = stage.keeper()
    stage.report(
        stage.row("control", resolved=90, assigned=90), stage.row("candidate", resolved=10, assigned=10)
    )
    stage.report(stage.row("control", resolved=9, assigned=9), requests=99)
    assert keeper.poll() == 1
    assert totals(keeper) == (99, 10)
    assert keeper.acknowledged == {1: 7}
    stage.clock.now += 10.0
    assert keeper.rates.per_second("chat", now=stage.clock.now) == pytest.approx(9.9)


def test_another_stage_or_another_rollout_does_not_count(stage):
    keeper = stage.keeper()
    stage.report(
        stage.row("candidate", stage=1, resolved=50), stage.row("candidate", rollout="ro_other", resolved=50)
    )
    keeper.poll()
    assert totals(keeper) == (0, 0)


def test_evidence_begins_anew_with_the_next_stage(stage, settings, small):
    keeper = stage.keeper()
    stage.report(stage.row("candidate", resolved=50), stage.row("control", resolved=50))
    keeper.poll()
    following = make_record(settings, small, stage=1)
    stage.book.join(replace(following, revision=9))
    stage.report(stage.row("candidate", stage=1, resolved=3))
    keeper.poll()
    assert totals(keeper) == (0, 3)


def test_a_restart_goes_on_where_it_was_saved(stage):
    keeper = stage.keeper()
    stage.report(stage.row("control", resolved=90), stage.row("candidate", resolved=10, errors=2))
    keeper.poll()
    saved = keeper.snapshot()
    stage.report(stage.row("control", resolved=5), stage.row("candidate", resolved=5))
    keeper.poll()  # was not saved: the report is read again
    again = stage.keeper()
    again.restore(saved)
    again.poll()
    assert totals(again) == totals(keeper) == (95, 15)
    assert [j.decision for j in again.judgements()] == [j.decision for j in keeper.judgements()]


def test_what_was_missed_is_taken_in_as_it_happened(stage):
    """After an absence many reports are read at once: as one sum they would be a first block, on which nobody bets."""
    at_once, one_by_one = stage.keeper(), stage.keeper()
    for _ in range(60):
        stage.report(
            stage.row("control", resolved=18, assigned=18),
            stage.row("candidate", resolved=2, assigned=2, errors=1),
        )
        one_by_one.poll()
    at_once.poll()
    assert [j.decision for j in at_once.judgements()] == [j.decision for j in one_by_one.judgements()]
    assert [j.decision.guard for j in at_once.judgements()] == ["error"]


def test_small_reports_are_read_together(stage):
    """A report of one request tells little by itself; sums of some twenty outcomes cost less and tell more."""
    keeper = stage.keeper()
    for number in range(200):
        side = "candidate" if number % 10 == 0 else "control"
        stage.report(stage.row(side, resolved=1, assigned=1))
    keeper.poll()
    assert totals(keeper) == (180, 20)


def test_ratings_count_for_the_side_that_was_decided(stage):
    keeper = stage.keeper()
    assert stage.record.rollout is not None
    for side, value in (("candidate", 0.2), ("control", 0.9), ("candidate", 0.4)):
        keeper.rated(
            {"rollout": stage.record.rollout.id, "side": side, "started_ms": 100_000}, "quality", value
        )
    keeper.rated({"rollout": stage.record.rollout.id, "side": "candidate", "started_ms": 100_000}, "joy", 5.0)
    keeper.rated({"rollout": None, "side": "control"}, "quality", 0.5)
    (judgement,) = keeper.judgements()
    quality = next(verdict for verdict in judgement.verdicts if verdict.guard == "quality")
    assert (quality.control_samples, quality.candidate_samples) == (1, 2)
    assert quality.candidate == pytest.approx(0.3)


def test_what_workers_stopped_is_told_once(stage):
    keeper = stage.keeper()
    rollout = stage.record.rollout
    assert rollout is not None
    stop = ["chat", rollout.id, "hard_stop"]
    stage.report(stops=[stop, ["chat", "ro_other", "hard_stop"]])
    stage.report(stops=[stop])
    keeper.poll()
    assert keeper.take_stops() == [(rollout.id, "hard_stop")]
    assert keeper.take_stops() == []


def test_passing_is_asked_for_at_the_end_of_the_stage_and_then_at_intervals(stage):
    keeper = stage.keeper()
    few = (stage.row("control", resolved=500, assigned=900), stage.row("candidate", resolved=60, assigned=60))
    stage.report(*few)
    keeper.poll()
    assert [j.decision.kind for j in keeper.judgements()] == ["insufficient"]
    stage.clock.now = 100.0 + PLAN.stages[0].duration_s
    assert [(j.decision.kind, j.decision.why) for j in keeper.judgements()] == [("insufficient", "samples")]
    stage.report(stage.row("candidate", resolved=60, assigned=60))
    keeper.poll()
    stage.clock.now += PLAN.checks.interval_s / 2
    assert [j.decision.kind for j in keeper.judgements()] == ["insufficient"]
    stage.clock.now += PLAN.checks.interval_s
    assert [j.decision.kind for j in keeper.judgements()] == ["pass"]
    stage.clock.now += 0.05
    assert [j.decision.kind for j in keeper.judgements()] == ["pass"], "it holds until somebody acts on it"


def test_a_stage_shorter_than_the_interval_is_looked_at_more_often(stage, settings, small):
    plan = RolloutPlan(stages=(Stage(20.0, 3.0, 5, 30.0), Stage(100.0)))
    record = make_record(settings, small, plan=plan)
    stage.book.join(replace(record, revision=9))
    keeper = stage.keeper()
    stage.clock.now = 103.0
    assert [j.decision.why for j in keeper.judgements()] == ["samples"]
    stage.report(
        stage.row("control", resolved=50, assigned=24), stage.row("candidate", resolved=6, assigned=6)
    )
    keeper.poll()
    stage.clock.now = 106.0
    assert [j.decision.kind for j in keeper.judgements()] == ["pass"]


def test_ratings_of_requests_of_an_earlier_stage_do_not_count(stage):
    """They may come days later, and the request may have been served under another share."""
    assert stage.record.rollout is not None
    rollout = replace(stage.record.rollout, stage=1, stage_started_at=200.0)
    stage.book.join(replace(stage.record, revision=9, rollout=rollout))
    keeper = stage.keeper()
    for started_ms in (150_000, 199_999, 200_001):
        decision = {"rollout": rollout.id, "side": "candidate", "started_ms": started_ms}
        keeper.rated(decision, "quality", 0.5)
    (judgement,) = keeper.judgements()
    quality = next(verdict for verdict in judgement.verdicts if verdict.guard == "quality")
    assert quality.candidate_samples == 1


def test_one_look_at_a_long_log_is_short(stage, monkeypatch):
    """After an hour's absence the event loop must not stand still until all of it was read."""
    monkeypatch.setattr("optimizer.rollouts.keeper._PASSES", 2)
    for _ in range(10):
        stage.report(stage.row("candidate", resolved=1), stage.row("control", resolved=9))
        for _ in range(8):
            stage.writer.append(encode("x", events.REQUEST, "/1/worker/1", 1, {"pad": "x" * 60_000}))
    stage.writer.close()
    keeper = stage.keeper()
    keeper.poll()
    assert not keeper.caught_up
    while not keeper.caught_up:
        keeper.poll()
    assert totals(keeper) == (90, 10)


def test_a_part_of_the_log_that_can_not_be_read_is_no_look(stage):
    keeper = stage.keeper()
    stage.report(stage.row("candidate", resolved=5))
    keeper.poll()
    assert keeper.caught_up
    broken = stage.directory / source_name(1, 2, "worker") / "00000001.jsonl"
    broken.mkdir(parents=True)
    keeper.poll()
    assert not keeper.caught_up
    broken.rmdir()
    keeper.poll()
    assert keeper.caught_up


def test_a_clock_that_was_set_back_does_not_put_the_next_look_off(stage):
    keeper = stage.keeper()
    stage.report(
        stage.row("control", resolved=500, assigned=500), stage.row("candidate", resolved=60, assigned=60)
    )
    keeper.poll()
    stage.clock.now = 90_000.0
    assert [j.decision.why for j in keeper.judgements()] == ["samples"]
    stage.clock.now = 100.0 + PLAN.stages[0].duration_s
    stage.report(stage.row("candidate", resolved=60))
    keeper.poll()
    assert [j.decision.kind for j in keeper.judgements()] == ["pass"]


def test_a_snapshot_has_every_report_that_the_learner_has_passed(stage):
    """Who owns a shard next has a copy of the log that begins where the learner was; there is nothing before it."""
    keeper = stage.keeper()
    stage.report(
        stage.row("control", resolved=90, assigned=90), stage.row("candidate", resolved=10, assigned=10)
    )
    stage.report(stage.row("control", resolved=9, assigned=9))
    (first, second) = LogReader(stage.directory).poll({}).events()
    for where, event in (first, second):
        keeper.observe(event, where)
    saved = keeper.snapshot()
    (source,) = stage.directory.iterdir()
    (segment,) = source.glob("*.jsonl")
    segment.write_bytes(b"\0" * (segment.stat().st_size - 1) + b"\n")
    again = stage.keeper()
    again.restore(saved)
    again.poll()
    assert totals(again) == (99, 10)
    assert again.feed.missed["invalid"] == 0
