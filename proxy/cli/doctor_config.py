"""The doctor's look at a configuration without a server: is it valid, are its secrets set, do its servers answer."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from proxy.cli.findings import Finding, fail, ok, warn
from proxy.config.environment import process_environment
from proxy.config.load import Loaded, load, load_text
from proxy.config.problems import ConfigProblems
from proxy.config.resolver import SecretResolver
from proxy.config.secrets import LITERAL

_CONNECT_S: Final = 3.0
_PORTS: Final = {"postgresql": 5432, "postgres": 5432, "http": 80, "https": 443}


def configuration(path: Path | None, state: Path | None) -> tuple[Loaded | None, Sequence[Finding]]:
    """Load a named file, else the configuration that was served last from ``state``, else the built-in one."""
    history = sorted((state / "config" / "history").glob("[0-9]*.yaml")) if state is not None else []
    origin = "the built-in configuration"
    fix = "unset the variable that is named"
    try:
        if path is not None:
            origin, fix = str(path), f"llm-optimizer check-config {path}"
            loaded = load(path, process_environment())
        elif history:
            origin, fix = "what was served last", "llm-optimizer check-config FILE"
            loaded = load_text(history[-1].read_text("utf-8"), process_environment())
        else:
            loaded = load(None, process_environment())
    except ConfigProblems as refused:
        count = len(refused.problems)
        more = f" (and {count - 1} more)" if count > 1 else ""
        return None, [fail("configuration", f"{origin}: {refused.problems[0]}{more}", fix)]
    except (OSError, UnicodeDecodeError) as error:
        return None, [
            fail("configuration", f"{origin} can't be read: {error}", "run as the user that serves")
        ]
    routes = ", ".join(route.name for route in loaded.settings.routes) or "none"
    return loaded, [ok("configuration", f"{origin} is valid; routes: {routes}")]


def secrets(loaded: Loaded) -> Iterator[Finding]:
    """Every secret that the configuration refers to has a value in this environment."""
    settings = loaded.settings
    # Built-in upstreams are there without being asked for: only what a model of a route needs counts.
    named = {arm.model for route in settings.routes for arm in (*route.arms, *route.fallbacks)}
    used = {model.upstream for model in settings.models if model.name in named}
    wanted = {
        **{f"upstream {row.name}": row.secret for row in settings.upstreams if row.name in used},
        **{f"webhook {row.name}": row.secret for row in settings.webhooks},
        "database": settings.database.url,
        "redis": settings.redis.url if settings.redis is not None else None,
        "cluster": settings.cluster.secret if settings.cluster is not None else None,
    }
    resolver = SecretResolver(process_environment(), loaded.secrets)
    # A literal key of an earlier run is not kept anywhere: nobody can say whether it is still right.
    asked = {what: name for what, name in wanted.items() if name is not None}
    missing = {
        what: name
        for what, name in asked.items()
        if resolver.resolve(name) is None and (not name.startswith(LITERAL) or loaded.path is not None)
    }
    for what, name in missing.items():
        yield warn(
            "secrets", f"{what}: {name} is not set", f"set {name.partition(':')[2]} where the server starts"
        )
    if not missing:
        yield ok("secrets", f"{len(asked)} asked for, all set" if asked else "none is asked for")


def dependencies(loaded: Loaded) -> Iterator[Finding]:
    """The servers that the configuration names accept a connection."""
    settings = loaded.settings
    resolver = SecretResolver(process_environment(), loaded.secrets)
    url = resolver.resolve(settings.database.url or "")
    if url is not None and (host := urlsplit(url).hostname):
        port = _port(url) or _PORTS.get(urlsplit(url).scheme.partition("+")[0], 5432)
        yield _connection("database", host, port, "rollouts wait until it is back; requests are served")
    redis = resolver.resolve(settings.redis.url) if settings.redis is not None else None
    if redis is not None and (host := urlsplit(redis).hostname):
        yield _connection("redis", host, _port(redis) or 6379, "nodes keep their last tables")
    if settings.kafka is not None:
        for broker in settings.kafka.brokers:
            host, _, port_text = broker.rpartition(":")
            yield _connection(
                "kafka",
                host or broker,
                int(port_text) if port_text.isdecimal() else 9092,
                "events wait on the disk",
            )


def _connection(check: str, host: str, port: int, meanwhile: str) -> Finding:
    try:
        socket.create_connection((host.strip("[]"), port), timeout=_CONNECT_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        return fail(
            check, f"{host}:{port} does not answer ({why}); {meanwhile}", "start it, or correct its address"
        )
    return ok(check, f"{host}:{port} accepts connections")


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return None
