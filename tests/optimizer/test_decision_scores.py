"""Scores of a logged decision: the policy that made it, asked again, says what was logged."""

from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.decision_scores import features_in, scores_of
from optimizer.selector_file import load, write
from policies.contextual import ContextualSelector, Index

ARMS = ["small", "mid", "large"]


def make_index(seed=0, *, cap=float("inf"), size=4):
    """A policy over three arms with one charge for cost."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(3, size, size)) * 0.05
    cost = rng.normal(size=(3, size)) * 0.2
    cost[:, 0] = np.log([0.001, 0.004, 0.02])
    charge = cost.copy()
    charge[:, 0] += np.log(20.0)
    return Index(
        value=rng.normal(size=(3, size)) * 0.2,
        charges=charge[None],
        spread=roots @ roots.transpose(0, 2, 1),
        noise=np.full(3, 1e-3),
        given=np.full(3, 0.02),
        drawn=np.ones(3, dtype=np.bool_),
        cost=cost,
        max_request_usd=cap,
    )


def event_of(index, x, u, *, eligible=0b111):
    """The data that a worker logs of a decision."""
    x = np.asarray(x, dtype="<f4")
    arm, vector = ContextualSelector("s", index).choose(u, eligible, x)
    left_out = {name: "breaker open" for at, name in enumerate(ARMS) if not eligible >> at & 1}
    return {
        "arms": ARMS,
        "arm": ARMS[arm],
        "probabilities": list(vector),
        "propensity": vector[arm],
        "draw": u,
        "context": {"version": "1-abc", "x": b64encode(x.tobytes()).decode()},
        **({"filtered": left_out} if left_out else {}),
    }


@given(
    st.integers(0, 50),
    st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 7),
)
def test_what_is_computed_again_is_what_was_logged(seed, rest, u, eligible):
    """Whatever the request, the draw and the arms that could serve it."""
    data = event_of(make_index(seed), [1.0, *rest], u, eligible=eligible)
    scores = scores_of(data, make_index(seed))

    assert scores.difference < 1e-4
    assert scores.low - 1e-6 <= u <= scores.high + 1e-6
    for at, row in enumerate(scores.arms):
        assert row.eligible == bool(eligible >> at & 1)
        assert row.mean == pytest.approx(row.value - sum(row.penalties), abs=1e-6)
        assert row.eligible or row.probability == 0.0


def test_a_policy_from_its_file_says_the_same(tmp_path: Path):
    """As workers read it: in float32."""
    index = make_index(3)
    name = write(tmp_path, index)
    data = event_of(load(tmp_path / name), [1.0, 0.5, -0.2, 0.1], 0.4)

    scores = scores_of(data, load(tmp_path / name))
    assert scores.difference < 1e-6
    assert scores.arms[0].predicted_cost_usd == pytest.approx(
        float(np.exp(index.cost[0] @ [1, 0.5, -0.2, 0.1])), rel=1e-4
    )


def test_a_cap_on_the_cost_of_a_request_counts_again():
    """The dear arm has no share, logged or computed."""
    index = make_index(1, cap=0.01)
    data = event_of(index, [1.0, 0.0, 0.0, 0.0], 0.9)
    dear = scores_of(data, index).arms[2]

    assert dear.predicted_cost_usd > 0.01
    assert (dear.probability, dear.recomputed) == (0.0, 0.0)


def test_another_policy_is_found_out():
    data = event_of(make_index(0), [1.0, 1.0, -1.0, 0.5], 0.3)
    assert scores_of(data, make_index(9)).difference > 0.01


@pytest.mark.parametrize(
    "damage",
    [
        {"context": None},
        {"context": {"version": 1, "x": "AAAA"}},
        {"context": {"version": "1", "x": "no base 64"}},
        {"context": {"version": "1", "x": "AAA="}},
        {"context": {"version": "1", "x": "AAAAAA=="}},
        {"probabilities": [1.0]},
        {"arms": None},
        {"arm": "unheard of"},
        {"filtered": dict.fromkeys(ARMS, "gone")},
    ],
)
def test_what_is_not_such_a_decision_has_no_scores(damage):
    """Events of other versions are answered, not guessed at."""
    data = event_of(make_index(), [1.0, 0, 0, 0], 0.5) | damage
    assert scores_of(data, make_index()) is None


def test_features_are_read_as_they_were_written():
    version, x = features_in(event_of(make_index(), [1.0, 0.25, -0.5, 2.0], 0.5))
    assert (version, x.tolist()) == ("1-abc", [1.0, 0.25, -0.5, 2.0])
