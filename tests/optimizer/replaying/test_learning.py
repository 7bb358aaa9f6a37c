"""A real ``RouteLoop`` along a log that another policy made: it learns from the log, and spends its own money."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.loop import RouteLoop
from optimizer.replaying.reading import read_decisions
from optimizer.replaying.replay import replay
from optimizer.replaying.rows import COST, QUALITY
from optimizer.replaying.targets import Imagined, Learned, learned
from optimizer.routing import Arm
from optimizer.settings import Constraints, ContextSettings, Objective, RouteSettings
from optimizer.steering import Account


def route(**changes: Any) -> RouteSettings:
    arms = tuple(Arm(name, name, "default", f"key-{name}", "") for name in ("small", "large", "huge"))
    base = RouteSettings("auto", arms, "large", (Objective("quality", 1.0, maximize=True),))
    return replace(base, **changes)


def along(decisions: Any, settings: RouteSettings, size: int = 1) -> Learned:
    loop = RouteLoop(settings, size=size, start=float(decisions.at[0]))
    places = np.array([decisions.arms.index(arm.id) for arm in settings.arms])
    return Learned("learned", learned(loop, places, decisions, size))


def test_it_finds_the_best_arm_of_a_log_that_never_preferred_it(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """Learning from draws of another policy it ends on `huge`, and is worth more than the log."""
    writer.play(world(rated=(0.9, 0.9, 0.9)), 1500, lambda _row: (0.4, 0.3, 0.3))
    (decisions,) = read_decisions(log_of()).values()

    policy = along(decisions, route())
    report = replay(decisions, policy)

    last = policy.rows[-200:].mean(axis=0)
    assert last[decisions.arms.index("huge")] > 0.6
    assert policy.rows.sum(axis=1) == pytest.approx(1.0)
    quality = report.metrics[QUALITY]
    assert quality.gap.low > 0.0


def test_constraints_are_steered_by_its_own_spending(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """The log spends six times the target; the policy keeps it, which it would not if it paid the log's bills."""
    writer.play(world(rated=(0.9, 0.9, 0.9)), 2500, lambda _row: (0.2, 0.2, 0.6))
    (decisions,) = read_decisions(log_of()).values()
    target = 0.003

    policy = along(decisions, route(constraints=Constraints(cost_per_request_usd=target)))
    report = replay(decisions, policy)

    costs = np.array([0.001, 0.004, 0.02])
    arms = [("small", "large", "huge").index(arm) for arm in decisions.arms]
    spent = float((policy.rows[500:] @ costs[arms]).mean())
    assert float(decisions.outcomes[COST].mean()) > 4.0 * target
    assert spent == pytest.approx(target, rel=0.1)
    assert report.metrics[COST].headline.mean == pytest.approx(target, rel=0.25)


def test_with_context_it_looks_at_requests(writer: Any, world: Any, log_of: Callable[[], Path]) -> None:
    """The features that were logged are those it decides by."""
    writer.play(world(), 400, lambda _row: (0.4, 0.3, 0.3), context=True)
    (decisions,) = read_decisions(log_of()).values()

    policy = along(decisions, route(context=ContextSettings()), size=2)

    assert policy.rows.sum(axis=1) == pytest.approx(1.0)
    assert decisions.x is not None
    assert decisions.x.shape == (400, 2)


def test_a_row_counts_as_often_as_it_would_have_come() -> None:
    """Weight 1 is the product's own account; weight 2 is every booking twice as heavy, with the same means."""
    plain, same, double = Account(), Imagined(), Imagined(weight=2.0)
    for number in range(50):
        for account in (plain, same, double):
            account.pay(0.01 * (number % 3), 1_000.0 + number)
            account.rate_quality(float(number % 2))
            account.time(late=number % 5 == 0)

    for name in ("cost", "quality", "late"):
        known = [account.actual(name) for account in (plain, same, double)]
        if known[0] is not None:
            assert known[1] == known[0]
            assert known[2] == pytest.approx(known[0])
    assert double.priced == pytest.approx(2.0 * plain.priced)
    assert double.spent_usd == pytest.approx(2.0 * plain.spent_usd)


def test_other_decisions_are_not_what_it_learned_along(
    writer: Any, world: Any, log_of: Callable[[], Path]
) -> None:
    """Its rows belong to one log."""
    writer.play(world(), 30, lambda _row: (0.4, 0.3, 0.3))
    (decisions,) = read_decisions(log_of()).values()
    policy = Learned("learned", np.full((29, 3), 1 / 3))

    with pytest.raises(ValueError, match="not the decisions"):
        policy.vectors(decisions)
