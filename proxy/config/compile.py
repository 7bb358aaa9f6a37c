"""A validated file to everything the processes act on.

``compile_file`` is pure but for the findings it fills: the same file and environment give the same result.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

from optimizer.routing import ENDPOINTS, Access, Limits
from optimizer.settings import (
    CustomMetric,
    RetentionSettings,
    RouteSettings,
    Settings,
)
from proxy.config.compile_cache import check_stores
from proxy.config.compile_cluster import compile_cluster, compile_kafka, compile_redis
from proxy.config.compile_deployment import compile_database, compile_deployment, compile_webhooks
from proxy.config.compile_models import ModelCompiler
from proxy.config.compile_optimization import compile_optimization
from proxy.config.compile_routes import (
    BUILTIN_METRICS,
    METRIC_ALIASES,
    RouteCompiler,
    compile_prompts,
)
from proxy.config.compile_tracing import compile_tracing
from proxy.config.compile_upstreams import SecretStore, UpstreamCompiler
from proxy.config.flat import (
    PROMPTS,
    SELECTION,
    FlatPlan,
    compile_flat,
    merge_route,
    uses_known_models,
)
from proxy.config.identity import digest_of
from proxy.config.known import ANTHROPIC, OPENAI
from proxy.config.models import File
from proxy.config.models_optimization import CustomMetricBlock
from proxy.config.options import AdminOptions, Listen, LogOptions
from proxy.config.problems import Findings, KeyPath, suggest

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")
_PASSTHROUGH_ALL = "/v1/"
_BELOW_MESSAGES = "/v1/messages/"
# Whether a request was answered: recorded for every one, and what a prompt test may go by.
_SUCCESS = "success"
# Where callers may put a client key; it is taken out before anything else is looked at.
_KEY_HEADERS = frozenset(("authorization", "x-api-key", "api-key", "x-llm-optimizer-key"))
_OURS = {"chat": "/v1/chat/completions"} | {name: f"/v1/{name}" for name in ENDPOINTS if name != "chat"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """Settings for the optimizer, options for the processes."""

    settings: Settings
    listen: Listen
    admin: AdminOptions
    log: LogOptions


def compile_file(file: File, secrets: SecretStore, findings: Findings) -> Compiled:
    """Compile ``file``; every problem and note goes to ``findings``."""
    plan = compile_flat(file, findings)
    upstreams = UpstreamCompiler(file.upstreams, file.server, secrets, findings)
    for name in file.upstreams:
        upstreams.get(name)
    models = ModelCompiler(file.models, upstreams, findings)
    models.declared()
    custom = _custom_metrics(file, findings)
    router = RouteCompiler(
        models=models,
        upstreams=upstreams,
        variants=compile_prompts({**plan.prompts, **file.prompts}, findings),
        custom={metric.name: metric.maximize for metric in custom},
        findings=findings,
        timeout_ms=file.server.timeout_ms,
    )
    if plan.objectives is not None:
        router.defaults = router.objectives(plan.objectives, _objectives_path(file))
    routes = _routes(file, plan, router, findings)
    if plan.objectives is not None and not routes:
        findings.note(
            _objectives_path(file),
            "these become the default of every route; there is no route to use them yet.",
        )
    if uses_known_models(file):
        models.catalogue()
    models.report_assumptions()
    check_stores(file, routes, findings)
    passthrough = _passthrough(file, upstreams, findings)
    database = compile_database(file.database, secrets, findings)
    settings = Settings(
        config_hash="",
        upstreams=tuple(upstreams.compiled.values()),
        models=tuple(models.compiled.values()),
        variants=tuple(router.variants.values()),
        routes=routes,
        passthrough=passthrough,
        custom_metrics=custom,
        limits=_limits(file, findings),
        access=_access(file, upstreams, findings),
        kafka=compile_kafka(file, secrets, findings),
        retention=_retention(file),
        publish_interval_s=file.optimization.publish_interval_ms / 1000,
        guard_lease_s=file.deployment.guard_lease_sec,
        optimization=compile_optimization(file, routes, router.defaults, findings),
        deployment=compile_deployment(file, findings),
        webhooks=compile_webhooks(file.webhooks, secrets, findings),
        database=database,
        redis=compile_redis(file, routes, secrets, findings),
        cluster=compile_cluster(file, database, secrets, findings),
        tracing=compile_tracing(file.tracing, secrets, findings),
    )
    server = file.server
    return Compiled(
        settings=replace(settings, config_hash=digest_of(_shared(settings))),
        listen=Listen(server.host.strip("[]"), server.port, server.workers, server.drain_timeout_ms / 1000),
        admin=_admin(file, secrets, findings),
        log=LogOptions(file.log.level, file.log.format),
    )


def _shared(settings: Settings) -> Settings:
    """Without what nodes of one cluster may have different: they tell by the hash that they agree."""
    cluster, kafka = settings.cluster, settings.kafka
    return replace(
        settings,
        cluster=replace(cluster, advertise=None) if cluster is not None else None,
        kafka=replace(kafka, client_id="") if kafka is not None else None,
    )


def _retention(file: File) -> RetentionSettings:
    block = file.event_log
    return RetentionSettings(
        block.max_bytes, block.max_disk_fraction, block.max_age_days * 86400, block.segment_bytes
    )


def _routes(
    file: File, plan: FlatPlan, router: RouteCompiler, findings: Findings
) -> tuple[RouteSettings, ...]:
    routes = []
    for name in dict.fromkeys((*plan.routes, *file.routes)):
        flat, written = plan.routes.get(name), file.routes.get(name)
        block = merge_route(flat, written) if written is not None else flat
        assert block is not None
        has_own_arms = flat is None or (written is not None and bool(written.arms))
        origin: KeyPath = ("routes", name) if has_own_arms else (*plan.origins[name], "models")
        route = router.compile(name, block, origin, optimize=file.optimization.enabled)
        if route is None:
            continue
        routes.append(route)
        if flat is None and name in file.models:
            findings.note(("routes", name), "a model has the same name; requests for it get the route.")
    return tuple(routes)


def _objectives_path(file: File) -> KeyPath:
    """Where the objectives stand that routes take by default."""
    several = file.optimization.multi_objective
    if several is not None and several.enabled and several.objectives:
        return ("optimization", "multi_objective", "objectives")
    return (*SELECTION, "criteria")


def _custom_metrics(file: File, findings: Findings) -> tuple[CustomMetric, ...]:
    """Declared metrics, and those that a prompt test names, which are gauges read by their mean."""
    metrics: dict[str, CustomMetric] = {}
    reserved = {*BUILTIN_METRICS, *METRIC_ALIASES, _SUCCESS}
    for index, block in enumerate(file.metrics.custom):
        path: KeyPath = ("metrics", "custom", index)
        if block.name in reserved:
            findings.problem((*path, "name"), f"{block.name!r} is a built-in metric; choose another name.")
        elif block.name in metrics:
            findings.problem((*path, "name"), f"the metric {block.name!r} is declared twice.")
        else:
            metrics[block.name] = _custom_metric(block, path, findings)
    tests = file.optimization.prompt_optimization
    for index, name in enumerate(tests.metrics if tests is not None else ()):
        path = (*PROMPTS, "metrics", index)
        if METRIC_ALIASES.get(name, name) == "ttft":
            findings.problem(path, f"{name!r} decides no prompt test; `latency` can.")
        if name in metrics or name in reserved:
            continue
        hint = suggest(name, [*reserved, *metrics], list_up_to=0)
        if hint is not None or not re.fullmatch(r"[a-z_][a-z0-9_]{0,63}", name):
            findings.problem(
                path, f"there is no metric {name!r}.", hint or "Declare it under metrics.custom."
            )
            continue
        metrics[name] = CustomMetric(name)
        findings.note(
            path, f"{name!r} is not declared under metrics.custom; it is taken as a gauge read by its mean."
        )
    return tuple(metrics.values())


def _custom_metric(block: CustomMetricBlock, path: KeyPath, findings: Findings) -> CustomMetric:
    if block.min is not None and block.max is not None and block.min >= block.max:
        findings.problem((*path, "max"), f"must be above min, which is {block.min:g}.")
    return CustomMetric(
        name=block.name,
        kind=block.type,
        aggregation=block.aggregation or ("sum" if block.type == "counter" else "mean"),
        low=block.min,
        high=block.max,
        maximize=block.direction == "maximize",
    )


def _passthrough(file: File, upstreams: UpstreamCompiler, findings: Findings) -> tuple[tuple[str, str], ...]:
    """Prefix and upstream pairs. Without a default, everything else goes to ``openai`` if that is in use.

    What is below the Messages API (batches) only its provider knows: the one there is, or the first.
    """
    pairs: dict[str, str] = {}
    for prefix, name in file.passthrough.items():
        path: KeyPath = ("passthrough", prefix)
        if upstreams.get(name) is None:
            if ("upstreams", name) not in findings.broken:
                findings.unknown(path, "upstream", name, upstreams.names())
            continue
        if prefix == "default":
            pairs[_PASSTHROUGH_ALL] = name
        elif not prefix.startswith(_PASSTHROUGH_ALL):
            findings.problem(path, "must be `default` or start with /v1/.")
        elif prefix.rstrip("/") in _OURS.values() and prefix != _BELOW_MESSAGES:
            findings.problem(path, "is served through routes and can not be passed through.")
        else:
            pairs[prefix] = name
    if _PASSTHROUGH_ALL not in pairs and (OPENAI in upstreams.compiled or uses_known_models(file)):
        upstreams.get(OPENAI)
        pairs[_PASSTHROUGH_ALL] = OPENAI
    own = next((row.name for row in upstreams.compiled.values() if row.provider == ANTHROPIC), None)
    if own is not None:
        pairs.setdefault(_BELOW_MESSAGES, own)
    return tuple(sorted(pairs.items()))


def _access(file: File, upstreams: UpstreamCompiler, findings: Findings) -> Access:
    block = file.access
    _check_listen_host(file, findings)
    for upstream in upstreams.compiled.values() if block.client_keys else ():
        if upstream.auth == "passthrough":
            findings.note(
                ("upstreams", upstream.name, "auth"),
                "client keys are never passed on: callers send theirs as x-llm-optimizer-key, and the Authorization "
                "that this upstream expects beside it.",
            )
    for name, route in file.routes.items() if block.client_keys else ():
        if route.sticky is not None and (route.sticky.header or "").lower() in _KEY_HEADERS:
            findings.problem(
                ("routes", name, "sticky", "header"),
                "holds the client's key (access.client_keys), which nothing else may see; choose another header, "
                "or `sticky: user`.",
            )
    return Access(
        health_open=file.admin.health_open,
        metrics_open=file.admin.metrics_open,
        client_keys=block.client_keys,
        rates_open=block.when_optimizer_away.rates == "open",
        budgets_open=block.when_optimizer_away.budgets == "open",
    )


def _limits(file: File, findings: Findings) -> Limits:
    server = file.server
    in_flight = server.in_flight_bytes
    if in_flight < server.max_body_bytes:
        if "in_flight_bytes" in server.model_fields_set:
            findings.problem(
                ("server", "in_flight_bytes"),
                f"must not be below max_body_bytes, which is {server.max_body_bytes}: "
                "the largest request would never fit.",
            )
        in_flight = server.max_body_bytes
    return Limits(
        max_body_bytes=server.max_body_bytes,
        max_line_bytes=server.max_line_bytes,
        max_header_bytes=server.max_header_bytes,
        max_headers=server.max_headers,
        header_s=server.header_timeout_ms / 1000,
        body_s=server.body_timeout_ms / 1000,
        keepalive_s=server.keepalive_timeout_ms / 1000,
        write_stall_s=server.write_stall_timeout_ms / 1000,
        max_connections=server.max_connections,
        drain_s=server.drain_timeout_ms / 1000,
        drain_delay_s=server.drain_delay_ms / 1000,
        buffered_reply_bytes=server.buffered_reply_bytes,
        in_flight_bytes=in_flight,
        shed_delay_s=server.shed_delay_ms / 1000,
        cache_bytes=server.cache_bytes,
    )


def _admin(file: File, secrets: SecretStore, findings: Findings) -> AdminOptions:
    block = file.admin
    written: list[tuple[KeyPath, str]] = [
        (("admin", "keys", index), key) for index, key in enumerate(block.keys)
    ]
    if block.key is not None:
        written.insert(0, (("admin", "key"), block.key))
    keys = []
    for path, text in written:
        reference = secrets.reference(text, path, findings)
        if reference is None:
            continue
        keys.append(reference)
        if not secrets.is_known(reference):
            findings.note(path, f"{reference} is not set; this key opens nothing until it is.")
    for index, host in enumerate(block.hosts):
        if not _HOST.fullmatch(host):
            findings.problem(
                ("admin", "hosts", index), f"{host!r} is not a host name (write it without a port)."
            )
    listen = None
    if block.listen is not None:
        host, _, port = block.listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            findings.problem(("admin", "listen"), "must be host:port, such as 127.0.0.1:9090.")
        else:
            listen = (host.strip("[]"), int(port))
    return AdminOptions(block.require_key, tuple(keys), tuple(block.hosts), listen)


def _check_listen_host(file: File, findings: Findings) -> None:
    """Refuse what is no address; say what an open one means."""
    host = file.server.host
    if not _HOST.fullmatch(host):
        findings.problem(("server", "host"), f"{host!r} is neither a host name nor an address.")
        return
    host = host.strip("[]")
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local and not file.access.client_keys:
        findings.note(
            ("server", "host"),
            "whoever reaches this address can send requests with the configured upstream keys; "
            "`access: {client_keys: true}` asks callers for keys made with `llm-optimizer keys create`.",
        )
