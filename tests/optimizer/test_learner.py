"""From events to knowledge, and feedback to its decision."""

import math
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from optimizer import events
from optimizer.ids import RequestIds, verify
from optimizer.learner import Learner, LearnerLimits
from optimizer.linear_statistics import DONE, RATED
from optimizer.settings import CustomMetric, JudgeSettings
from optimizer.statistics import Statistics

NOW = 1_795_000_000.0
SECRET = b"s" * 32
METRICS = (
    CustomMetric("user_satisfaction", low=0.0, high=10.0),
    CustomMetric("orders", kind="counter", aggregation="sum"),
    CustomMetric("latency"),
)


class Log:
    """Decisions that were written, as the learner may look them up."""

    def __init__(self):
        self.rows = {}

    def find(self, request_id, request):
        assert verify(request_id, SECRET) == request
        return self.rows.get(request_id)


class Bench:
    """A learner with a log beside it, fed event by event."""

    def __init__(self, learning, *, limits=None, price_version="v1", reprice=None):
        self.learning = learning
        self.ids = RequestIds(node=1, incarnation=1, key=SECRET)
        self.log = Log()
        self.committed = set()
        self.settings = learning["settings"](metrics=METRICS, price_version=price_version)
        self.learner = Learner(
            Statistics(),
            verify=lambda text: verify(text, SECRET),
            decisions=self.log,
            was_seen=self.committed.__contains__,
            limits=limits,
        )
        self.learner.configure(self.settings, now=NOW, reprice=reprice)

    def decide(self, *, at=NOW, request_id=None, **changes):
        request_id = request_id or self.mint(at)
        data = self.learning["data"](at=at, **changes)
        self.log.rows[request_id] = data
        self.learner.fold({"type": events.REQUEST, "id": request_id, "data": data})
        return request_id

    def mint(self, at=NOW):
        return self.ids.mint(int(at * 1000))

    def rate(self, request_id, value=0.5, *, metric="quality", source="user", key=None, at=NOW + 5, id_=None):
        data = {
            "request_id": request_id,
            "metric": metric,
            "value": value,
            "source": source,
            "key": key,
            "comment_bytes": 0,
        }
        time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
        event_id = id_ or f"fb_{request_id}{metric}{key or source}"
        self.learner.fold({"type": events.FEEDBACK, "id": event_id, "time": time, "data": data})

    def commit(self, now=NOW):
        changes = self.learner.changes(now)
        self.committed.update(changes.seen)
        self.learner.stored()
        return changes

    def signal(self, name, arm="small/default", now=NOW):
        return self.evidence(arm, now).signals.get(name)

    def evidence(self, arm="small/default", now=NOW):
        known = self.learning["arm"](self.settings, arm)
        return self.learner.statistics.evidence("auto", known, now=now, half_life_s=1.0)


@pytest.fixture
def bench(learning):
    return Bench(learning)


def test_a_request_teaches_its_arm_and_marks_its_route(bench):
    """Cost and latency are there at once, quality is missing and not zero."""
    bench.decide()

    assert bench.signal("cost").mean == pytest.approx(math.log(0.002))
    assert bench.signal("latency").mean == pytest.approx(math.log(0.5))
    assert bench.signal("quality") is None
    assert bench.learner.dirty_routes == {"auto"}


def test_feedback_finds_its_decision(bench):
    """And is weighed at the time of the decision, not of the rating."""
    request_id = bench.decide()
    bench.learner.dirty_routes.clear()

    bench.rate(request_id, 0.75, at=NOW + 86400.0)

    assert bench.signal("quality").mean == pytest.approx(0.75)
    assert bench.signal("quality").weight == pytest.approx(1.0)
    assert bench.learner.dirty_routes == {"auto"}


@pytest.mark.parametrize("metric", ["quality", "response_quality", "score", "rating", "thumbs"])
def test_every_name_of_quality_is_quality(bench, metric):
    """One signal, whatever callers call it."""
    bench.rate(bench.decide(), 1.0, metric=metric)

    assert bench.signal("quality").mean == pytest.approx(1.0)


