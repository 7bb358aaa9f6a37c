"""From evidence to a frozen index: who is steered, what arms get in any case, guesses of prices, targets kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimizer.events import INLINE_VECTOR_ARMS
from optimizer.indexing import REQUESTS, Material, freeze, guesses_usd, is_steered, metrics_of
from optimizer.publisher import goals_of, params_of
from optimizer.routing import Arm, Model, Price
from optimizer.settings import Constraints, ContextSettings, Objective, PolicySettings, RouteSettings
from optimizer.steering import Account
from policies.linear import LinearSums
from policies.types import NOTHING, ArmEvidence, FloatArray, Moments

NOON = 1_795_000_000.0
QUALITY = Objective("quality", 1.0, maximize=True)
SMALL, LARGE = (0.001, 0.6), (0.01, 0.9)


def route(*names: str, **changes: Any) -> RouteSettings:
    names = names or ("small", "large")
    arms = tuple(Arm(f"{name}/default", name, "default", f"key-{name}", "key-default") for name in names)
    return replace(RouteSettings("auto", arms, arms[-1].id, (QUALITY,)), **changes)


def known(
    cost: float, quality: float, *, pulls: float = 400.0, latency: float = 1.0, ttft: float | None = None
) -> ArmEvidence:
    signals = {
        "quality": Moments(pulls, quality, 0.01),
        "cost": Moments(pulls, float(np.log(cost)), 0.0),
        "cost_usd": Moments(pulls, cost, 0.0),
        "latency": Moments(pulls, float(np.log(latency)), 0.04),
        "ttft": Moments(pulls, float(np.log(ttft)), 0.04) if ttft is not None else NOTHING,
    }
    return ArmEvidence("arm", pulls, Moments(pulls, 1.0, 0.0), signals)


def material(made: RouteSettings, *evidence: ArmEvidence, **changes: Any) -> Material:
    evidence = evidence or (known(*SMALL), known(*LARGE))
    plain = Material(made, goals_of(made), params_of(made), evidence, Account())
    return replace(plain, **changes)


def shares(made: RouteSettings, *evidence: ArmEvidence, **changes: Any) -> FloatArray:
    return freeze(material(made, *evidence, **changes), now=NOON).shares


# --- who is steered ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (route(), False),
        (route(context=ContextSettings()), True),
        (route(constraints=Constraints(max_request_usd=1.0)), True),
        (route(context=ContextSettings(), optimize=False), False),
        (route(context=ContextSettings(), policy=PolicySettings(name="greedy")), False),
        (route("alone", context=ContextSettings()), False),
        (route(*map(str, range(INLINE_VECTOR_ARMS)), context=ContextSettings()), True),
        (route(*map(str, range(INLINE_VECTOR_ARMS + 1)), context=ContextSettings()), False),
    ],
)
def test_who_is_steered(made: RouteSettings, expected: bool) -> None:
    """A route that learns, has a choice, and looks at requests or keeps constraints."""
    assert is_steered(made) is expected


def test_only_the_slopes_that_count_are_asked_for() -> None:
    """Quality always, costs with a goal or a budget, times with a goal."""
    goals = [QUALITY, Objective("latency", 0.5, maximize=False), Objective("ttft", 0.0, maximize=False)]
    made = route(objectives=tuple(goals))

    assert metrics_of(made, goals_of(made)) == ("quality", "latency")
    for budget in (
        {"cost_per_request_usd": 1.0},
        {"cost_per_day_usd": 1.0},
        {"cost_ratio": 0.5},
        {"max_request_usd": 1.0},
    ):
        held = replace(made, constraints=Constraints(**budget))
        assert metrics_of(held, goals_of(held)) == ("quality", "cost", "latency")


# --- what arms get in any case -------------------------------------------------------------------------


def test_every_arm_keeps_its_floor() -> None:
    """As without an index."""
    found = shares(route(constraints=Constraints(latency_p95_ms=1e6), policy=PolicySettings(floor=0.05)))

    assert found == pytest.approx([0.05, 0.95], abs=1e-3)


def test_young_arms_get_an_even_share() -> None:
    """Until they were used often enough, whatever is believed of them."""
    made = route("a", "b", "c", constraints=Constraints(latency_p95_ms=1e6))
    bad = known(0.001, 0.1, pulls=5.0)

    found = shares(made, known(*LARGE), bad, known(*SMALL))

    assert found[1] == pytest.approx(0.02 + 0.94 / 3.0)
    assert found[0] > 0.6


@pytest.mark.parametrize(
    "constraints", [Constraints(latency_p95_ms=1e6), Constraints(cost_per_request_usd=0.001)]
)
def test_when_all_are_young_all_are_tried(constraints: Constraints) -> None:
    """Evenly without a budget, nobody out of reach with one."""
    fresh = [ArmEvidence("a"), ArmEvidence("b"), ArmEvidence("c")]

    found = shares(route("a", "b", "c", constraints=constraints), *fresh)

    assert found == pytest.approx([1 / 3] * 3, abs=0.02)


def test_exploring_is_paid_from_the_budget() -> None:
    """An arm a thousand times as dear as the budget gets a thousandth of the least share, and still some."""
    made = route("small", "huge", constraints=Constraints(cost_per_request_usd=0.001))

    found = freeze(material(made, known(0.0005, 0.6), known(1.0, 0.95)), now=NOON)

    assert 0.0 < found.index.given[1] <= 1.01e-5
    assert found.shares[1] <= 5.2e-4
    assert found.steering.kept[0].feasible
    assert found.steering.kept[0].expected <= 0.00102


def test_a_young_dear_arm_is_tried_within_the_budget() -> None:
    """More than an old one, but not evenly."""
    made = route("small", "huge", constraints=Constraints(cost_per_request_usd=0.001))

    young = shares(made, known(0.0005, 0.6), known(0.1, 0.95, pulls=3.0))
    old = shares(made, known(0.0005, 0.6), known(0.1, 0.95))

    assert 1e-4 <= young[1] < 0.01
    assert young[1] >= old[1]


def test_what_nobody_knows_the_price_of_is_used_once() -> None:
    """There is no other way to know it; with a price list it is the list that counts."""
    made = route("small", "new", constraints=Constraints(cost_per_request_usd=0.001))
    evidence = (known(0.0005, 0.6), ArmEvidence("new"))

    blind = shares(made, *evidence)
    listed = shares(made, *evidence, guesses_usd=[None, 1.0])

    assert blind[1] >= 0.3
    assert listed[1] < 0.001


def test_without_a_floor_nothing_is_given() -> None:
    """Neither with a budget nor without."""
    for constraints in (Constraints(cost_per_request_usd=1.0), Constraints(latency_p95_ms=1e6)):
        made = route(constraints=constraints, policy=PolicySettings(floor=0.0))
        assert shares(made)[0] < 1e-6


def test_free_arms_need_not_be_bought() -> None:
    """Where nothing was ever spent, every arm keeps its floor."""
    account = Account()
    account.pay(0.0, NOON)
    goals = (QUALITY, Objective("cost", 0.5, maximize=False))
    made = route(
        constraints=Constraints(latency_p95_ms=1e6), objectives=goals, policy=PolicySettings(floor=0.02)
    )

    found = freeze(material(made, known(1e-12, 0.6), known(1e-12, 0.9), account=account), now=NOON)

    assert found.index.given == pytest.approx([0.02, 0.02])


# --- guesses of prices ---------------------------------------------------------------------------------


def model(name: str, usd: float | None) -> Model:
    price = Price(input=usd, output=usd) if usd is not None else None
    return Model(name, "up", name, f"key-{name}", price)


def test_prices_are_guessed_from_the_list_in_proportion_to_the_bills() -> None:
    """One arm's bills are twice what the list would say of the usual request, so will be the others'."""
    made = route("a", "b", "c", "d")
    models = {name: model(name, usd) for name, usd in (("a", 1.0), ("b", 10.0), ("c", None), ("d", 0.0))}
    listed = guesses_usd(made.arms, models, [ArmEvidence("x")] * 4)
    evidence = [known(2.0 * float(listed[0] or 0.0), 0.5), *[ArmEvidence("x")] * 3]

    found = guesses_usd(made.arms, models, evidence)

    assert found[1] == pytest.approx(2.0 * float(listed[1] or 0.0))
    assert found[2:] == [None, 0.0]
    assert guesses_usd(made.arms, {}, evidence) == [None] * 4


# --- constraints ---------------------------------------------------------------------------------------


def test_a_relative_budget_is_kept() -> None:
    """Half of what the baseline costs, with everything told."""
    made = route(constraints=Constraints(cost_ratio=0.5))

    found = freeze(material(made), now=NOON)

    (kept,) = found.steering.kept
    assert kept.target == pytest.approx(0.005, rel=0.02)
    assert kept.expected <= 1.02 * kept.target
    assert kept.expected == pytest.approx(float(found.shares @ [0.001, 0.01]), rel=0.05)
    assert kept.multiplier == found.multipliers.cost > 0.0


def test_a_latency_target_is_kept() -> None:
    """The better arm is too slow for it."""
    made = route(constraints=Constraints(latency_p95_ms=1500.0))

    found = freeze(material(made, known(*SMALL, latency=0.5), known(*LARGE, latency=5.0)), now=NOON)

    assert found.steering.kept[0].name == "late"
    assert found.steering.kept[0].feasible
    assert found.shares[1] <= 0.05


def test_streams_are_timed_by_their_first_token() -> None:
    """When most replies are streams, else in all."""
    made = route(constraints=Constraints(latency_p95_ms=1500.0))
    arms = [known(*SMALL, latency=60.0, ttft=0.3), known(*LARGE, latency=60.0, ttft=0.4)]

    streams = freeze(material(made, *arms), now=NOON).steering.kept[0]
    others = freeze(
        material(made, known(*SMALL, latency=60.0), known(*LARGE, latency=60.0)), now=NOON
    ).steering.kept[0]

    assert streams.feasible
    assert not others.feasible


def test_a_cap_is_in_the_index() -> None:
    """So that workers keep it request by request."""
    found = freeze(material(route(constraints=Constraints(max_request_usd=0.005))), now=NOON)

    assert found.index.max_request_usd == 0.005
    assert found.shares == pytest.approx([1.0, 0.0])


# --- context -------------------------------------------------------------------------------------------


def sums(slope: float, level: float, seed: int) -> LinearSums:
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(400), rng.normal(size=400)])
    y = level + slope * x[:, 1] + 0.1 * rng.normal(size=400)
    return LinearSums(x.T @ x, x.T @ y, float(y @ y))


def test_requests_decide() -> None:
    """The small arm for the easy ones, at the same budget."""
    made = route(context=ContextSettings(), constraints=Constraints(cost_per_request_usd=0.0055))
    linear = {"quality": [sums(-0.3, 0.6, 1), sums(0.0, 0.9, 2)]}
    recent = np.column_stack([np.ones(256), np.random.default_rng(3).normal(size=256)]).astype(np.float32)

    found = freeze(material(made, size=2, linear=linear, recent=recent), now=NOON)

    easy, hard = found.index.shares(np.array([[1.0, -1.5], [1.0, 1.5]]))
    assert easy[0] > 0.9
    assert hard[1] > 0.9
    assert found.steering.gain > 0.99
    assert found.steering.kept[0].expected <= 0.0055 * 1.02
    assert found.shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("count", [0, 1, 2, REQUESTS - 1, REQUESTS, REQUESTS + 1, 255, 256])
def test_any_number_of_recent_requests(count: int) -> None:
    """None is as if there were one average request."""
    recent = np.ones((count, 3), np.float32)

    found = freeze(
        material(route(context=ContextSettings()), size=3, recent=recent, linear={"quality": [None, None]}),
        now=NOON,
    )

    assert found.index.size == 3
    assert found.shares.sum() == pytest.approx(1.0)


def test_the_same_material_gives_the_same_index() -> None:
    """Nothing is drawn, so files are named by their content and do not change without a reason."""
    made = material(
        route(context=ContextSettings(), constraints=Constraints(cost_ratio=0.5)),
        size=2,
        linear={"quality": [sums(-0.3, 0.6, 1), sums(0.0, 0.9, 2)]},
    )

    one, two = freeze(made, now=NOON), freeze(made, now=NOON)

    for field in ("value", "charges", "spread", "noise", "given", "cost"):
        assert (getattr(one.index, field) == getattr(two.index, field)).all()
