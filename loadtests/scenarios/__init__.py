"""The scenarios by name, in the order they are run.

Adding one: a module with a function ``(Context) -> Report``, and one line here.
"""

from collections.abc import Callable, Mapping

from loadtests.scenarios import (
    contextual,
    faulty,
    hostile,
    latency,
    learning,
    overload,
    parts,
    recorded,
    relay,
    stages,
    starting,
    throughput,
)
from loadtests.scenarios.context import Context, Report

Scenario = Callable[[Context], Report]

SCENARIOS: Mapping[str, Scenario] = {
    "decision": parts.decision,
    "event": parts.event,
    "stages": stages.stages,
    "contextual": contextual.decision,
    "contextual-tables": contextual.tables,
    "contextual-throughput": contextual.throughput,
    "learner": learning.learner,
    "learner_contextual": learning.contextual_learner,
    "start": starting.start,
    "unary": throughput.unary,
    "variants": throughput.variants,
    "big": throughput.big,
    "tls": throughput.tls,
    "latency": latency.latency,
    "relay": relay.relay,
    "streams": relay.memory,
    "overload": overload.overload,
    "hostile": hostile.hostile,
    "replay": recorded.recorded,
    "faults": faulty.faults,
}
