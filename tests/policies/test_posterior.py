"""Beliefs: pooled and optimistic before data, driven by data after, never zero for want of it."""

import numpy as np
import pytest

from policies.posterior import (
    LOG_SCATTER,
    UNIT_SCATTER,
    Posterior,
    Scatter,
    believe,
    believe_success,
    log_noise,
)
from policies.types import NOTHING, Moments


def quality(*moments: Moments, memory: float = 5000.0) -> Posterior:
    found = believe(moments, UNIT_SCATTER, better=1, strength=5.0, max_memory=memory)
    assert found is not None
    return found


def logs(*moments: Moments, expected: Scatter | None = LOG_SCATTER) -> Posterior:
    found = believe(moments, expected, better=-1, strength=5.0, max_memory=5000.0)
    assert found is not None
    return found


def test_an_arm_without_data_is_believed_a_little_better_than_the_others() -> None:
    """The prior is the pooled mean plus optimism, not zero and not the best arm's mean plus a lot."""
    posterior = quality(Moments(1000, 0.9, 0.01), Moments(1000, 0.8, 0.01), NOTHING)

    assert 0.85 < posterior.mean[2] < 0.95
    assert posterior.spread[2] > 5 * posterior.spread[0]
    assert posterior.weight[2] == 0.0


def test_optimism_about_a_cost_means_cheaper() -> None:
    """For a signal of which less is better the prior lies below the pooled mean."""
    posterior = logs(Moments(1000, -5.0, 0.3), Moments(1000, -6.0, 0.3), NOTHING)

    assert posterior.mean[2] < -5.5


def test_data_overcome_the_prior() -> None:
    """After a thousand pulls the belief is the sample mean, as narrow as its standard error."""
    posterior = quality(Moments(1000, 0.6, 0.04), Moments(1000, 0.9, 0.04))

    assert posterior.mean == pytest.approx([0.6, 0.9], abs=0.003)
    assert posterior.spread == pytest.approx([0.2 / 1000**0.5] * 2, rel=0.02)


def test_arms_with_a_huge_price_span_are_not_pulled_together() -> None:
    """Twenty pulls suffice to know a 500-fold difference in price to a few percent."""
    posterior = logs(Moments(20, np.log(3e-5), 0.3), Moments(20, np.log(15e-3), 0.3))

    assert np.exp(posterior.mean) == pytest.approx([3e-5, 15e-3], rel=0.1)


def test_near_equal_arms_are_pulled_together() -> None:
    """Where arms hardly differ, one lucky pull of 1.0 is taken more than halfway back to the others."""
    settled = [Moments(1000, 0.8 + 0.001 * index, 0.04) for index in range(10)]

    posterior = quality(*settled, Moments(1, 1.0, 0.0))

    assert posterior.mean[-1] < 0.9


def test_memory_caps_the_effective_sample_size() -> None:
    """A million old observations count as much as the cap allows."""
    capped = quality(Moments(1e6, 0.6, 0.04), memory=500.0)
    plain = quality(Moments(500, 0.6, 0.04))

    assert capped.weight == plain.weight
    assert capped.spread == pytest.approx(plain.spread)


def test_knowledge_that_faded_away_is_forgotten() -> None:
    """A weight that decayed next to underflow is no observation, neither alone nor beside others."""
    faded = Moments(5e-324, 3.0, 1.0)

    assert believe([faded], LOG_SCATTER, better=-1, strength=5.0, max_memory=5000.0) is None
    assert (
        logs(Moments(10, -5.0, 0.3), faded).mean.tolist()
        == logs(Moments(10, -5.0, 0.3), NOTHING).mean.tolist()
    )


def test_a_signal_that_nobody_observed_has_no_posterior_unless_its_unit_gives_a_centre() -> None:
    """Costs wait for the first observation, quality starts from its scale's centre."""
    assert believe([NOTHING, NOTHING], LOG_SCATTER, better=-1, strength=5.0, max_memory=5000.0) is None
    assert quality(NOTHING, NOTHING).mean == pytest.approx([0.8175, 0.8175], abs=0.01)


def test_a_custom_metric_brings_its_own_unit() -> None:
    """Beliefs about a metric scale with its unit: cents or euros, the same picture."""
    euros = logs(Moments(50, 3.0, 1.0), Moments(50, 5.0, 1.0), NOTHING, expected=None)
    cents = logs(Moments(50, 300.0, 1e4), Moments(50, 500.0, 1e4), NOTHING, expected=None)

    assert cents.mean == pytest.approx(euros.mean * 100)
    assert cents.spread == pytest.approx(euros.spread * 100)


def test_a_mixture_of_free_and_paid_replies_does_not_explode() -> None:
    """Half at 1e-9 and half at one cent: exp(variance / 2) of the raw logs would be 10^8 dollars."""
    posterior = logs(Moments(1000, (np.log(1e-9) + np.log(1e-2)) / 2, 65.0))

    assert np.exp(posterior.mean + log_noise(posterior) / 2)[0] < 1.0


def test_success_starts_high_and_falls_with_failures() -> None:
    """A new arm is trusted to answer; twenty failures in a row end that."""
    posterior = believe_success([NOTHING, Moments(20, 0.0, 0.0)], strength=5.0, max_memory=5000.0)

    assert posterior.mean[0] == pytest.approx(0.98)
    assert posterior.mean[1] < 0.2


@pytest.mark.parametrize(("strength", "memory"), [(0.0, 10.0), (5.0, 0.0)])
def test_a_prior_or_memory_of_nothing_is_refused(strength: float, memory: float) -> None:
    """Both must be positive."""
    with pytest.raises(ValueError, match="must be positive"):
        believe([NOTHING], UNIT_SCATTER, better=1, strength=strength, max_memory=memory)
