"""A simulated route: arms with known quality, cost, latency and reliability, learned from in batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np
import pytest

from policies.registry import POLICIES
from policies.types import NOTHING, ArmEvidence, FloatArray, Goal, Moments, PolicyParams


@dataclass(frozen=True)
class TrueArm:
    """What an arm is really like. ``feedback`` is the probability that quality is ever told."""

    quality: float
    cost: float = 1e-3
    latency: float = 1.0
    success: float = 1.0
    scatter: float = 0.2
    feedback: float = 1.0


@dataclass
class Run:
    """A simulation in progress: statistics so far, the last probabilities, and pulls per arm."""

    arms: dict[str, TrueArm]
    rng: np.random.Generator
    seed: int
    evidence: dict[str, ArmEvidence] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def pulls(self, name: str) -> float:
        return self.evidence[name].pulls if name in self.evidence else 0.0

    def ordered(self) -> list[ArmEvidence]:
        return [self.evidence.get(name, ArmEvidence(name)) for name in self.arms]


def play(
    run: Run,
    *,
    policy: str,
    goals: Sequence[Goal],
    params: PolicyParams,
    steps: int,
    batch: int = 25,
) -> Run:
    """Serve ``steps`` requests, rebuilding the probabilities every ``batch`` requests."""
    for _ in range(steps // batch):
        shares = POLICIES[policy].probabilities(
            run.ordered(), goals, 0, params, np.random.default_rng(run.seed)
        )
        run.last = dict(zip(run.arms, shares.tolist(), strict=True))
        counts = run.rng.multinomial(batch, shares)
        for (name, truth), count in zip(run.arms.items(), counts.tolist(), strict=True):
            _observe(run, name, truth, count)
    return run


def _observe(run: Run, name: str, truth: TrueArm, count: int) -> None:
    rng = run.rng
    answered = int(rng.binomial(count, truth.success))
    told = int(rng.binomial(answered, truth.feedback))
    fresh = {
        "quality": rng.normal(truth.quality, truth.scatter, told),
        "cost": rng.normal(log(truth.cost) - 0.125, 0.5, answered),
        "latency": rng.normal(log(truth.latency) - 0.045, 0.3, answered),
    }
    old = run.evidence.get(name, ArmEvidence(name))
    run.evidence[name] = ArmEvidence(
        name,
        old.pulls + count,
        old.success.merge(Moments.of([1.0] * answered + [0.0] * (count - answered))),
        {
            metric: old.signals.get(metric, NOTHING).merge(Moments.of(values.tolist()))
            for metric, values in fresh.items()
        },
    )


@pytest.fixture
def simulate() -> Callable[..., Run]:
    """``simulate(arms, goals, steps, seed=, policy=, params=)`` -> Run; ``run=`` continues one."""

    def start(
        arms: dict[str, TrueArm],
        goals: Sequence[Goal],
        steps: int,
        *,
        seed: int = 0,
        policy: str = "thompson",
        params: PolicyParams | None = None,
        run: Run | None = None,
    ) -> Run:
        run = run or Run(arms, np.random.default_rng(seed), seed)
        run.arms = arms
        return play(run, policy=policy, goals=goals, params=params or PolicyParams(draws=1024), steps=steps)

    return start


@pytest.fixture
def true_arm() -> type[TrueArm]:
    return TrueArm


@pytest.fixture
def known() -> Callable[..., ArmEvidence]:
    """``known("a", 100, quality=.9, cost=.01, latency=1.0, success=1.0)``: an arm with settled evidence."""

    def make(
        name: str,
        pulls: float,
        *,
        success: float = 1.0,
        scatter: float = 0.2,
        **means: float,
    ) -> ArmEvidence:
        signals = {
            metric: Moments(pulls, log(mean), 0.0)
            if metric in ("cost", "latency", "ttft")
            else Moments(pulls, mean, scatter**2)
            for metric, mean in means.items()
        }
        return ArmEvidence(name, pulls, Moments(pulls, success, success * (1 - success)), signals)

    return make


@pytest.fixture
def shares() -> Callable[..., FloatArray]:
    """``shares(evidence, goals, params=..., policy=...)`` with a fixed seed."""

    def ask(
        evidence: Sequence[ArmEvidence],
        goals: Sequence[Goal],
        *,
        params: PolicyParams | None = None,
        policy: str = "thompson",
        seed: int = 0,
    ) -> FloatArray:
        return POLICIES[policy].probabilities(
            evidence, goals, 0, params or PolicyParams(), np.random.default_rng(seed)
        )

    return ask
