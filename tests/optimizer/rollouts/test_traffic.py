"""Rates and the reference percentile of a route."""

import numpy as np
import pytest

from optimizer.rollouts.traffic import WINDOW_S, Rates, p95_ms
from policies.types import ArmEvidence, Moments


def test_a_rate_is_what_came_per_second_and_old_requests_leave_it():
    rates = Rates(now=0.0)
    for second in range(100):
        rates.add({"chat": 5}, now=float(second))
    assert rates.per_second("chat", now=100.0) == pytest.approx(5.0)
    assert rates.per_second("other", now=100.0) == 0.0
    rates.add({}, now=100.0 + 2 * WINDOW_S)
    assert rates.per_second("chat", now=100.0 + 2 * WINDOW_S) == 0.0


def seen(times: list[float], streams: list[float]) -> ArmEvidence:
    return ArmEvidence(
        arm="a", signals={"latency": Moments.of(np.log(times)), "ttft": Moments.of(np.log(streams))}
    )


def test_the_percentile_is_that_of_a_simulated_route():
    """Within 5 % of the empirical percentile of a mixture of two log-normal arms."""
    rng = np.random.default_rng(1)
    fast, slow = rng.lognormal(-1.0, 0.4, 20_000), rng.lognormal(0.5, 0.3, 20_000)
    evidence = [seen(list(fast), []), seen(list(slow), [])]
    mixed = np.where(rng.random(20_000) < 0.3, slow, fast)
    assert p95_ms(evidence, [0.7, 0.3]) == pytest.approx(1000 * np.quantile(mixed, 0.95), rel=0.05)


def test_streams_count_with_their_first_token():
    rng = np.random.default_rng(2)
    total, first = rng.lognormal(2.0, 0.1, 5_000), rng.lognormal(-1.5, 0.2, 5_000)
    assert p95_ms([seen(list(total), list(first))], [1.0]) == pytest.approx(
        1000 * np.quantile(first, 0.95), rel=0.05
    )


def test_nothing_known_is_no_number():
    assert p95_ms([ArmEvidence(arm="a")], [1.0]) is None
    assert p95_ms([seen([1.0] * 5, [])], [1.0]) is None
