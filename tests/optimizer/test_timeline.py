"""Clocks and resets: where an observation belongs, and what it still counts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.decay import EPOCH_HALF_LIVES, Bend
from optimizer.timeline import FUTURE_S, Reset, Timeline

DAY = 86400.0
NOW = 1_795_000_000.0
ARM = ("auto", "mk", "vk")


def make(half_life_s=DAY):
    timeline = Timeline()
    timeline.set_half_life("auto", half_life_s, at=0.0)
    return timeline


def reset(timeline, at, keep=0.0, *, keys=("mk", "vk"), signals=()):
    timeline.reset(Reset("auto", *keys, at, keep, signals))


@given(st.floats(NOW - 30 * DAY, NOW), st.floats(0.1 * DAY, 100 * DAY))
def test_a_placed_weight_read_later_has_decayed_since(time, half_life_s):
    """Weight times scale is one half to the power of the half-lives in between."""
    timeline = make(half_life_s)

    place = timeline.place(ARM, time)
    scale = timeline.scale(ARM, place.generation, place.epoch, timeline.clock("auto").age(NOW))

    passed = (NOW - time) / half_life_s
    if passed < 30:
        assert place.weight * scale == pytest.approx(0.5**passed, rel=1e-6)
    assert 1.0 <= place.weight <= 2.0**EPOCH_HALF_LIVES


@given(st.lists(st.floats(0.0, 1.0), max_size=6))
def test_what_is_kept_is_the_product_of_all_resets_since(keeps):
    """Generation by generation; the newest counts whole."""
    timeline = make()
    for number, keep in enumerate(keeps):
        reset(timeline, NOW + number, keep)

    kept = [timeline.kept(ARM, generation) for generation in range(len(keeps) + 1)]

    expected = [math.prod(keeps[generation:]) for generation in range(len(keeps) + 1)]
    assert kept == pytest.approx(expected, abs=1e-9)
    assert timeline.place(ARM, NOW + 10).generation == len(keeps)
    assert timeline.place(ARM, NOW - 1).generation == 0


def test_a_reset_concerns_its_arm_and_its_signals():
    """All arms without keys, all signals without names; a price version or a judge makes no other signal."""
    timeline = make()

    reset(timeline, NOW, 0.5, signals=("quality", "cost"))
    reset(timeline, NOW + 1, 0.1, keys=("", ""))

    assert timeline.kept(ARM, 0) == pytest.approx(0.1)
    assert timeline.kept(("auto", "other", "vk"), 0) == pytest.approx(0.1)
    assert timeline.kept(("elsewhere", "mk", "vk"), 0) == 1.0
    shares = {name: timeline.share(ARM, 0, name) for name in ("quality", "quality@j1", "cost@v1", "latency")}
    assert shares == {"quality": 0.5, "quality@j1": 0.5, "cost@v1": 0.5, "latency": 1.0}
    assert timeline.share(("auto", "other", "vk"), 0, "quality") == 1.0


def test_a_reset_is_never_before_what_was_learned_nor_before_another():
    """Weights that were given stay what they were; a lying event delays it by minutes at most."""
    timeline = make()
    timeline.saw(NOW + 60)
    reset(timeline, NOW)
    timeline.saw(NOW + 90 * DAY)
    reset(timeline, NOW + 10)
    reset(timeline, NOW - DAY)

    assert [found.at for found in timeline.resets] == [NOW + 60, NOW + 10 + FUTURE_S, NOW + 10 + FUTURE_S]


def test_what_can_not_be_read_any_more_is_past():
    """Beyond the horizon, or of a generation that counts nothing."""
    timeline = make()
    old, new = timeline.place(ARM, NOW - 60 * DAY), timeline.place(ARM, NOW)

    assert timeline.is_past(ARM, 0, old.epoch, NOW)
    assert not timeline.is_past(ARM, 0, new.epoch, NOW)
    reset(timeline, NOW)
    assert timeline.is_past(ARM, 0, new.epoch, NOW)
    assert not timeline.is_past(ARM, 1, new.epoch, NOW)


def test_timelines_that_differ_are_not_comparable():
    """Sums made under another clock or other resets would not add up."""
    one, other = make(), make(2 * DAY)
    with pytest.raises(ValueError, match="clocks of route 'auto' differ"):
        one.join(other)

    same = make()
    reset(same, NOW)
    with pytest.raises(ValueError, match="different resets"):
        one.join(same)
    one.join(Timeline(clocks={"more": [Bend(0.0, 0.0, DAY)]}))
    assert one.clocks.keys() == {"auto", "more"}


@pytest.mark.parametrize("time", [math.nan, math.inf])
def test_a_time_is_a_number(time):
    """Anything else has no place."""
    with pytest.raises(ValueError, match="finite"):
        make().place(ARM, time)


def test_a_reset_costs_other_routes_nothing_and_is_stored_once():
    """Drift makes them for as long as a node lives."""
    timeline = make()
    reset(timeline, NOW, 0.5)
    timeline.reset(Reset("other", "mk", "vk", NOW + 1, 0.5))
    assert timeline.kept(ARM, 0) == 0.5
    before = timeline._kept[ARM]
    assert [made.route for made in timeline.new_resets()] == ["auto", "other"]
    timeline.stored()

    timeline.reset(Reset("other", "mk", "vk", NOW + 2, 0.5))

    assert timeline._kept[ARM] is before
    assert timeline.kept(("other", "mk", "vk"), 0) == 0.25
    assert [made.at for made in timeline.new_resets()] == [NOW + 2]
    again = Timeline(clocks=timeline.clocks, resets=timeline.resets)
    assert again.new_resets() == ()
    assert again.kept(("other", "mk", "vk"), 1) == 0.5
