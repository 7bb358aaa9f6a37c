"""What is believed about arms given a request: levels as without context, slopes on top, dollars as they add up."""

import numpy as np
import pytest

from policies.beliefs import Beliefs, form
from policies.linear import LinearSums
from policies.objective import Utility
from policies.steering import Aims, Given, Multipliers, index_of, steer
from policies.types import NOTHING, ArmEvidence, FloatArray, Goal, Moments, PolicyParams

PARAMS = PolicyParams()
QUALITY = Goal("quality", 1.0, True)
ALL = [Goal("quality", 0.6, True), Goal("cost", 0.3, False), Goal("latency", 0.1, False)]
ALONE = np.eye(1)


def arm(
    name: str = "a",
    *,
    pulls: float = 300.0,
    quality: float | None = 0.8,
    cost: float | None = 0.01,
    latency: float | None = 1.0,
    success: float = 1.0,
    scatter: float = 0.0,
) -> ArmEvidence:
    signals = {}
    if quality is not None:
        signals["quality"] = Moments(pulls, quality, 0.01)
    if cost is not None:
        signals["cost"] = Moments(pulls, float(np.log(cost)) - scatter / 2.0, scatter)
        signals["cost_usd"] = Moments(pulls, cost, 0.0)
    if latency is not None:
        signals["latency"] = Moments(pulls, float(np.log(latency)), 0.09)
    return ArmEvidence(name, pulls, Moments(pulls, success, success * (1.0 - success)), signals)


def believe(*arms: ArmEvidence, goals: list[Goal] | None = None, **changes) -> Beliefs:
    return form(arms, goals or [QUALITY], PARAMS, **{"size": 1, "linear": {}, **changes})


