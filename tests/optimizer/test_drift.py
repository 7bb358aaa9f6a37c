"""Watching the log for sudden changes: what is forgotten then, what is kept, and that it happens once."""

import base64
from dataclasses import replace

import numpy as np
import orjson
import pytest

from optimizer import events, reward
from optimizer.drift import DriftWatch, rules_of
from optimizer.drift_trial import median_to_share, runs
from optimizer.forgetting import Forgetting
from optimizer.ingest import Ingest
from optimizer.log.writer import WriterBounds
from optimizer.settings import DriftSettings, JudgeSettings

NOON = 1_795_000_000.0
SMALL = ("auto", "key-small", "key-default")


class Clock:
    """A wall clock that stands still until it is set."""

    def __init__(self):
        self.now = NOON + 3600.0

    def __call__(self):
        return self.now


class Room:
    """An optimizer's reading half with a drift watch, as the product puts it together."""

    def __init__(self, node, settings):
        self.clock = Clock()
        self.journal = []
        self.crash = False
        self.ingest = Ingest(node.state, clock=self.clock)
        self.ingest.configure(settings)
        learner = self.ingest.learner
        self.watch = DriftWatch(
            lessons=learner.lessons,
            forget=Forgetting(learner, self.ingest.reset),
            journal=self.write,
            now=self.clock,
        )
        self.watch.configure(settings)
        self.ingest.add_consumer(self.watch)
        learner.listeners.append(self.watch.rated)

    def write(self, *event):
        self.journal.append(event)
        if self.crash:
            raise Crash
        return True

    def configure(self, settings, reprice=None):
        self.ingest.configure(settings, reprice=reprice)
        self.watch.configure(settings)

    def read(self):
        while self.ingest.step():
            pass

    def evidence(self, arm):
        return self.ingest.statistics.evidence("auto", arm, now=NOON + 3600.0, half_life_s=7 * 86400.0)


@pytest.fixture
def node(make_node):
    """A busy machine must not divert lines to the writer's thread, where a reader does not see them yet."""
    return make_node(WriterBounds(reserve_bytes=0, slow_write_s=float("inf")))


@pytest.fixture
def open_room(node, learning):
    opened = []

    def open_(settings=None):
        while opened:
            opened.pop().ingest.close()
        opened.append(Room(node, settings or learning["settings"]()))
        return opened[-1]

    yield open_
    while opened:
        opened.pop().ingest.close()


def log(node, count, *, start=0, quality=None, **changes):
    """Log requests, one a second, of which each is rated with the next of ``quality``."""
    for number in range(count):
        at = NOON + start + number
        request_id = node.request(at=at, **changes)
        if quality is not None:
            node.feedback(request_id, at=at + 2, metric="quality", value=quality[number % len(quality)])


GOOD, BAD = [1.0, 1.0, 0.8, 0.9], [0.2, 0.4, 0.3, 0.3]


def test_a_change_of_quality_forgets_the_quality_of_before_and_nothing_else(node, open_room, learning):
    """What was seen since the change counts whole, costs and durations stay, other arms too."""
    log(node, 200, quality=GOOD)
    log(node, 60, start=140, quality=GOOD, arm="large/default")
    log(node, 30, start=200, quality=BAD)
    room = open_room()
    small, large = (learning["arm"](learning["settings"](), f"{name}/default") for name in ("small", "large"))

    room.read()

    (alarm,) = room.watch.alarms_of("auto", "small/default")
    assert (alarm.route, alarm.arm, alarm.signal) == ("auto", "small/default", "quality")
    assert alarm.before == pytest.approx(0.925, abs=0.01)
    assert alarm.after == pytest.approx(0.3, abs=0.06)
    assert NOON + 195 <= alarm.since <= NOON + 200
    assert alarm.keep <= 0.02
    known, other = room.evidence(small), room.evidence(large)
    assert known.signals["quality"].mean == pytest.approx(0.3, abs=0.06)
    assert known.signals["quality"].weight == pytest.approx(30, abs=4)
    assert known.pulls == 230
    for signal in ("cost", "latency", "valid"):
        assert known.signals[signal].weight == pytest.approx(230, rel=0.01)
    assert known.success.weight == pytest.approx(230, rel=0.01)
    assert other.signals["quality"].weight == pytest.approx(60, rel=0.01)
    assert other.signals["quality"].mean == pytest.approx(0.925, abs=0.01)


