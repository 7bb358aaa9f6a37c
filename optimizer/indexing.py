"""From what was learned about a route to the index its workers draw by: beliefs, constraints, floors, frozen.

Pure, and slow enough (tens of milliseconds with many arms) that the optimizer process runs it in a thread: ``Material``
is a copy of everything that it needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from optimizer import reward
from optimizer.events import INLINE_VECTOR_ARMS
from optimizer.linear_statistics import DONE, RATED, LinearStatistics
from optimizer.routing import Arm, Model
from optimizer.settings import RouteSettings
from optimizer.steering import Account, Steering, Targets, status_of, targets_of
from policies.beliefs import Beliefs, form
from policies.contextual import Index
from policies.linear import LinearSums
from policies.mixing import effective_floor
from policies.objective import QUALITY
from policies.quadrature import Floats
from policies.steering import COST, Given, Multipliers, steer
from policies.types import ArmEvidence, FloatArray, Goal, PolicyParams

THOMPSON: Final = "thompson"
# Recent requests that expectations are taken over.
REQUESTS: Final = 96
# Of a budget, all floors together take so much, and an arm in the nursery so much.
_FLOORS_SHARE, _NURSERY_SHARE = 0.02, 0.02
# Of quality, where there is a floor under it, all floors together cost at most so much.
_FLOORS_QUALITY = 0.002
_MOST_GIVEN = 0.5
# What costs less need not be bought.
_FREE_USD = 1e-9
# To guess what an arm may cost before it was ever used.
_GUESSED_INPUT, _GUESSED_OUTPUT = 500.0, 300.0


@dataclass(frozen=True, slots=True)
class Material:
    """What one side of a route is frozen from.

    ``linear``: sums by metric, one per arm. ``recent``: the newest requests' features, shape (n, size). ``size`` 1:
    nothing depends on the request. ``guesses_usd``: what arms may cost that were never used.
    """

    route: RouteSettings
    goals: Sequence[Goal]
    params: PolicyParams
    evidence: Sequence[ArmEvidence]
    account: Account
    size: int = 1
    linear: Mapping[str, Sequence[LinearSums | None]] = field(default_factory=dict)
    recent: Floats | None = None
    guesses_usd: Sequence[float | None] | None = None


@dataclass(frozen=True, slots=True)
class Frozen:
    """An index, the mean of its shares over recent requests, shape (K,), and where the constraints stand.

    ``slopes``: see ``policies.beliefs.Beliefs``.
    """

    index: Index
    shares: FloatArray
    steering: Steering
    multipliers: Multipliers
    slopes: Mapping[str, FloatArray] = field(default_factory=dict)


def is_steered(route: RouteSettings) -> bool:
    """Whether a route's shares come from an index: it learns, and looks at requests or keeps constraints."""
    looks = route.context is not None and len(route.arms) <= INLINE_VECTOR_ARMS
    return (
        route.optimize
        and route.policy.name == THOMPSON
        and len(route.arms) > 1
        and (looks or route.constraints.any)
    )


def metrics_of(route: RouteSettings, goals: Sequence[Goal]) -> tuple[str, ...]:
    """The signals whose slopes a route needs."""
    wanted = {goal.metric for goal in goals if goal.weight > 0.0}
    constraints = route.constraints
    budget = (
        constraints.cost_per_request_usd,
        constraints.cost_per_day_usd,
        constraints.cost_ratio,
        constraints.max_request_usd,
    )
    if any(amount is not None for amount in budget):
        wanted.add(reward.COST)
    return (QUALITY, *sorted(wanted & {reward.COST, reward.LATENCY, reward.TTFT}))


def watched_of(route: RouteSettings, evidence: Sequence[ArmEvidence]) -> tuple[str, ...]:
    """The signals whose slopes watching for drift needs: what another mix of requests may seem to change."""
    if not route.drift.enabled:
        return ()
    # Replies that are all valid, or none, depend on nothing.
    varies = any(0.0 < arm.signal(reward.VALID).mean < 1.0 for arm in evidence)
    return (QUALITY, reward.COST, reward.VALID) if varies else (QUALITY, reward.COST)


def gather_linear(
    linear: LinearStatistics,
    route: RouteSettings,
    evidence: Sequence[ArmEvidence],
    goals: Sequence[Goal],
    version: str,
    *,
    now: float,
) -> dict[str, list[LinearSums | None]]:
    """``Material.linear`` under one version of the features: what deciding and watching need."""
    return {
        metric: [
            linear.sums(route.name, arm, version, RATED if metric == QUALITY else DONE, metric, now=now)
            for arm in route.arms
        ]
        for metric in {*metrics_of(route, goals), *watched_of(route, evidence)}
    }


