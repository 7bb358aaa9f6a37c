"""Linear sums: what the definition says, in any order and partition, under the same forgetting as everything else."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.linear_statistics import (
    DONE,
    KEPT_VERSIONS,
    RATED,
    RECENT,
    REWRITE_KEYS,
    REWRITE_S,
    LinearStatistics,
)
from optimizer.routing import Arm
from optimizer.statistics import Statistics

DAY = 86400.0
NOW = 1_795_000_000.0
ARM = Arm("a", "m", "v", "mk", "vk")
KEY = ("auto", "mk", "vk")
D = 3

rows = st.lists(
    st.tuples(
        st.floats(NOW - 30 * DAY, NOW),
        st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)),
        st.floats(-5, 5),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


def make(half_life_s=DAY):
    statistics = Statistics()
    statistics.set_half_life("auto", half_life_s, at=0.0)
    return statistics, LinearStatistics(statistics)


def vector(rest):
    return np.array([1.0, *rest], np.float32)


def fold(linear, found):
    for time, rest, y, streamed in found:
        values = [("latency", y), ("valid", 1.0), *([("ttft", y / 2)] if streamed else [])]
        linear.add(KEY, "f1", DONE, time, vector(rest), values)
    return linear


def read(linear, signal, *, group=DONE, version="f1", now=NOW):
    return linear.sums("auto", ARM, version, group, signal, now=now)


def numbers(sums):
    return None if sums is None else np.concatenate((sums.gram.ravel(), sums.moment, [sums.square]))


@given(rows)
@settings(max_examples=50)
def test_sums_are_what_the_definition_says(found):
    """Weights halve with every half-life; a signal's gram is of exactly the rows that have it."""
    linear = fold(make()[1], found)

    for signal, part, share in (("latency", found, 1.0), ("ttft", [row for row in found if row[3]], 0.5)):
        sums = read(linear, signal)
        if not part:
            assert sums is None
            continue
        x = np.array([vector(row[1]) for row in part], np.float64)
        w = np.array([2.0 ** (-(NOW - row[0]) / DAY) for row in part])
        y = np.array([row[2] for row in part]) * share
        assert sums.gram == pytest.approx(x.T @ (x * w[:, None]), rel=1e-9, abs=1e-12)
        assert sums.moment == pytest.approx(x.T @ (w * y), rel=1e-9, abs=1e-9)
        assert sums.square == pytest.approx(float(w @ (y * y)), rel=1e-9, abs=1e-12)
        assert sums.weight == pytest.approx(w.sum())