def test_feedback_before_its_decision_waits(bench):
    """Sources of the log are read in any order."""
    request_id = bench.mint()
    bench.rate(request_id, 0.25)
    bench.rate(request_id, 7.0, metric="user_satisfaction")
    assert bench.learner.waiting == 2
    assert [item.metric for item in bench.commit().waiting_added] == ["quality", "user_satisfaction"]

    bench.decide(request_id=request_id)

    assert bench.learner.waiting == 0
    assert bench.signal("quality").mean == pytest.approx(0.25)
    assert bench.signal("user_satisfaction").mean == 7.0
    assert len(bench.commit().waiting_removed) == 2


def test_repeated_feedback_counts_once_the_first_wins(bench):
    """Within a step, after a commit, and under another name of the same metric."""
    request_id = bench.decide()
    bench.rate(request_id, 1.0)

    bench.rate(request_id, 0.0)
    bench.commit()
    bench.rate(request_id, 0.0)
    bench.rate(request_id, 0.0, metric="score")

    assert bench.signal("quality").mean == pytest.approx(1.0)
    assert bench.learner.counts["feedback_repeated"] == 3


def test_repeated_feedback_while_waiting_counts_once(bench):
    """Waiting is no second chance."""
    request_id = bench.mint()
    bench.rate(request_id, 1.0)
    bench.rate(request_id, 0.0)

    bench.decide(request_id=request_id)

    assert (bench.signal("quality").mean, bench.signal("quality").weight) == (1.0, pytest.approx(1.0))


def test_different_sources_count_each(bench):
    """A user and a judge are two opinions."""
    request_id = bench.decide()

    bench.rate(request_id, 1.0, source="user")
    bench.rate(request_id, 0.0, source="judge")

    assert bench.signal("quality").mean == pytest.approx(0.5)


def test_a_counter_may_be_raised_more_than_once_under_different_keys(bench):
    """Two orders from one reply are two orders; the same key is the same order."""
    request_id = bench.decide()

    for key in ("order-1", "order-2", "order-2"):
        bench.rate(request_id, 1.0, metric="orders", key=key)

    assert bench.signal("orders").mean == pytest.approx(2.0)


def test_a_rating_is_not_raised_by_new_keys(bench):
    """One source has one opinion on one reply."""
    request_id = bench.decide()

    for key in ("a", "b"):
        bench.rate(request_id, 1.0, key=key)

    assert bench.signal("quality").weight == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("metric", "value", "reason"),
    [
        ("unheard_of", 1.0, "feedback_unknown_metric"),
        ("latency", 1.0, "feedback_unknown_metric"),
        ("quality", 1.5, "feedback_out_of_range"),
        ("quality", "good", "feedback_out_of_range"),
        ("quality", True, "feedback_out_of_range"),
        ("quality", math.nan, "feedback_out_of_range"),
        ("user_satisfaction", 11.0, "feedback_out_of_range"),
        ("orders", 1e200, "feedback_out_of_range"),
    ],
)
def test_what_can_not_be_learned_is_counted(bench, metric, value, reason):
    """Unknown metrics, values out of range, and names that would overwrite our own signals."""
    request_id = bench.decide()
    before = list(bench.learner.statistics.rows())

    bench.rate(request_id, value, metric=metric)

    assert bench.learner.counts == {reason: 1}
    assert list(bench.learner.statistics.rows()) == before


def test_forged_ids_are_refused_without_a_look_up(bench):
    """Only ids of this node's key name a decision."""
    foreign = RequestIds(node=1, incarnation=1, key=b"x" * 32).mint(int(NOW * 1000))

    for request_id in (foreign, "req_1", "", None):
        bench.rate(request_id, id_="fb_x")

    assert bench.learner.counts == {"feedback_unknown_request": 4}


def test_late_feedback_is_refused(learning):
    """Beyond the window the log may be gone."""
    bench = Bench(learning, limits=LearnerLimits(late_window_s=100.0))
    request_id = bench.decide()

    bench.rate(request_id, at=NOW + 90)
    bench.rate(request_id, source="judge", at=NOW + 110)

    assert bench.learner.counts["feedback_learned"] == 1
    assert bench.learner.counts["feedback_late"] == 1