def sums(slope: float, *, level: float, seed: int, count: int = 500, sd: float = 0.05) -> LinearSums:
    """Two features: the constant, and one with mean 0.5 of which the value depends."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(count), 0.5 + rng.normal(size=count)])
    y = level + slope * (x[:, 1] - 0.5) + sd * rng.normal(size=count)
    return LinearSums(x.T @ x, x.T @ y, float(y @ y))


# --- without context -----------------------------------------------------------------------------------


@pytest.mark.parametrize("goals", [[QUALITY], ALL, [Goal("cost", 1.0, False)], [Goal("latency", 1.0, True)]])
def test_without_features_it_is_the_context_free_belief(goals: list[Goal]) -> None:
    """The index of d = 1 has the means of the utility that Thompson sampling draws from."""
    arms = [arm("a"), arm("b", quality=0.6, cost=0.001, latency=3.0, success=0.9), ArmEvidence("c")]
    utility = Utility(arms, goals, PARAMS)

    beliefs = believe(*arms, goals=goals)
    index = index_of(beliefs, Multipliers(), Given(np.zeros(3), np.ones(3, dtype=np.bool_)))

    # Dollars are predicted from bills; here both ways agree where an arm was observed.
    assert index.mean(np.ones(1)) == pytest.approx(utility.mean(), rel=0.05, abs=0.02)


def test_unknown_quality_is_uncertain() -> None:
    """An arm nobody knows has the widest index, and is not known to be bad."""
    beliefs = believe(arm("a", quality=0.8), ArmEvidence("new"))

    assert beliefs.quality.level[1] > 10.0 * beliefs.quality.level[0]
    assert beliefs.quality.weights[1, 0] > 0.7


def test_quality_asked_for_twice_counts_twice() -> None:
    """Weights of goals for one metric add up."""
    arms = [arm("a"), arm("b", quality=0.6, cost=0.001)]
    cost = Goal("cost", 0.4, False)

    once = believe(*arms, goals=[Goal("quality", 0.6, True), cost])
    twice = believe(*arms, goals=[Goal("quality", 0.2, True), Goal("quality", 0.4, True), cost])

    assert twice.pursued == pytest.approx(once.pursued)


# --- slopes --------------------------------------------------------------------------------------------


def test_at_the_mean_request_context_changes_nothing() -> None:
    """The level is the context-free one, whatever the slopes."""
    arms = [arm("a", quality=0.8), arm("b", quality=0.6)]
    made = [sums(0.2, level=0.8, seed=1), sums(-0.2, level=0.6, seed=2)]

    plain = believe(*arms)
    beliefs = believe(*arms, size=2, linear={"quality": made})

    for number, one in enumerate(made):
        mean = one.gram[0] / one.weight
        assert mean @ beliefs.quality.weights[number] == pytest.approx(plain.quality.weights[number, 0])
    assert beliefs.quality.weights[:, 1] == pytest.approx([0.2, -0.2], abs=0.02)
    assert beliefs.quality.level == pytest.approx(plain.quality.level)
    assert beliefs.gain > 0.99


def test_the_predicted_bill_is_what_bills_add_up_to() -> None:
    """Whatever their distribution: heavy tails make the mean of logarithms useless."""
    rng = np.random.default_rng(3)
    bills = np.where(rng.random(2000) < 0.05, 0.1, 0.001)
    evidence = ArmEvidence(
        "a",
        2000.0,
        Moments(2000.0, 1.0, 0.0),
        {"cost": Moments.of(np.log(bills)), "cost_usd": Moments.of(bills)},
    )

    beliefs = believe(evidence, arm("b", cost=0.02))

    assert beliefs.cost_usd(ALONE)[0] == pytest.approx([bills.mean(), 0.02], rel=0.03)


def test_predicted_bills_depend_on_the_request() -> None:
    """And their mean over requests is the mean of the bills."""
    rng = np.random.default_rng(4)
    x = np.column_stack([np.ones(3000), rng.normal(size=3000)])
    bills = np.exp(-6.0 + 0.8 * x[:, 1] + 0.3 * rng.normal(size=3000))
    logs = np.log(bills)
    evidence = ArmEvidence(
        "a",
        3000.0,
        Moments(3000.0, 1.0, 0.0),
        {"cost": Moments.of(logs), "cost_usd": Moments.of(bills)},
    )
    linear = {"cost": [LinearSums(x.T @ x, x.T @ logs, float(logs @ logs)), None]}

    beliefs = believe(evidence, ArmEvidence("b"), size=2, linear=linear)

    assert beliefs.cost[0, 1] == pytest.approx(0.8, abs=0.05)
    assert beliefs.cost_usd(x)[:, 0].mean() == pytest.approx(bills.mean(), rel=0.05)


# --- prices nobody has paid yet ------------------------------------------------------------------------


def test_prices_are_guessed_until_they_are_known() -> None:
    """By the list; what was paid counts from the first time."""
    beliefs = believe(arm("a", cost=0.01), ArmEvidence("new"), guesses_usd=[5.0, 0.0003])

    assert beliefs.cost_usd(ALONE)[0] == pytest.approx([0.01, 0.0003], rel=0.02)
    assert beliefs.priced.tolist() == [True, False]


def test_what_is_listed_as_free_is_believed_to_be() -> None:
    """And not as dear as the others."""
    beliefs = believe(arm("a", cost=0.01), ArmEvidence("own"), guesses_usd=[None, 0.0])

    assert beliefs.cost_usd(ALONE)[0, 1] < 1e-9


def test_nobody_knows_any_price() -> None:
    """Nothing is believed to cost anything, and nothing overflows."""
    beliefs = believe(ArmEvidence("a"), ArmEvidence("b"), size=3)

    assert (beliefs.cost_usd(np.ones((5, 3))) < 1e-100).all()


def test_free_models_cost_nothing_after_use_either() -> None:
    """A bill of 0 has no logarithm."""
    free = ArmEvidence(
        "own",
        50.0,
        Moments(50.0, 1.0, 0.0),
        {"cost": Moments(50.0, float(np.log(1e-9)), 0.0), "cost_usd": Moments(50.0, 0.0, 0.0)},
    )

    beliefs = believe(free, arm("b", cost=0.01))

    assert beliefs.cost_usd(ALONE)[0, 0] < 1e-4
    assert np.isfinite(beliefs.cost).all()


# --- lateness ------------------------------------------------------------------------------------------


def test_late_replies_are_predicted() -> None:
    """P(longer than the bound) of a log-normal; 0 for who was never observed, or when nothing is asked."""
    arms = [arm("fast", latency=0.5), arm("slow", latency=4.0), arm("even", latency=2.0), ArmEvidence("new")]

    late = believe(*arms, late=("latency", 2.0)).late

    assert late[0] < 0.01
    assert late[1] > 0.95
    assert late[2] == pytest.approx(0.5, abs=0.06)
    assert late[3] == 0.0
    assert (believe(*arms).late == 0.0).all()
    assert (believe(ArmEvidence("a"), late=("ttft", 1.0)).late == 0.0).all()


# --- degenerate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        ArmEvidence("odd"),
        arm("odd", pulls=1e-5),
        arm("odd", pulls=1e9),
        arm("odd", cost=1e6, latency=1e5),
        arm("odd", cost=1e-12, latency=1e-6),
        arm("odd", success=0.0),
        arm("odd", scatter=50.0),
        ArmEvidence("odd", 5.0, Moments(5.0, 0.0, 0.0), {"quality": NOTHING}),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_odd_arms_leave_sound_beliefs(odd: ArmEvidence, size: int) -> None:
    """Finite numbers and probabilities that sum to 1, for requests of any size."""
    linear = {} if size == 1 else {"quality": [sums(0.2, level=0.8, seed=1), None]}
    beliefs = believe(arm("a"), odd, goals=ALL, size=size, linear=linear, late=("latency", 1.0))
    requests: FloatArray = np.ones((7, size))
    requests[:, 1:] = np.array([-100.0, -1.0, 0.0, 0.5, 1.0, 3.0, 100.0])[:, None]

    course = steer(
        beliefs, requests, Aims(0.005, 0.8, 0.05), Given(np.full(2, 0.01), np.ones(2, dtype=np.bool_))
    )

    for field in ("value", "charges", "spread", "noise", "cost"):
        assert np.isfinite(getattr(course.index, field)).all(), field
        assert np.isfinite(getattr(course.index, field).astype(np.float32)).all(), field
    shares = course.index.shares(requests)
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert (shares >= 0.01 - 1e-9).all()