def test_a_slow_arm_keeps_its_ratings(node, open_room, learning):
    """Only durations are forgotten; the alarm gives seconds."""
    log(node, 150, quality=GOOD)
    log(node, 40, start=150, quality=GOOD, duration_ms=4000.0)
    room = open_room()

    room.read()

    (alarm,) = room.watch.alarms_of("auto", "small/default")
    assert (alarm.signal, alarm.before, alarm.after) == (
        "latency",
        pytest.approx(0.5),
        pytest.approx(4.0, rel=0.1),
    )
    known = room.evidence(learning["arm"](learning["settings"]()))
    assert known.signals["quality"].weight == pytest.approx(190, rel=0.01)
    assert known.signals["latency"].weight < 60
    assert np.exp(known.signals["latency"].mean) == pytest.approx(4.0, rel=0.1)


def test_a_wordier_model_is_a_change_of_cost_and_a_longer_prompt_is_none(node, open_room, learning):
    """Costs are watched beside the tokens that came in."""
    rng = np.random.default_rng(0)
    for start, shift in ((0, 0.0), (200, 2.0)):
        for number in range(200):
            tokens = float(np.exp(rng.normal(5.0 + shift, 1.0)))
            log(
                node,
                1,
                start=start + number,
                cost_usd=tokens * 1e-6,
                **{"gen_ai.usage.input_tokens": int(tokens)},
            )
    room = open_room()
    room.read()
    assert room.watch.counts.total() == 0

    for number in range(100):
        tokens = float(np.exp(rng.normal(7.0, 1.0)))
        log(
            node,
            1,
            start=400 + number,
            cost_usd=tokens * 3e-6,
            **{"gen_ai.usage.input_tokens": int(tokens)},
        )
    room.read()

    (alarm,) = room.watch.alarms_of("auto", "small/default")
    assert alarm.signal == "cost"
    assert alarm.after / alarm.before == pytest.approx(3.0, rel=0.2)
    known = room.evidence(learning["arm"](learning["settings"]()))
    for signal in ("cost", "cost_usd"):
        assert known.signals[signal].weight < 120
    assert known.signals["latency"].weight == pytest.approx(500, rel=0.01)


def test_a_new_price_is_no_change(node, open_room, learning):
    """Costs are priced again, the detectors of the old price end, and durations keep what they know."""
    log(node, 200, quality=GOOD)
    room = open_room()
    room.read()

    room.configure(
        learning["settings"](price_version="v2"), reprice=lambda model, data: data["cost_usd"] * 10.0
    )
    log(node, 100, start=200, quality=GOOD, cost_usd=0.02, price_version="v2")
    room.read()
    room.read()

    assert room.watch.counts.total() == 0
    known = room.evidence(learning["arm"](learning["settings"](price_version="v2")))
    assert np.exp(known.signals["cost"].mean) == pytest.approx(0.02, rel=0.01)
    for signal in ("cost", "latency", "quality"):
        assert known.signals[signal].weight == pytest.approx(300, rel=0.01)


def test_an_edited_prompt_starts_without_knowledge_and_without_suspicion(node, open_room, learning):
    """It is another arm by its content; taken back, the old text finds what it had, and its detectors."""
    log(node, 200, quality=GOOD)
    room = open_room()
    room.read()
    settings = learning["settings"]()
    route = settings.routes[0]
    edited = replace(
        settings,
        routes=(replace(route, arms=(replace(route.arms[0], variant_key="key-edited"), route.arms[1])),),
    )

    room.configure(edited)
    log(node, 100, start=200, quality=BAD, variant_key="key-edited")
    room.read()

    assert room.watch.counts.total() == 0
    assert room.evidence(edited.routes[0].arms[0]).signals["quality"].mean < 0.35
    assert room.evidence(route.arms[0]).signals["quality"].weight == pytest.approx(200, rel=0.01)

    room.configure(settings)
    log(node, 30, start=300, quality=BAD)
    room.read()

    assert [alarm.signal for alarm in room.watch.alarms_of("auto", "small/default")] == ["quality"]


