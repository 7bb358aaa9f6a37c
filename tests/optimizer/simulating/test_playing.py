"""The player: what a policy is told, and when."""

import numpy as np
import pytest

from optimizer.simulating.playing import Feedback, play
from optimizer.simulating.world import World


class Fixed:
    """Draws from fixed shares and writes down what it is told."""

    def __init__(self, shares):
        self.shares = np.array(shares, dtype=float)
        self.events = []

    def decide(self, x, u, eligible=None):
        """The arm whose stretch of [0, 1) holds ``u``, eligible ones only."""
        allowed = np.array([eligible is None or eligible >> arm & 1 for arm in range(len(self.shares))])
        shares = np.where(allowed, self.shares, 0.0)
        shares = shares / shares.sum()
        self.events.append(("decide", float(x[1])))
        return int(np.searchsorted(np.cumsum(shares), u, side="right")), shares

    def outcome(self, arm, x, *, at, completed=True, cost_usd, latency_s):
        self.events.append(("outcome", arm, at, cost_usd, latency_s))

    def open_account(self):
        self.events.append(("open", len(self.events)))

    def rating(self, arm, x, *, at, value):
        self.events.append(("rating", arm, at, value, float(x[1])))


def world(n=4):
    """Query i has feature i; arm 0 is 0.1 good at $1, arm 1 is 0.9 good at $2."""
    column = np.arange(n, dtype=float)
    return World(
        ("low", "high"),
        np.tile([0.1, 0.9], (n, 1)),
        np.tile([1.0, 2.0], (n, 1)),
        np.tile([np.nan, 3.0], (n, 1)),
        np.stack([np.ones(n), column], axis=1),
        np.zeros(n, dtype=np.int64),
    )


def test_outcomes_are_told_at_once_and_ratings_late():
    """Delay 2: the rating of request i comes before request i + 2 is decided, with the features it was decided on."""
    policy = Fixed([0.0, 1.0])

    course = play(
        world(),
        [3, 2, 1, 0],
        policy,
        rng=np.random.default_rng(1),
        feedback=Feedback(1.0, 2),
        interval_s=10.0,
    )

    assert policy.events == [
        ("decide", 3.0), ("outcome", 1, 0.0, 2.0, 3.0),
        ("decide", 2.0), ("outcome", 1, 10.0, 2.0, 3.0),
        ("rating", 1, 0.0, 0.9, 3.0), ("decide", 1.0), ("outcome", 1, 20.0, 2.0, 3.0),
        ("rating", 1, 10.0, 0.9, 2.0), ("decide", 0.0), ("outcome", 1, 30.0, 2.0, 3.0),
    ]  # fmt: skip
    assert list(course.row) == [3, 2, 1, 0]
    assert list(course.shares) == [0.0, 1.0]
    assert course.quality.mean() == pytest.approx(0.9)
    assert course.late_share(2.9) == 1.0


def test_a_latency_that_was_not_recorded_is_not_told():
    """None, not NaN."""
    policy = Fixed([1.0, 0.0])

    course = play(world(1), [0], policy, rng=np.random.default_rng(1))

    assert policy.events[1] == ("outcome", 0, 0.0, 1.0, None)
    assert np.isnan(course.late_share(1.0))


def test_a_share_of_the_ratings_arrives():
    """20 % of 5,000, within five standard deviations; outcomes always."""
    policy = Fixed([0.5, 0.5])

    play(world(), np.arange(5000) % 4, policy, rng=np.random.default_rng(2), feedback=Feedback(0.2))

    told = [event[0] for event in policy.events]
    assert told.count("outcome") == 5000
    assert told.count("rating") == pytest.approx(1000, abs=142)


def test_two_policies_meet_equal_luck():
    """Which requests are rated does not depend on what was chosen."""
    rated = []
    for shares in ([1.0, 0.0], [0.0, 1.0]):
        policy = Fixed(shares)
        play(world(40), np.arange(40), policy, rng=np.random.default_rng(3), feedback=Feedback(0.5))
        rated.append([event[4] for event in policy.events if event[0] == "rating"])

    assert rated[0] == rated[1]
    assert 0 < len(rated[0]) < 40


def test_a_judge_may_say_something_else_than_the_truth():
    """Policies learn what they are told; the course holds what was true."""
    policy = Fixed([0.0, 1.0])

    course = play(world(), [0], policy, rng=np.random.default_rng(1), told=np.full((4, 2), 0.4))

    assert policy.events[-1][3] == 0.4
    assert course.quality[0] == 0.9


def test_an_arm_without_a_recorded_outcome_is_not_eligible():
    """The draw goes to the others."""
    gaps = world(1)
    gaps.quality[0, 1] = np.nan

    course = play(gaps, [0] * 20, Fixed([0.1, 0.9]), rng=np.random.default_rng(1))

    assert list(course.arm) == [0] * 20
    assert (course.vector[:, 1] == 0.0).all()


def test_feedback_is_checked():
    """A share is a share."""
    with pytest.raises(ValueError, match="share"):
        Feedback(1.5)
    with pytest.raises(ValueError, match="delay"):
        Feedback(1.0, -1)


def test_an_account_is_opened_where_it_is_asked_for():
    """Once, before the request with that number."""
    policy = Fixed([1.0, 0.0])

    play(world(), [0, 1, 2], policy, rng=np.random.default_rng(1), afresh=2)

    assert [event[0] for event in policy.events].index("open") == 6
    assert [event[0] for event in policy.events].count("open") == 1
