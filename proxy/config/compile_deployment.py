"""How changes reach traffic and who hears of it: rollout plans, webhooks, the database of optimizations.

Invariant: what comes out holds references to secrets, never their values.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from optimizer.settings import (
    DatabaseSettings,
    DeploymentSettings,
    HealthChecks,
    RolloutPlan,
    Stage,
    WebhookSettings,
)
from proxy.config.compile_addresses import compile_address
from proxy.config.compile_upstreams import SecretStore
from proxy.config.models import File
from proxy.config.models_deployment import (
    CanaryBlock,
    DatabaseBlock,
    DeploymentBlock,
    HealthCheckBlock,
    StageBlock,
    WebhookBlock,
)
from proxy.config.problems import Findings, KeyPath, show_path
from proxy.config.subscriptions import EVENT_NAMES, is_event
from proxy.http1.addresses import host_problem

STAGING: Final = "staging"
"""The environment in which a person decides about every promotion."""

WAITS: Final = 10.0
"""A stage waits for requests this many times its duration, unless it says otherwise."""

_ALL = 100.0
_CANARY: KeyPath = ("deployment", "canary")
_DATABASES = ("postgresql", "postgres", "sqlite")


def compile_deployment(file: File, findings: Findings) -> DeploymentSettings:
    """The plan that every rollout has unless its own says otherwise."""
    block = file.deployment
    canary = block.canary or CanaryBlock()
    stages = _stages(canary.stages, findings) or RolloutPlan().stages
    staging = block.environment.strip().lower() == STAGING
    if staging and block.auto_promote and "auto_promote" in block.model_fields_set:
        findings.note(
            ("deployment", "auto_promote"), "in the environment `staging` a person promotes all the same."
        )
    plan = RolloutPlan(
        stages=stages if canary.enabled else (),
        checks=_checks(block, file.optimization.quality_threshold, findings),
        approval=staging or not block.auto_promote,
    )
    return DeploymentSettings(block.environment, block.auto_promote, plan)


def _stages(blocks: Sequence[StageBlock], findings: Findings) -> tuple[Stage, ...]:
    """Rising, and at last everything, which a list that ends below 100 % leaves unsaid."""
    stages: list[Stage] = []
    last = 0.0
    for index, block in enumerate(blocks):
        path: KeyPath = (*_CANARY, "stages", index)
        duration, wait = block.duration_sec, block.max_wait_sec
        if block.percentage <= last:
            findings.problem((*path, "percentage"), f"must be above the stage before it, which has {last:g}.")
        last = block.percentage
        if block.percentage < _ALL and duration is None:
            findings.problem((*path, "duration_sec"), "is required for a stage below 100 %.")
        if wait is not None and wait < (duration or 0.0):
            findings.problem((*path, "max_wait_sec"), "must not be shorter than duration_sec.")
        stages.append(
            Stage(
                percentage=block.percentage,
                duration_s=duration or 0.0,
                min_samples=block.min_samples,
                max_wait_s=WAITS * (duration or 0.0) if wait is None else wait,
            )
        )
    return (*stages, Stage(_ALL)) if stages and last < _ALL else tuple(stages)


def _checks(block: DeploymentBlock, quality_ratio: float | None, findings: Findings) -> HealthChecks:
    """The bounds, whichever of the two places they stand in. ``quality_ratio`` is the optimizer's own."""
    canary = block.canary.health_check if block.canary is not None else None
    written = {**_written(block.health_check), **_written(canary)}
    for key, value in _written(block.health_check).items():
        if written[key] != value:
            other = show_path((*_CANARY, "health_check", key))
            findings.problem(
                ("deployment", "health_check", key),
                f"has another value than {other}; both name the same setting, keep one of them.",
            )
    checks = HealthCheckBlock.model_validate(written)
    kept = checks.quality_threshold
    return HealthChecks(
        enabled=checks.enabled,
        interval_s=checks.interval_sec,
        error_rate=checks.error_rate_threshold,
        latency_p95_ms=checks.latency_p95_threshold_ms,
        cost_per_request_usd=checks.cost_per_request_threshold_usd,
        quality_ratio=quality_ratio if kept is None else kept,
        non_inferiority_margin=checks.non_inferiority_margin,
    )


def _written(block: HealthCheckBlock | None) -> Mapping[str, Any]:
    return block.model_dump(exclude_unset=True) if block is not None else {}


def compile_webhooks(
    blocks: Sequence[WebhookBlock], secrets: SecretStore, findings: Findings
) -> tuple[WebhookSettings, ...]:
    """Subscribers in the order of the file; each has a name of its own."""
    webhooks: dict[str, WebhookSettings] = {}
    for index, block in enumerate(blocks):
        path: KeyPath = ("webhooks", index)
        host = _host(block.url, (*path, "url"), findings)
        if host is None:
            continue
        name = block.name or host
        if name in webhooks:
            where = (*path, "name") if block.name else path
            findings.problem(where, f"the name {name!r} is taken.", "Give each webhook a `name`.")
            continue
        for number, event in enumerate(block.events):
            if not is_event(event):
                findings.unknown((*path, "events", number), "event", event, EVENT_NAMES)
        secret = None
        if block.secret is not None:
            secret = secrets.reference(block.secret, (*path, "secret"), findings)
            if secret is not None and not secrets.is_known(secret):
                findings.note((*path, "secret"), f"{secret} is not set; nothing is sent until it is.")
        webhooks[name] = WebhookSettings(name, block.url, secret, tuple(dict.fromkeys(block.events)))
    return tuple(webhooks.values())


def _host(url: str, path: KeyPath, findings: Findings) -> str | None:
    """Host of a web address; None after a problem."""
    problem: str | None
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host = "", None
    if host is None or scheme not in ("http", "https"):
        problem = "must be an http or https address with a host."
    elif "@" in url.partition("://")[2].partition("/")[0]:
        problem = "must not hold a user or password; `secret` signs what is sent."
    elif not all(33 <= ord(letter) < 127 for letter in url):
        problem = "holds characters that are not accepted in an address."
    else:
        problem = host_problem(host)
    if problem is not None:
        findings.problem(path, problem)
    return host if problem is None else None


def compile_database(
    block: DatabaseBlock | None, secrets: SecretStore, findings: Findings
) -> DatabaseSettings:
    """Where optimizations are kept. The URL becomes a reference: a password may stand in it."""
    if block is None:
        return DatabaseSettings()
    reference = None
    if block.url is not None:
        reference = compile_address(
            block.url,
            ("database", "url"),
            secrets,
            findings,
            unset="until it is, nothing new is deployed.",
            problem=_database_problem,
        )
    return DatabaseSettings(reference, block.max_connections, block.timeout_sec)


def _database_problem(url: str) -> str | None:
    """What is wrong with the address, without repeating it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "is no address that can be read; write special letters of a password as %XX."
    backend = parts.scheme.partition("+")[0]
    if backend not in _DATABASES or "://" not in url:
        return "must be a postgresql:// or sqlite:// address."
    # Where a relative path leads would depend on how the process was started; a server's address has no such file.
    if backend == "sqlite" and (parts.netloc or not parts.path.startswith("//") or len(parts.path) < 3):
        return "must name a file by its absolute path: sqlite:////var/lib/llm-optimizer/optimizations.sqlite3"
    return None