def test_a_removed_arm_comes_back_with_what_was_known(node, open_room, learning):
    """While it is away its events teach no detector."""
    log(node, 100, quality=GOOD)
    room = open_room()
    room.read()
    settings = learning["settings"]()
    route = settings.routes[0]

    room.configure(replace(settings, routes=(replace(route, arms=route.arms[1:]),)))
    log(node, 100, start=100, quality=BAD)
    room.read()
    room.configure(settings)

    assert room.watch.counts.total() == 0
    assert room.evidence(route.arms[0]).signals["quality"].weight == pytest.approx(200, rel=0.01)


def test_an_alarm_happens_once(node, open_room):
    """A restart neither repeats it nor loses it; the event's id is the same whoever reads the log."""
    log(node, 200, quality=GOOD)
    log(node, 30, start=200, quality=BAD)
    room = open_room()
    room.read()
    (alarm,) = room.watch.alarms_of("auto", "small/default")
    resets = room.ingest.statistics.timeline.resets
    rows = sorted(room.ingest.statistics.rows())

    again = open_room()
    again.read()

    assert again.journal == []
    assert again.watch.alarms_of("auto", "small/default") == (alarm,)
    assert again.watch.counts == {("auto", "small/default", "quality"): 1}
    assert again.ingest.statistics.timeline.resets == resets
    assert sorted(again.ingest.statistics.rows()) == rows
    ((kind, data, event_id),) = room.journal
    assert (kind, event_id) == (events.DRIFT, alarm.id)
    assert orjson.loads(orjson.dumps(data))["signal"] == "quality"
    assert set(data) >= {
        "route",
        "arm",
        "model_key",
        "variant_key",
        "before",
        "after",
        "evidence",
        "keep",
        "at",
    }


class Crash(BaseException):
    """The process is gone."""


def test_a_crash_before_the_step_is_saved_repeats_the_same_alarm(node, open_room):
    """Nothing of it was saved, so everything is done again, under the same id."""
    log(node, 200, quality=GOOD)
    log(node, 30, start=200, quality=BAD)
    room = open_room()
    room.crash = True
    with pytest.raises(Crash):
        room.read()
    ((_, _, event_id),) = room.journal
    room.ingest.store.close()

    again = open_room()
    again.read()

    assert [found for _, _, found in again.journal] == [event_id]
    assert again.watch.counts.total() == 1
    assert len(again.ingest.statistics.timeline.resets) == 1


def test_late_ratings_of_the_time_before_are_no_second_change(node, open_room):
    """They were given to the arm as it was."""
    log(node, 200, quality=GOOD)
    old = [node.request(at=NOON + 100.5) for _ in range(60)]
    log(node, 80, start=200, quality=BAD)
    for number, request_id in enumerate(old):
        node.feedback(request_id, at=NOON + 400 + number, metric="quality", value=GOOD[number % 4])
    log(node, 80, start=500, quality=BAD)
    room = open_room()

    room.read()

    assert room.watch.counts == {("auto", "small/default", "quality"): 1}


def test_switched_off_nobody_watches(node, open_room, learning):
    """Neither alarms nor series."""
    settings = learning["settings"]()
    route = replace(settings.routes[0], drift=DriftSettings(enabled=False))
    log(node, 200, quality=GOOD)
    log(node, 50, start=200, quality=BAD)
    room = open_room(replace(settings, routes=(route,)))

    room.read()

    assert room.watch.counts.total() == 0
    assert list(room.watch.series()) == []


def test_every_watched_arm_has_a_series_from_the_start(open_room):
    """So that a first alarm is an increase."""
    series = list(open_room().watch.series())

    assert ("auto", "large/default", "quality", 0) in series
    assert len(series) == 2 * 6