def freeze(material: Material, *, now: float) -> Frozen:
    """Form beliefs, find the multipliers of the constraints, and freeze the index.

    Raises:
        ValueError: If the goals or the policy's parameters make no sense.
    """
    route, evidence = material.route, material.evidence
    constraints = route.constraints
    requests = _requests(material)
    late = None
    if constraints.latency_p95_ms is not None:
        late = (_speed(evidence), constraints.latency_p95_ms * 1e-3)
    beliefs = form(
        evidence,
        material.goals,
        material.params,
        size=material.size,
        linear=material.linear,
        guesses_usd=material.guesses_usd,
        late=late,
    )
    baseline = [arm.id for arm in route.arms].index(route.baseline)
    targets = targets_of(constraints, beliefs, requests, baseline, material.account, now=now)
    course = steer(
        beliefs,
        requests,
        targets.aims,
        _given(material, beliefs, targets, requests),
        max_request_usd=constraints.max_request_usd or float("inf"),
    )
    return Frozen(
        course.index,
        course.index.shares(requests).mean(axis=0),
        status_of(targets, course, material.account, beliefs.gain),
        course.multipliers,
        beliefs.slopes,
    )


def guesses_usd(
    arms: Sequence[Arm], models: Mapping[str, Model], evidence: Sequence[ArmEvidence]
) -> list[float | None]:
    """What arms may cost per request by their list prices, in proportion to what the used ones really cost."""
    listed = []
    for arm in arms:
        model = models.get(arm.model)
        price = model.price if model is not None else None
        listed.append(
            None
            if price is None
            else (price.input * _GUESSED_INPUT + price.output * _GUESSED_OUTPUT) * 1e-6 + price.request_usd
        )
    known = [
        found.signal(reward.COST_USD).mean / usd
        for usd, found in zip(listed, evidence, strict=True)
        if usd and found.signal(reward.COST_USD).weight > 0.0
    ]
    scale = float(np.median(known)) if known else 1.0
    return [None if usd is None else usd * scale for usd in listed]


def _requests(material: Material) -> FloatArray:
    recent = material.recent
    if material.size == 1 or recent is None or len(recent) == 0:
        return np.eye(1, material.size)
    step = max(len(recent) / REQUESTS, 1.0)
    chosen = np.arange(0.0, len(recent), step).astype(int)
    return np.asarray(recent[chosen], dtype=np.float64)


def _speed(evidence: Sequence[ArmEvidence]) -> str:
    """To the first token when most replies are streams, else in all."""
    streams = sum(arm.signal(reward.TTFT).weight for arm in evidence)
    replies = sum(arm.signal(reward.LATENCY).weight for arm in evidence)
    return reward.TTFT if streams > 0.5 * replies else reward.LATENCY


def _given(material: Material, beliefs: Beliefs, targets: Targets, requests: FloatArray) -> Given:
    """Floor and nursery. They are bought: a hundred times dearer (worse, where that counts), a hundred times less."""
    params, n_arms = material.params, len(material.evidence)
    young = np.array([arm.pulls < params.min_pulls for arm in material.evidence], dtype=np.bool_)
    everyone = np.ones(n_arms, dtype=np.bool_)
    shares = np.full(n_arms, effective_floor(params.floor, n_arms))
    cost = np.maximum(beliefs.cost_usd(requests).mean(axis=0), 1e-12)
    budget, spent = targets.asked.cost_usd, None
    if reward.COST in metrics_of(material.route, material.goals):
        spent = budget if budget is not None else material.account.actual(COST)
    if spent is not None:
        bought = np.minimum(shares, _FLOORS_SHARE * spent / (n_arms * cost))
        shares = np.where(cost > _FREE_USD, bought, shares)
    if targets.asked.quality is not None:
        quality = (requests @ beliefs.quality.weights.T).clip(0.0, 1.0).mean(axis=0)
        shares = np.minimum(shares, _FLOORS_QUALITY / (n_arms * np.maximum(quality.max() - quality, 1e-6)))
    if budget is None:
        rest = 1.0 - float(shares.sum())
        return Given(
            shares + rest * np.where(young, 1.0 / n_arms, 0.0), ~young if not young.all() else everyone
        )
    nursery = np.minimum(1.0 / n_arms, _NURSERY_SHARE * budget / cost)
    guessed = np.array([guess is not None for guess in material.guesses_usd or [None] * n_arms])
    # Nobody knows what it costs before it was used once.
    nursery = np.where(beliefs.priced | guessed, nursery, 1.0 / n_arms)
    shares = np.where(young, np.maximum(shares, nursery), shares)
    return Given(shares / max(1.0, float(shares.sum()) / _MOST_GIVEN), everyone)
