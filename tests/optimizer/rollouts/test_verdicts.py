"""The budget of errors is a promise: whatever the plan, its parts sum to no more than the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.rollouts.verdicts import FALSE_ROLLBACK, alphas, guard_names, harm_guards, stage_share
from optimizer.settings import HealthChecks

maybe = st.none() | st.floats(0.01, 0.9)
checks = st.builds(
    HealthChecks,
    enabled=st.booleans(),
    error_rate=maybe,
    latency_p95_ms=maybe,
    cost_per_request_usd=maybe,
    quality_ratio=maybe,
    non_inferiority_margin=maybe,
)


@given(checks, st.integers(1, 12))
def test_the_parts_sum_to_the_budget(held_to, stages):
    """Over all guards and stages; the first stage and the error guard have the most."""
    parts = [alphas(held_to, stage, stages) for stage in range(stages)]

    total = sum(sum(part.values()) for part in parts)
    assert total == pytest.approx(FALSE_ROLLBACK if held_to.enabled else 0.0)
    assert sum(stage_share(stage, stages) for stage in range(stages)) == pytest.approx(1.0)
    if held_to.enabled:
        assert max(parts[0].values()) == parts[0]["error"]
        assert parts[0]["error"] >= max(part["error"] for part in parts)


@given(checks)
def test_every_guard_has_one_name(held_to):
    """Names are unique, and those that can roll back are among all."""
    names = guard_names(held_to)

    assert len(set(names)) == len(names)
    assert set(harm_guards(held_to)) <= set(names)


@pytest.mark.parametrize(("stage", "stages"), [(-1, 3), (3, 3)])
def test_a_stage_that_is_not_there_has_no_budget(stage, stages):
    """Stages are counted from 0."""
    with pytest.raises(ValueError, match="stage"):
        alphas(HealthChecks(), stage, stages)
