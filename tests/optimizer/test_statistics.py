"""Additive statistics: order, partition and replay do not matter; forgetting, resets and prices do."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.reward import COST, COST_USD, QUALITY, SUCCESS, VALID, priced
from optimizer.routing import Arm
from optimizer.statistics import Statistics

DAY = 86400.0
NOW = 1_795_000_000.0
ARM = Arm("a", "m", "v", "mk", "vk")
KEY = ("auto", "mk", "vk")

observations = st.lists(
    st.tuples(
        st.floats(NOW - 60 * DAY, NOW),
        st.sampled_from(["latency", "spend", "custom"]),
        st.floats(-20.0, 20.0),
    ),
    min_size=1,
    max_size=60,
)


def evidence(statistics, now=NOW):
    return statistics.evidence("auto", ARM, now=now, half_life_s=DAY)


def numbers(found):
    """Every number of an evidence by name."""
    moments = {SUCCESS: found.success, **found.signals}
    return {
        "pulls": found.pulls,
        **{f"{k}.weight": m.weight for k, m in moments.items()},
        **{f"{k}.mean": m.mean for k, m in moments.items()},
        **{f"{k}.variance": m.variance for k, m in moments.items()},
    }


def make(half_life_s=DAY):
    statistics = Statistics()
    statistics.set_half_life("auto", half_life_s, at=0.0)
    return statistics


def fold(statistics, rows):
    for time, signal, value in rows:
        statistics.add(KEY, time, [(signal, value)])
    return statistics


@given(observations, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows, shuffler):
    """Any order of the same observations is the same evidence."""
    shuffled = shuffler.sample(rows, len(rows))

    one, other = fold(make(), rows), fold(make(), shuffled)

    assert numbers(evidence(one)) == pytest.approx(numbers(evidence(other)), rel=1e-9, abs=1e-9)


@given(observations, st.integers(1, 4), st.randoms(use_true_random=False))
def test_partition_does_not_matter(rows, parts, dealer):
    """Sums made apart and merged are the sums made together."""
    piles = [make() for _ in range(parts)]
    for row in rows:
        fold(dealer.choice(piles), [row])

    merged = make()
    for pile in piles:
        merged.merge(pile)

    assert numbers(evidence(merged)) == pytest.approx(
        numbers(evidence(fold(make(), rows))), rel=1e-9, abs=1e-9
    )


@given(observations, st.floats(NOW - 30 * DAY, NOW), st.floats(0.1 * DAY, 100 * DAY))
def test_weights_are_what_the_half_life_says(rows, changed_at, new_half_life_s):
    """Evidence equals the direct sum of 2**-(half-lives passed), also across a change of the half-life."""
    statistics = make()
    statistics.set_half_life("auto", new_half_life_s, at=changed_at)
    fold(statistics, rows)

    found = evidence(statistics)

    def passed(time):
        return max(changed_at - time, 0) / DAY + (NOW - max(time, changed_at)) / new_half_life_s

    near = [row for row in rows if passed(row[0]) < 20]
    for signal in {row[1] for row in near}:
        got = found.signals[signal]
        weights = [2.0 ** -passed(time) for time, name, _ in rows if name == signal]
        values = [value for _, name, value in rows if name == signal]
        assert got.weight == pytest.approx(math.fsum(weights), rel=1e-5)
        mean = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
        assert got.mean == pytest.approx(mean, rel=1e-5, abs=1e-5)


@settings(max_examples=30)
@given(observations)
def test_stored_rows_are_everything(rows):
    """What ``rows`` gives, added to fresh statistics, is the same evidence."""
    original = fold(make(), rows)

    copy = make()
    for row in original.rows():
        copy.add_row(row)

    assert numbers(evidence(copy)) == numbers(evidence(original))


def test_half_of_the_weight_is_gone_after_a_half_life():
    """Counts are not forgotten, weights are."""
    statistics = fold(make(), [(NOW, SUCCESS, 1.0)] * 10)

    later = evidence(statistics, now=NOW + DAY)

    assert later.success.weight == pytest.approx(5.0)
    assert later.pulls == 10.0


def test_what_is_beyond_the_horizon_counts_for_nothing():
    """After 60 half-lives an arm is unknown again, and pruning changes no reading."""
    statistics = fold(make(), [(NOW - 60 * DAY, SUCCESS, 1.0), (NOW, QUALITY, 0.5)])
    before = numbers(evidence(statistics))

    statistics.prune(NOW)

    assert evidence(statistics).pulls == 0.0
    assert numbers(evidence(statistics)) == before
    assert {row[3] for row in statistics.rows()} == {QUALITY}
    assert {key[3] for key in statistics.changes().dropped} == {SUCCESS}


def test_an_unknown_arm_has_no_evidence():
    """Asking for what was never seen is no error."""
    found = evidence(Statistics())

    assert found.pulls == 0.0
    assert found.success.weight == 0.0
    assert found.signals == {}


def test_a_time_far_ahead_is_not_reckoned_with():
    """An event from next century neither overflows nor hides what is known."""
    statistics = fold(make(), [(NOW, QUALITY, 0.5), (NOW + 100 * 365 * DAY, QUALITY, 1.0)])

    assert evidence(statistics).signals[QUALITY].mean == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_must_be_finite(value):
    """Nothing of a bad observation is added."""
    statistics = make()

    with pytest.raises(ValueError, match="finite"):
        statistics.add(KEY, NOW, [(SUCCESS, 1.0), (QUALITY, value)])

    assert list(statistics.rows()) == []


def test_a_reset_forgets_what_was_before_also_when_it_arrives_later():
    """Late events from before a reset belong to the past."""
    statistics = fold(make(), [(NOW - 10, SUCCESS, 0.0)])

    statistics.reset("auto", at=NOW, model_key="mk", variant_key="vk")
    fold(statistics, [(NOW - 5, SUCCESS, 0.0), (NOW + 5, SUCCESS, 1.0)])

    found = evidence(statistics, now=NOW + 10)
    assert (found.pulls, found.success.mean) == (1.0, 1.0)


def test_a_reset_of_a_route_resets_every_arm_and_no_other_route():
    """Empty keys mean the whole route."""
    statistics = fold(make(), [(NOW - 10, SUCCESS, 1.0)])
    statistics.add(("other", "mk", "vk"), NOW - 10, [(SUCCESS, 1.0)])

    statistics.reset("auto", at=NOW)

    assert evidence(statistics).pulls == 0.0
    assert statistics.evidence("other", ARM, now=NOW, half_life_s=DAY).pulls == 1.0


def test_a_partial_reset_lets_older_evidence_count_less():
    """Of everything that is decayed; how often the arm was tried stays, unless nothing is kept."""
    statistics = make(math.inf)
    fold(statistics, [(NOW - 10, SUCCESS, 0.0)] * 10)
    statistics.add(KEY, NOW - 10, [(priced(COST_USD, "v1"), 8.0)])
    statistics.set_price_versions({KEY: "v1"})

    statistics.reset("auto", at=NOW, model_key="mk", variant_key="vk", keep=0.1)
    fold(statistics, [(NOW + 1, SUCCESS, 1.0), (NOW - 5, SUCCESS, 0.0)])
    statistics.add(KEY, NOW + 1, [(priced(COST_USD, "v1"), 1.0)])
    once = evidence(statistics, now=NOW + 2)
    cost = statistics.cost_usd(KEY, now=NOW + 2).mean
    statistics.reset("auto", at=NOW + 3, keep=0.5)
    twice = evidence(statistics, now=NOW + 4)

    assert (once.pulls, once.success.weight) == (12.0, pytest.approx(0.1 * 11 + 1))
    assert once.success.mean == pytest.approx(1 / 2.1)
    assert cost == pytest.approx((0.1 * 8 + 1) / 1.1)
    assert twice.success.weight == pytest.approx(0.5 * (0.1 * 11 + 1))
    statistics.reset("auto", at=NOW + 5)
    assert evidence(statistics, now=NOW + 6).pulls == 0.0


@given(observations, st.floats(0.0, 1.0), st.randoms(use_true_random=False))
def test_order_does_not_matter_across_a_partial_reset(rows, keep, shuffler):
    """What is read before and after the reset was folded, in any order, is the same evidence."""
    whole, parts = make(), make()
    for statistics in (whole, parts):
        statistics.timeline.saw(NOW - 5 * DAY)
        statistics.reset("auto", at=NOW - 5 * DAY, keep=keep)
    fold(whole, rows)
    fold(parts, shuffler.sample(rows, len(rows)))

    expected, found = numbers(evidence(whole)), numbers(evidence(parts))

    assert found == {name: pytest.approx(value, rel=1e-6, abs=1e-6) for name, value in expected.items()}


@pytest.mark.parametrize("keep", [-0.1, 1.1, math.nan])
def test_a_share_to_keep_is_a_share(keep):
    """Nothing can count more than it did."""
    with pytest.raises(ValueError, match="keep"):
        make().reset("auto", at=NOW, keep=keep)


def test_many_partial_resets_end_in_forgetting():
    """What counts next to nothing is let go of."""
    statistics = fold(make(math.inf), [(NOW - 10, SUCCESS, 1.0)])

    for number in range(10):
        statistics.reset("auto", at=NOW + number, keep=0.02)

    assert list(statistics.rows()) == []
    assert evidence(statistics, now=NOW + 20).pulls == 0.0


def test_ratings_of_two_judges_and_of_callers_are_never_mixed():
    """The anchor's ratings are the quality; without a judge it is what callers say."""
    statistics = make()
    said = {"quality": 0.9, "quality@j1": 0.2, "quality@j2": 0.6}
    for name, value in said.items():
        statistics.add(KEY, NOW, [(name, value)])

    def read():
        return {name: moments.mean for name, moments in evidence(statistics).signals.items()}

    assert read() == said
    statistics.set_anchors({"auto": "j1"})
    assert read() == {"quality": 0.2, "quality_user": 0.9, "quality@j2": 0.6}
    statistics.set_anchors({"auto": "j2"})
    assert read() == {"quality": 0.6, "quality_user": 0.9, "quality@j1": 0.2}
    statistics.set_anchors({"auto": "j3"})
    assert "quality" not in read()