@given(rows, st.integers(0, 40), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_order_and_partition_do_not_matter(found, cut, shuffler):
    """Shuffled, split in two and merged: the same sums."""
    shuffled = shuffler.sample(found, len(found))
    statistics, whole = make()
    fold(whole, found)
    parts = [fold(LinearStatistics(statistics.sibling()), part) for part in (shuffled[:cut], shuffled[cut:])]

    parts[0].merge(parts[1])

    for signal in ("latency", "ttft", "valid"):
        expected, merged = numbers(read(whole, signal)), numbers(read(parts[0], signal))
        assert (expected is None) == (merged is None)
        if expected is not None:
            assert merged == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_versions_groups_and_arms_are_kept_apart():
    """Vectors of two versions may even have different sizes."""
    _, linear = make()
    linear.add(KEY, "f1", DONE, NOW, vector((1.0, 2.0)), [("valid", 1.0)])
    linear.add(KEY, "f2", DONE, NOW, np.ones(5, np.float32), [("valid", 0.0)])
    linear.add(KEY, "f1", RATED, NOW, vector((1.0, 2.0)), [("quality", 0.5)])

    assert read(linear, "valid").gram.shape == (3, 3)
    assert read(linear, "valid", version="f2").gram.shape == (5, 5)
    assert read(linear, "quality", group=RATED).moment == pytest.approx([0.5, 0.5, 1.0])
    assert read(linear, "quality") is None
    assert read(linear, "valid", version="f3") is None


def test_a_partial_reset_scales_what_was_before_it():
    """Also what arrives later but happened before; two resets multiply."""
    statistics, linear = make(math.inf)
    fold(linear, [(NOW, (0.0, 0.0), 2.0, False)] * 8)
    statistics.reset("auto", at=NOW + 1, keep=0.5)
    fold(linear, [(NOW + 2, (0.0, 0.0), 2.0, False)] * 3 + [(NOW, (0.0, 0.0), 2.0, False)] * 2)

    once = read(linear, "latency", now=NOW + 3).weight
    statistics.reset("auto", at=NOW + 4, model_key="mk", variant_key="vk", keep=0.1)

    assert once == pytest.approx(10 * 0.5 + 3)
    assert read(linear, "latency", now=NOW + 5).weight == pytest.approx(10 * 0.05 + 3 * 0.1)
    statistics.reset("auto", at=NOW + 6)
    assert read(linear, "latency", now=NOW + 7) is None


def test_costs_and_quality_are_read_under_their_present_names():
    """The price version in force, and the anchor's ratings."""
    statistics, linear = make()
    for name, y in (("cost@old", 1.0), ("cost@new", 2.0)):
        statistics.add(KEY, NOW, [(name, y)])
        linear.add(KEY, "f1", DONE, NOW, vector((0.0, 0.0)), [(name, y)])
    for name, y in (("quality", 0.9), ("quality@j2", 0.3)):
        linear.add(KEY, "f1", RATED, NOW, vector((0.0, 0.0)), [(name, y)])

    statistics.set_price_versions({KEY: "new"})
    statistics.set_anchors({"auto": "j2"})

    assert read(linear, "cost").moment[0] == pytest.approx(2.0)
    assert read(linear, "quality", group=RATED).moment[0] == pytest.approx(0.3)
    assert read(linear, "quality_user", group=RATED).moment[0] == pytest.approx(0.9)


def test_what_is_no_vector_is_left_out_and_counted():
    """Not-a-number, astronomy and a missing bias never reach a sum; a wrong size is refused at once."""
    _, linear = make()
    for x in ((math.nan, 1.0), (math.inf, 0.0), (1e9, 0.0)):
        linear.add(KEY, "f1", DONE, NOW, vector(x), [("valid", 1.0)])
        linear.note("auto", "f1", NOW, vector(x))
    linear.add(KEY, "f1", DONE, NOW, np.array([0.5, 0.0, 0.0], np.float32), [("valid", 1.0)])
    linear.add(KEY, "f1", DONE, NOW, vector((0.0, 0.0)), [("valid", 1.0)])

    with pytest.raises(ValueError, match="are 3 numbers"):
        linear.add(KEY, "f1", DONE, NOW, np.ones(4, np.float32), [("valid", 1.0)])
    with pytest.raises(ValueError, match="finite"):
        linear.add(KEY, "f1", DONE, NOW, vector((0.0, 0.0)), [("valid", math.nan)])

    assert read(linear, "valid").weight == pytest.approx(1.0)
    assert (linear.take_refused(), linear.take_refused()) == (4, 0)
    assert len(linear.recent("auto", "f1")) == 0


def test_a_dropped_signal_leaves_the_others_as_they_were():
    """Costs leave the rows that they came with."""
    _, linear = make()
    for y in (1.0, 2.0):
        linear.add(KEY, "f1", DONE, NOW, vector((y, 0.0)), [("valid", 1.0), ("cost@v1", y)])
    linear.add(KEY, "f1", DONE, NOW, vector((3.0, 0.0)), [("valid", 1.0)])
    before = numbers(read(linear, "valid"))

    linear.drop_signal(KEY, "cost@v1")

    assert read(linear, "cost@v1") is None
    assert numbers(read(linear, "valid")) == pytest.approx(before)


def test_the_newest_vectors_are_kept_in_order():
    """As many as fit, the oldest go."""
    _, linear = make()
    for number in range(RECENT + 10):
        linear.note("auto", "f1", NOW + number, vector((number, 0.0)))

    recent = linear.recent("auto", "f1")

    assert recent.shape == (RECENT, D)
    assert recent[:, 1].tolist() == list(range(10, RECENT + 10))
    assert linear.recent("other", "f1").shape[0] == 0


def test_old_versions_and_old_epochs_are_freed():
    """What nobody can read any more goes; of versions the newest stay."""
    _, linear = make()
    for number in range(KEPT_VERSIONS + 2):
        linear.add(KEY, f"f{number}", DONE, NOW + number, vector((0.0, 0.0)), [("valid", 1.0)])
        linear.note("auto", f"f{number}", NOW + number, vector((0.0, 0.0)))
    linear.add(KEY, "f4", DONE, NOW - 90 * DAY, vector((0.0, 0.0)), [("valid", 1.0)])

    linear.prune(NOW)

    assert [cell.key.version for cell in linear.cells()] == ["f2", "f3", "f4"]
    assert len(linear.recent("auto", "f0")) == 0


def test_a_commit_writes_rows_and_rewrites_keys_only_now_and_then():
    """A new key whole, then its rows, after some seconds the whole key instead; never too many at a time."""
    _, linear = make()
    arms = [("auto", f"m{number}", "v") for number in range(REWRITE_KEYS + 5)]

    def commit(now):
        changes = linear.changes(now)
        linear.stored()
        return len(changes.cells), len(changes.rows)

    def add():
        for arm in arms:
            linear.add(arm, "f1", DONE, NOW, vector((0.0, 0.0)), [("valid", 1.0)])

    add()
    assert commit(0.0) == (len(arms), 0)
    add()
    assert commit(0.1) == (0, len(arms))
    assert commit(0.2) == (0, 0)
    add()
    assert commit(REWRITE_S + 0.2) == (REWRITE_KEYS, 5)
    assert commit(REWRITE_S + 0.3) == (5, 0)
    assert commit(REWRITE_S + 9.9) == (0, 0)
