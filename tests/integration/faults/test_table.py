"""Every row of the fault table: what the caller, the upstream and the log see of an upstream that fails."""

from collections.abc import Mapping

import pytest

from loadtests.faults.behaviours import BEHAVIOURS
from loadtests.faults.cases import GROUPS, SCENARIOS
from loadtests.faults.judge import Verdict


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_conduct(scenario: str, played: Mapping[str, Verdict]) -> None:
    """The product does what the row expects; the message says everything that it did not."""
    verdict = played[scenario]

    assert verdict.misses == [], f"{SCENARIOS[scenario].says}: {verdict.story}"


def test_every_fault_is_played() -> None:
    """No behaviour of the upstream is left out of the table, and no name is used twice."""
    faults = {arm.fault for scenario in SCENARIOS.values() for arm in scenario.arms}

    assert {fault.partition("*")[0].partition(":")[0] for fault in faults} == set(BEHAVIOURS)
    assert len(SCENARIOS) == sum(len(scenarios) for scenarios in GROUPS.values())