def test_waiting_feedback_expires_and_is_bounded(learning):
    """Decisions that never come take no memory."""
    bench = Bench(learning, limits=LearnerLimits(wait_s=60.0, max_waiting=3))
    for _ in range(5):
        bench.rate(bench.mint())
    assert bench.learner.waiting == 3
    assert bench.learner.counts["feedback_dropped"] == 2

    bench.decide(at=NOW + 120)
    changes = bench.commit(NOW + 120)

    assert bench.learner.waiting == 0
    assert bench.learner.counts["feedback_expired"] == 3
    assert len(changes.waiting_removed) == 5


def test_an_event_from_the_future_does_not_expire_what_waits(bench):
    """The wall clock bounds what an event may claim."""
    bench.rate(bench.mint())

    bench.decide(at=NOW + 50 * 365 * 86400.0)
    bench.commit(NOW + 10)

    assert bench.learner.waiting == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"route": None}, "feedback_not_optimized"),
        ({"model_key": None}, "feedback_not_optimized"),
        ({"outcome": events.UPSTREAM_FAULT}, "feedback_not_completed"),
        ({"signals": {"empty": 1}}, "feedback_on_failure"),
    ],
)
def test_some_decisions_can_not_be_rated(bench, changes, reason):
    """No arm, no answer, or an answer whose quality is certain already."""
    bench.rate(bench.decide(**changes), 1.0)

    assert bench.learner.counts[reason] == 1


def test_feedback_on_a_fallback_goes_to_the_arm_that_answered(bench):
    """Not to the one that failed."""
    attempts = [
        {"arm": "small/default", "status": 500, "error": "upstream_error", "ms": 10.0},
        {"arm": "large/default", "status": 200, "error": None, "ms": 10.0},
    ]

    bench.rate(bench.decide(attempts=attempts), 1.0)

    assert bench.signal("quality", "large/default").mean == pytest.approx(1.0)
    assert bench.signal("quality", "small/default") is None


def test_feedback_on_a_continued_answer_teaches_nobody(bench):
    """Two models wrote it together."""
    attempts = [
        {"arm": "small/default", "status": 200, "error": "upstream_reset", "ms": 10.0, "why": "first"},
        {"arm": "large/default", "status": 200, "error": None, "ms": 10.0, "why": "continuation"},
    ]

    bench.rate(bench.decide(attempts=attempts, continued=True), 1.0)

    assert bench.learner.counts["feedback_continued"] == 1
    for arm in ("small/default", "large/default"):
        assert bench.signal("quality", arm) is None


def test_a_fallback_is_priced_by_its_own_version(learning):
    """The event's own version is of the arm that was decided."""

    def reprice(model, data):
        return 7.0

    attempts = [
        {"arm": "small/default", "status": 500, "error": "upstream_error", "ms": 10.0, "cost_usd": None},
        {"arm": "large/default", "status": 200, "error": None, "ms": 10.0, "cost_usd": 3.0},
    ]
    present, past = Bench(learning, reprice=reprice), Bench(learning, reprice=reprice)
    attempts[1]["price_version"] = "v1"
    present.decide(attempts=attempts, price_version="v0", cost_usd=9.0)
    attempts[1]["price_version"] = "v0"
    past.decide(attempts=attempts, price_version="v1", cost_usd=9.0)

    assert present.signal("cost_usd", "large/default").mean == pytest.approx(3.0)
    assert past.signal("cost_usd", "large/default").mean == pytest.approx(7.0)


def test_events_under_an_old_price_are_priced_again(learning):
    """One posterior never mixes prices; what can not be priced again teaches no cost."""

    def reprice(model, data):
        tokens = data.get("gen_ai.usage.input_tokens")
        return None if tokens is None else tokens * model.price.input / 1e6

    bench = Bench(learning, price_version="v2", reprice=reprice)

    bench.decide(**{"gen_ai.usage.input_tokens": 1000})
    bench.decide()
    bench.decide(price_version="v2", cost_usd=0.003)

    assert bench.signal("cost_usd").weight == pytest.approx(2.0)
    assert bench.signal("cost_usd").mean == pytest.approx(0.002)
    assert bench.learner.cost_usd("auto", "small/default", at=NOW).mean == pytest.approx(0.002)
    assert bench.learner.cost_usd("auto", "gone", at=NOW) is None