def test_the_share_of_replies_that_were_rated():
    """Of good replies, by the anchor; None while there are none."""
    statistics = make()
    assert statistics.rated_share("auto", ARM, now=NOW) is None

    fold(statistics, [(NOW, VALID, 1.0)] * 8 + [(NOW, VALID, 0.0)] * 2 + [(NOW, QUALITY, 0.5)] * 2)

    assert statistics.rated_share("auto", ARM, now=NOW) == pytest.approx(0.25)
    statistics.set_anchors({"auto": "j1"})
    assert statistics.rated_share("auto", ARM, now=NOW) == 0.0


def test_cost_is_read_under_the_present_price_version():
    """Evidence of an old price does not mix in, and serves only while there is nothing newer."""
    statistics = make()
    statistics.add(KEY, NOW, [(priced(COST, "v1"), math.log(0.01)), (priced(COST_USD, "v1"), 0.01)])
    statistics.set_price_versions({KEY: "v2"})
    old = evidence(statistics).signals[COST]

    statistics.add(KEY, NOW, [(priced(COST, "v2"), math.log(0.5)), (priced(COST_USD, "v2"), 0.5)])

    assert old.mean == pytest.approx(math.log(0.01))
    assert evidence(statistics).signals[COST].mean == pytest.approx(math.log(0.5))
    assert statistics.cost_usd(KEY, now=NOW).mean == pytest.approx(0.5)
    assert not [name for name in evidence(statistics).signals if "@" in name]


