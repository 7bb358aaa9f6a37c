"""The table: every scenario, in the order of the card."""

from collections.abc import Mapping

from loadtests.faults.cases import anthropic, callers, replies, resuming, routes, silence, statuses, streams
from loadtests.faults.scenario import Scenario

GROUPS: Mapping[str, tuple[Scenario, ...]] = {
    "connections and replies": replies.SCENARIOS,
    "statuses": statuses.SCENARIOS,
    "silence": silence.SCENARIOS,
    "streams": streams.SCENARIOS,
    "continued streams": resuming.SCENARIOS,
    "Anthropic": anthropic.SCENARIOS,
    "routes": routes.SCENARIOS,
    "callers that leave": callers.SCENARIOS,
}
SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario for scenarios in GROUPS.values() for scenario in scenarios
}