def test_a_reload_keeps_what_was_learned(bench, learning):
    """Also with another half-life and without the custom metrics."""
    bench.rate(bench.decide(), 0.75)

    bench.learner.configure(learning["settings"](half_life_s=60.0), now=NOW + 1)

    assert bench.signal("quality", now=NOW + 1).mean == pytest.approx(0.75)
    assert bench.signal("quality", now=NOW + 61).weight == pytest.approx(0.5, rel=1e-4)


def test_listeners_are_told_of_every_rating_that_was_learned(bench):
    """With the decision and its request id; early ones when their decision comes, refused and repeated ones never."""
    told = []
    bench.learner.listeners.append(lambda decision, signal, value: told.append((decision, signal, value)))
    request = bench.decide()
    bench.rate(request, 0.25)
    bench.rate(request, 0.25)
    bench.rate(request, 7.0, metric="user_satisfaction")
    bench.rate(bench.decide(outcome=events.UPSTREAM_FAULT), 0.5)
    early = bench.mint()
    bench.rate(early, 0.75)
    bench.decide(request_id=early)
    assert [(decision["request_id"], signal, value) for decision, signal, value in told] == [
        (request, "quality", 0.25),
        (request, "user_satisfaction", 7.0),
        (early, "quality", 0.75),
    ]
    assert all(decision["arm"] == "small/default" for decision, _, _ in told)
    assert "request_id" not in bench.log.rows[request]


def test_a_listener_that_fails_stops_neither_learning_nor_the_others(bench):
    told = []

    def fail(decision, signal, value):
        raise ValueError("not today")

    bench.learner.listeners += [fail, lambda decision, signal, value: told.append(value)]
    bench.rate(bench.decide(), 0.25)
    assert told == [0.25]
    assert bench.signal("quality").mean == 0.25
    assert bench.learner.counts["listener_errors"] == 1


def test_other_events_teach_nothing(bench):
    """Selectors, worker statistics and what later versions invent."""
    for kind in (events.SELECTOR, events.WORKER_STATS, "llm_optimizer.future.v9"):
        bench.learner.fold({"type": kind, "id": "x", "data": {}})

    assert list(bench.learner.statistics.rows()) == []


def test_one_request_is_rated_by_so_many_sources_and_no_more(bench):
    """Across steps and commits; other metrics and other requests have places of their own."""
    request_id, other = bench.decide(), bench.decide()
    for number in range(20):
        bench.rate(request_id, 1.0, source=f"judge-{number}")
        if number % 5 == 0:
            bench.commit()
    bench.rate(request_id, 1.0, source="judge-3")
    bench.rate(request_id, 5.0, metric="user_satisfaction")
    bench.rate(other, 1.0)

    assert bench.learner.counts["feedback_accepted"] == 18
    assert bench.learner.counts["feedback_too_many_sources"] == 4
    assert bench.learner.counts["feedback_repeated"] == 1


def judged_by(settings, version):
    """The route ``auto`` with a judge of this version."""
    judge = JudgeSettings("main", "large", "Is it right?", version)
    return replace(settings, routes=(replace(settings.routes[0], judge=judge),))


def test_only_the_configured_judge_is_the_quality(bench):
    """Callers' ratings stand beside it, and so do those of another version; going back finds the old ones again."""
    bench.learner.configure(judged_by(bench.settings, "j1"), now=NOW)
    told = []
    bench.learner.listeners.append(lambda decision, signal, value: told.append((signal, value)))
    request = bench.decide()
    for source, value in (("user", 0.9), ("judge:main@j1", 0.2), ("judge:main@j2", 0.6)):
        bench.rate(request, value, source=source)

    def read():
        found = bench.evidence().signals
        return {name: round(found[name].mean, 9) for name in found if name.startswith("quality")}

    assert told == [("quality_user", 0.9), ("quality", 0.2), ("quality@j2", 0.6)]
    assert read() == {"quality": 0.2, "quality_user": 0.9, "quality@j2": 0.6}
    bench.learner.configure(judged_by(bench.settings, "j2"), now=NOW)
    assert read() == {"quality": 0.6, "quality_user": 0.9, "quality@j1": 0.2}
    bench.learner.configure(bench.settings, now=NOW)
    assert read() == {"quality": 0.9, "quality@j1": 0.2, "quality@j2": 0.6}


