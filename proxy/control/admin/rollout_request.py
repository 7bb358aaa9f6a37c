"""The plan of one rollout as a ``deploy`` asks for it: what it says, and the configuration for the rest.

It is compiled by the same function as ``deployment.canary`` of the file, so that a stage means the same in both places.
"""

from dataclasses import replace
from typing import Final

from optimizer.settings import DeploymentSettings, HealthChecks, RolloutPlan
from proxy.config.compile_deployment import compile_deployment
from proxy.config.models import File
from proxy.config.models_deployment import CanaryBlock, HealthCheckBlock
from proxy.config.problems import Findings, Problem
from proxy.control.admin.reading import refusal

_PREFIX: Final = "deployment."
_SETTINGS: Final = {
    "enabled": "enabled",
    "interval_sec": "interval_s",
    "error_rate_threshold": "error_rate",
    "latency_p95_threshold_ms": "latency_p95_ms",
    "cost_per_request_threshold_usd": "cost_per_request_usd",
    "quality_threshold": "quality_ratio",
    "non_inferiority_margin": "non_inferiority_margin",
}
"""Names of the checks, as they are asked for and as they are set."""


def plan_of(canary: CanaryBlock | None, deployment: DeploymentSettings) -> RolloutPlan | None:
    """The plan that ``canary`` asks for; None when it asks for nothing of its own.

    Raises:
        AdminFault: 400 with every problem of the stages.
    """
    if canary is None:
        return None
    findings = Findings()
    asked = canary.model_dump(exclude_unset=True)
    file = File.model_validate({"deployment": {"environment": deployment.environment, "canary": asked}})
    compiled = compile_deployment(file, findings).plan
    if findings.problems:
        raise refusal(
            "The rollout's plan is not valid.",
            [
                Problem(found.path.removeprefix(_PREFIX), found.message, found.suggestion)
                for found in findings.problems
            ],
        )
    stages = compiled.stages if canary.stages or not canary.enabled else deployment.plan.stages
    return RolloutPlan(
        stages=stages,
        checks=_checks(canary.health_check, compiled.checks, deployment.plan.checks),
        # How far a change may go by itself is the operator's decision, not the caller's.
        approval=deployment.plan.approval,
    )


def _checks(asked: HealthCheckBlock | None, compiled: HealthChecks, default: HealthChecks) -> HealthChecks:
    """Bounds that the caller did not name stay what the operator set."""
    names = [_SETTINGS[name] for name in asked.model_fields_set] if asked is not None else []
    return replace(default, **{name: getattr(compiled, name) for name in names})