def test_mean_cost_is_arithmetic_and_none_when_unknown():
    """Dollars are averaged as dollars."""
    statistics = make()
    assert statistics.cost_usd(KEY, now=NOW) is None

    for usd in (0.01, 0.03):
        statistics.add(KEY, NOW, [(priced(COST_USD, "v1"), usd)])

    assert statistics.cost_usd(KEY, now=NOW + DAY).mean == pytest.approx(0.02)


def test_a_counter_counts_requests_without_a_value_as_zero():
    """The mean of a summed metric is per completed request."""
    statistics = make()
    statistics.set_summed(["orders"])
    fold(statistics, [(NOW, SUCCESS, 1.0)] * 8 + [(NOW, SUCCESS, 0.0)] * 2 + [(NOW, "orders", 2.0)] * 2)

    orders = evidence(statistics).signals["orders"]

    assert (orders.weight, orders.mean) == (pytest.approx(8.0), pytest.approx(0.5))


def test_certain_failures_lower_quality():
    """A third of empty replies takes a third of the ratings' mean."""
    statistics = fold(make(), [(NOW, VALID, v) for v in (0.0, 1.0, 1.0)] + [(NOW, QUALITY, 0.9)] * 2)

    assert evidence(statistics).signals[QUALITY].mean == pytest.approx(0.6)


def test_changes_name_exactly_what_moved():
    """A store needs to write only cells that changed since the last time."""
    statistics = fold(make(), [(NOW, SUCCESS, 1.0), (NOW, QUALITY, 0.5)])
    assert len(statistics.changes().cells) == 2
    assert statistics.changes().clocks is not None
    statistics.stored()

    fold(statistics, [(NOW, QUALITY, 0.7)])

    changes = statistics.changes()
    assert [(row[3], row[9]) for row in changes.cells] == [(QUALITY, 2)]
    assert changes.clocks is None


def test_different_clocks_do_not_merge():
    """Sums with different weights can not be added."""
    with pytest.raises(ValueError, match="clocks"):
        make(DAY).merge(fold(make(2 * DAY), [(NOW, SUCCESS, 1.0)]))


def test_a_new_half_life_waits_for_the_newest_event():
    """A change can not reweigh an event that was already counted."""
    statistics = fold(make(), [(NOW, SUCCESS, 1.0)])

    statistics.set_half_life("auto", DAY / 2, at=NOW - 100)

    assert evidence(statistics, now=NOW).success.weight == pytest.approx(1.0)
    assert evidence(statistics, now=NOW + DAY / 2).success.weight == pytest.approx(0.5)