def test_a_judgement_on_a_certain_failure_teaches_nothing(bench):
    """It counts as quality 0 already, whoever rates it."""
    request = bench.decide(signals={"empty": 1})

    bench.rate(request, 0.9, source="judge:main@j1")

    assert bench.learner.counts["feedback_on_failure"] == 1


def test_a_judgement_may_wait_for_its_decision_and_counts_once(bench):
    """It keeps its judge while it waits, and callers can not take its place."""
    bench.learner.configure(judged_by(bench.settings, "j1"), now=NOW)
    request = bench.mint()
    for number in range(40):
        bench.rate(request, 0.9, source=f"caller-{number}")
    for _ in range(2):
        bench.rate(request, 0.2, source="judge:main@j1")

    bench.decide(request_id=request)

    found = bench.evidence().signals["quality"]
    assert (found.mean, found.weight) == (pytest.approx(0.2), pytest.approx(1.0, rel=1e-3))


def context(*x, version="f1"):
    return {"version": version, "x": b64encode(np.array([1.0, *x], "<f4").tobytes()).decode()}


def linear(bench, signal, group=DONE, arm_id="small/default"):
    arm = bench.learning["arm"](bench.settings, arm_id)
    return bench.learner.linear.sums("auto", arm, "f1", group, signal, now=NOW)


def test_outcomes_and_ratings_are_learned_with_the_features(bench):
    """Costs, latency and validity of answered requests; ratings when they come."""
    rated = bench.decide(context=context(2.0), cost_usd=0.5, duration_ms=1000.0)
    bench.decide(context=context(4.0), cost_usd=0.5, duration_ms=1000.0, stream=True, ttft_ms=100.0)
    bench.decide(context=context(8.0), outcome=events.UPSTREAM_FAULT)
    bench.rate(rated, 0.25)

    assert linear(bench, "valid").gram == pytest.approx(np.array([[2.0, 6.0], [6.0, 20.0]]), rel=1e-3)
    assert linear(bench, "cost_usd").moment == pytest.approx([1.0, 3.0], rel=1e-3)
    assert linear(bench, "latency").square == pytest.approx(0.0)
    assert linear(bench, "ttft").gram == pytest.approx(np.array([[1.0, 4.0], [4.0, 16.0]]), rel=1e-3)
    assert linear(bench, "quality", RATED).moment == pytest.approx([0.25, 0.5], rel=1e-3)
    assert bench.learner.linear.recent("auto", "f1")[:, 1].tolist() == [2.0, 4.0, 8.0]


def test_features_belong_to_the_arm_that_answered(bench):
    """A fallback learns what it did with the request, the failed arm nothing about features."""
    attempts = [
        {"arm": "small/default", "status": 503, "error": "upstream_error", "ms": 9.0},
        {"arm": "large/default", "status": 200, "error": None, "ms": 9.0, "cost_usd": 0.5},
    ]
    request = bench.decide(context=context(2.0), attempts=attempts, served_by="large/default")
    bench.rate(request, 0.5)

    assert linear(bench, "valid") is None
    assert linear(bench, "valid", arm_id="large/default").weight == pytest.approx(1.0, rel=1e-3)
    assert linear(bench, "quality", RATED, "large/default").moment[1] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    "broken",
    ["words", {}, {"version": "f1"}, {"version": "", "x": "AACAPw=="}, {"version": "f1", "x": "AACA"}, [1]],
)
def test_a_damaged_vector_costs_only_itself(bench, broken):
    """The request still teaches what it teaches without features."""
    request = bench.decide(context=broken)
    bench.rate(request, 0.5)

    found = bench.evidence()
    assert (found.pulls, found.signals["quality"].mean) == (1.0, 0.5)
    assert bench.learner.counts["context_refused"] == 2
    assert linear(bench, "valid") is None


def test_a_vector_of_another_size_is_refused_and_counted(bench):
    """A version always has as many features."""
    bench.decide(context=context(2.0))
    bench.decide(context=context(2.0, 3.0))

    assert linear(bench, "valid").weight == pytest.approx(1.0, rel=1e-3)
    assert bench.learner.counts["context_refused"] == 1
