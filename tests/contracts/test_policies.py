"""What every policy of the registry promises, learning or not."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.mixing import effective_floor
from policies.registry import POLICIES
from policies.types import ArmEvidence, FloatArray, Goal, Moments, PolicyParams

GOALS = [Goal("quality", 0.6, True), Goal("cost", 0.3, False), Goal("latency", 0.1, False)]
QUICK = PolicyParams(draws=256)
LEARNING = sorted(set(POLICIES) - {"fixed"})

every_policy = pytest.mark.parametrize("policy", sorted(POLICIES))
learning_policy = pytest.mark.parametrize("policy", LEARNING)


def ask(
    policy: str,
    evidence: Sequence[ArmEvidence],
    *,
    goals: Sequence[Goal] = GOALS,
    baseline: int = 0,
    params: PolicyParams = QUICK,
    seed: int = 0,
) -> FloatArray:
    return POLICIES[policy].probabilities(evidence, goals, baseline, params, np.random.default_rng(seed))


def moments(low: float, high: float) -> st.SearchStrategy[Moments]:
    return st.builds(Moments, st.floats(0, 1e6), st.floats(low, high), st.floats(0, 4))


@st.composite
def routes(draw: st.DrawFn) -> list[ArmEvidence]:
    """One to eight arms with any subset of signals, any weights, any pulls."""
    arms = []
    for index in range(draw(st.integers(1, 8))):
        signals = {"quality": moments(0, 1), "cost": moments(-20, 2), "latency": moments(-6, 6)}
        names = draw(st.sets(st.sampled_from(sorted(signals))))
        arms.append(
            ArmEvidence(
                f"arm-{index}",
                draw(st.floats(0, 1e6)),
                Moments(draw(st.floats(0, 1e6)), draw(st.floats(0, 1)), 0.1),
                {name: draw(signals[name]) for name in names},
            )
        )
    return arms


@every_policy
@settings(max_examples=60, deadline=None)
@given(evidence=routes())
def test_probabilities_are_a_distribution(policy: str, evidence: list[ArmEvidence]) -> None:
    """One finite number >= 0 per arm, summing to 1, whatever is known."""
    found = ask(policy, evidence)

    assert found.shape == (len(evidence),)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1.0, abs=1e-9)


@learning_policy
@settings(max_examples=60, deadline=None)
@given(evidence=routes(), floor=st.floats(0, 0.3))
def test_the_floor_is_kept(policy: str, evidence: list[ArmEvidence], floor: float) -> None:
    """No arm falls below the floor that fits the number of arms."""
    found = ask(policy, evidence, params=PolicyParams(draws=128, floor=floor))

    assert (found >= effective_floor(floor, len(evidence)) - 1e-9).all()


@every_policy
@settings(max_examples=30, deadline=None)
@given(evidence=routes())
def test_one_seed_gives_one_answer(policy: str, evidence: list[ArmEvidence]) -> None:
    """The generator is the only source of randomness."""
    assert ask(policy, evidence, seed=5).tolist() == ask(policy, evidence, seed=5).tolist()


@every_policy
@settings(max_examples=60, deadline=None)
@given(evidence=routes(), shuffler=st.randoms(use_true_random=False))
def test_the_order_of_the_arms_means_nothing(policy: str, evidence: list[ArmEvidence], shuffler) -> None:  # type: ignore[no-untyped-def]
    """Permuting the arms permutes the probabilities."""
    order = shuffler.sample(range(len(evidence)), len(evidence))

    straight = ask(policy, evidence)
    permuted = ask(policy, [evidence[index] for index in order], baseline=order.index(0))

    assert permuted == pytest.approx(straight[order], abs=1e-9)


@every_policy
@pytest.mark.parametrize(
    "only",
    [
        ArmEvidence("a"),
        ArmEvidence("a", 500, Moments(500, 0, 0)),
        ArmEvidence("a", 500, Moments(500, 1, 0), {"quality": Moments(500, 0.5, 0.1)}),
    ],
)
def test_a_single_arm_gets_everything(policy: str, only: ArmEvidence) -> None:
    """Unknown, failing or fine: there is no other."""
    assert ask(policy, [only]).tolist() == [1.0]


@learning_policy
@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_arms_without_data_are_treated_alike(policy: str, count: int) -> None:
    """A fresh route plays its arms evenly."""
    assert ask(policy, [ArmEvidence(f"{index}") for index in range(count)]) == pytest.approx(1 / count)


@every_policy
def test_no_arms_are_refused(policy: str) -> None:
    """A route without arms is a mistake of the caller, and says so."""
    with pytest.raises(ValueError, match=r"arm|baseline"):
        ask(policy, [])


@learning_policy
@pytest.mark.parametrize("goals", [GOALS, GOALS[:1], GOALS[1:2], GOALS[2:]], ids=["all", "q", "cost", "time"])
def test_an_arm_that_always_fails_is_starved_to_the_floor(policy: str, goals: list[Goal]) -> None:
    """Under every kind of goal, although failing is cheap, fast and leaves no bad quality behind."""
    fine = {
        "quality": Moments(200, 0.6, 0.04),
        "cost": Moments(200, -4, 0.3),
        "latency": Moments(200, 1, 0.2),
    }
    arms = [
        ArmEvidence(
            "fails", 40, Moments(40, 0, 0), {"cost": Moments(3, -12, 0), "latency": Moments(3, -5, 0)}
        ),
        ArmEvidence("works", 200, Moments(200, 1, 0), fine),
    ]

    found = ask(policy, arms, goals=goals, params=PolicyParams(floor=0.01, epsilon=0.0, draws=2048))

    assert found[0] <= 0.02


@learning_policy
def test_a_young_arm_gets_an_even_share(policy: str) -> None:
    """Below the minimum number of pulls neither luck nor misfortune counts."""
    signals = {"quality": Moments(500, 0.9, 0.01)}
    arms = [ArmEvidence(name, 500, Moments(500, 1, 0), signals) for name in "abc"]
    unlucky = ArmEvidence("new", 19, Moments(19, 0, 0), {"quality": Moments(19, 0.0, 0.0)})

    assert ask(policy, [*arms, unlucky])[3] == pytest.approx(0.25)


def simulate(policy: str, seed: int, *, steps: int = 1500, batch: int = 25) -> float:
    """Mean true quality of the served arms on a route of five arms, minus what uniform play gets."""
    truth = np.array([0.55, 0.6, 0.65, 0.7, 0.8])
    rng = np.random.default_rng(seed)
    seen = [Moments() for _ in truth]
    gained = 0.0
    for _ in range(steps // batch):
        evidence = [
            ArmEvidence(str(index), m.weight, Moments(m.weight, 1, 0), {"quality": m} if m.weight else {})
            for index, m in enumerate(seen)
        ]
        counts = rng.multinomial(batch, ask(policy, evidence, goals=GOALS[:1], seed=seed))
        gained += float(counts @ truth)
        seen = [
            m.merge(Moments.of(rng.normal(q, 0.2, n).tolist()))
            for m, q, n in zip(seen, truth, counts, strict=True)
        ]
    return gained / steps - float(truth.mean())


@learning_policy
@pytest.mark.parametrize("seed", range(3))
def test_learning_beats_uniform_play(policy: str, seed: int) -> None:
    """At least half of the possible gain (0.14) over uniform in 1,500 requests; 0 of 100 seeds miss it."""
    assert simulate(policy, seed) > 0.07