def test_only_the_judge_of_the_route_is_listened_to(node, open_room, learning):
    """Users' ratings are a proxy there; the judge's are stored under its version and forgotten there."""
    settings = learning["settings"]()
    judge = JudgeSettings("strict", "large", "Rate it.", "v7")
    settings = replace(settings, routes=(replace(settings.routes[0], judge=judge),))
    room = open_room(settings)
    for number in range(230):
        request_id = node.request(at=NOON + number)
        score = GOOD[number % 4] if number < 200 else BAD[number % 4]
        data = {"request_id": request_id, "metric": "quality", "value": score, "source": "judge:strict@v7"}
        node.append(f"judged-{number}", events.FEEDBACK, data, NOON + number + 2)
        node.feedback(request_id, at=NOON + number + 3, metric="quality", value=0.5)

    room.read()

    assert [alarm.signal for alarm in room.watch.alarms_of("auto", "small/default")] == ["quality"]
    known = room.evidence(learning["arm"](settings))
    assert known.signals["quality"].mean == pytest.approx(0.3, abs=0.06)
    assert known.signals[reward.QUALITY_USER].mean == pytest.approx(0.5)


def test_what_a_fit_expects_is_taken_out_and_features_are_learned_again(node, open_room):
    """Hard requests instead of easy ones are no change; a change forgets linear sums alike."""
    rng = np.random.default_rng(1)
    room = open_room()
    room.watch.slopes = lambda arm, version: {"quality": np.array([0.0, -0.5])}

    def serve(start, count, hard_share, shift):
        for number in range(count):
            hard = float(rng.random() < hard_share)
            x = base64.b64encode(np.array([1.0, hard], dtype="<f4").tobytes()).decode()
            quality = float(np.clip(0.9 - 0.5 * hard + shift + rng.normal(0, 0.05), 0, 1))
            log(node, 1, start=start + number, quality=[quality], context={"version": "f1", "x": x})

    serve(0, 150, 0.1, 0.0)
    serve(150, 150, 0.9, 0.0)
    room.read()
    assert room.watch.counts.total() == 0

    serve(300, 60, 0.5, -0.35)
    room.read()

    assert room.watch.counts == {("auto", "small/default", "quality"): 1}
    arm = room.ingest.learner
    sums = arm.linear.sums("auto", _small(), "f1", "rated", "quality", now=NOON + 3600)
    assert sums.weight < 70


def _small():
    from optimizer.routing import Arm

    return Arm("small/default", "small", "default", "key-small", "key-default")


def test_settings_are_meant_in_the_unit_of_each_signal():
    """Shares as they are, logarithms four times as tolerant, with blocks and bounded outliers."""
    settings = DriftSettings(tolerance=0.1, threshold=5.0)

    assert (rules_of(settings, "quality").tolerance, rules_of(settings, "cost").tolerance) == (0.1, 0.4)
    assert not rules_of(settings, "success").correlated
    assert rules_of(settings, "latency").correlated


@pytest.mark.slow
def test_a_new_best_arm_is_taken_up_soon():
    """The rates of GPT-4 and GPT-3.5 between March and June 2023 on primes; no alarm before the change."""
    rng = np.random.default_rng(0)
    before, after = (rng.random((1000, 2)) < rates for rates in ((0.84, 0.505), (0.502, 0.68)))

    found = runs(before.astype(float), after.astype(float), seeds=3, requests=2600)
    plain = runs(
        before.astype(float), after.astype(float), seeds=3, requests=2600, drift=DriftSettings(enabled=False)
    )

    assert sum(run.false_alarms for run in found) == 0
    assert median_to_share(found) <= 300
    assert median_to_share(plain) > 3 * median_to_share(found)


def test_detectors_are_saved_by_route_and_only_when_they_saw_something(node, open_room):
    """Thousands of them must not be written every few seconds while the loop waits; an alarm is saved at once."""
    log(node, 100, quality=GOOD)
    room = open_room()
    room.read()
    first = room.watch.snapshot_parts()
    room.clock.now += 60.0
    assert room.watch.snapshot_parts()["auto"] is first["auto"]

    log(node, 40, start=100, quality=GOOD)
    room.clock.now += 60.0
    room.read()
    saved, whole = room.watch.snapshot_parts(), room.watch.snapshot()
    assert saved["auto"] != first["auto"]
    assert saved.keys() == {"", "auto"}

    again = open_room()
    assert again.watch.snapshot() == whole
    log(node, 60, start=140, quality=BAD)
    again.read()
    assert again.watch.counts.total() == 1
    assert again.watch.snapshot_parts()["auto"] != saved["auto"]
    assert again.watch.snapshot_parts()[""] != saved[""]
