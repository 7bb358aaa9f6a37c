"""The doctor's questions to a running server: does everything answer, what is degraded, who waits for a person."""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from proxy.cli import doctor_cluster
from proxy.cli.client import AdminClient, Away, Refused
from proxy.cli.doctor_local import version
from proxy.cli.findings import Finding, fail, ok, warn
from proxy.cli.server import Target

ANSWERS: Final = "server"

_TIMEOUT_S: Final = 10.0
_CLOCK_S: Final = 2.0

_LOOK: Final = "look at the log of `llm-optimizer serve`"
_KEY_IN_FILE: Final = "write the file, then: llm-optimizer config reload"
_KEY_IN_ENVIRONMENT: Final = "set it where the server is started, and restart it"
_FIXES: Final[Mapping[str, str]] = {
    "workers": "look at the log of `llm-optimizer serve`: no worker has reported for some seconds",
    "optimizer": "look at the log of `llm-optimizer serve`: a task of the optimizer has died",
    "learning": "give the optimizer more CPU; it is behind the log",
    "event_log": "free disk space; events were lost",
    "breakers": "an upstream fails: llm-optimizer doctor -o json names it, its status page says more",
    "limits": "free disk space; the use of limits can't be stored",
    "configuration": "llm-optimizer config reload says what is wrong with the file",
    "kafka": "start the brokers, or correct kafka.brokers or kafka.security; events wait on the disk",
    "tracing": "start the collector, or correct tracing.otlp_endpoint or tracing.headers; requests are in the log",
    "database": "start the database, or correct database.url; until then nothing is deployed or promoted",
    "guards": "look at the log of `llm-optimizer serve`; until it is healthy, candidates get no traffic",
    "redis": "start Redis, or correct redis.url; nodes keep their last tables, and no stage advances",
    "postgresql": "start the database, or correct database.url; shards that change hands wait for it",
    "ownership": "llm-optimizer cluster says which shards wait and why",
    "state_directory": "mount a volume and name it with --state-dir",
    "webhooks": "look at the receiver; deliveries are tried again for a day",
}


def server(target: Target, *, running: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Ask the server for its health.

    Args:
        target: Where it is.
        running: Its living processes, where they can be seen.
    """
    try:
        client = target.connect(_TIMEOUT_S)
        health = client.get("/health/detailed")
    except Away as away:
        yield from _silent(away, running)
        return
    except Refused as refused:
        yield fail(
            ANSWERS, refused.message.split("\n", 1)[0], "name the address with --url, the key with --key-file"
        )
        return
    if not isinstance(health, dict) or "components" not in health:
        yield fail(ANSWERS, f"{client.where} is no llm-optimizer", "correct --url")
        return
    yield ok(ANSWERS, f"{client.where} answers: {health['status']}")
    yield from _components(health)
    if "version" not in health:
        yield warn(
            "access", "only states are shown without the admin key", "--key-file, or LLM_OPTIMIZER_ADMIN_KEY"
        )
        return
    yield from _processes(health, running)
    yield from _secrets(health)
    yield from _versions(health)
    yield from _time(health)
    yield from _waiting(client)
    yield from _constraints(client)
    yield from _judges(client)
    yield from doctor_cluster.cluster(client)


def _silent(away: Away, running: Mapping[str, Any] | None) -> Iterator[Finding]:
    if not running or not any(running.values()):
        start = "llm-optimizer serve --config config.yaml"
        message = "is not running" if running is not None else away.message.split("\n", 1)[0]
        yield fail(ANSWERS, message, start if running is not None else "start it, or correct --url")
    elif running["supervisor"]:
        yield fail(
            ANSWERS,
            "the optimizer does not answer; workers serve on with the last table",
            "look at the log of `llm-optimizer serve`; it is started again by itself",
        )
    else:
        pids = " ".join(str(pid) for found in running.values() for pid in found)
        yield fail(
            ANSWERS, f"the supervisor is gone, but processes are left: {pids}", "start `llm-optimizer serve`"
        )


def _components(health: Mapping[str, Any]) -> Iterator[Finding]:
    for name, state in health["components"].items():
        if state in ("healthy", "off"):
            yield ok(name, str(state))
        else:
            facts = (health.get("engines") or {}).get(name) or health.get(name)
            told = facts if isinstance(facts, Mapping) else {}
            error = told.get("error") or "; ".join(told.get("problems", ()))
            message = f"{state}: {error}" if error else str(state)
            yield warn(name, message, _FIXES.get(name, _LOOK))


def _processes(health: Mapping[str, Any], running: Mapping[str, Any] | None) -> Iterator[Finding]:
    reporting = len(health.get("workers") or ())
    living = len(running["workers"]) if running else reporting
    if reporting < living:
        yield warn(
            "processes",
            f"{reporting} of {living} workers report",
            "look again in some seconds, then at the log",
        )
    else:
        yield ok("processes", f"optimizer and {reporting} workers answer")


def _secrets(health: Mapping[str, Any]) -> Iterator[Finding]:
    notes = health["configuration"].get("notes", ())
    unset = [note for note in notes if " is not set" in note]
    for note in unset:
        yield warn("secrets", note, _KEY_IN_FILE if " file:" in note else _KEY_IN_ENVIRONMENT)
    if not unset:
        yield ok("secrets", "every key that the configuration names is set")


def _versions(health: Mapping[str, Any]) -> Iterator[Finding]:
    mine, theirs = version(), health["version"]
    if mine is not None and theirs != mine:
        yield warn(
            "version", f"the server runs {theirs}, this command is {mine}", "restart the server, or upgrade"
        )
    else:
        yield ok("version", f"{theirs}")


def _time(health: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        told = datetime.fromisoformat(str(health["timestamp"])).timestamp()
    except (KeyError, ValueError):
        return
    apart = time.time() - told
    if abs(apart) > _CLOCK_S:
        yield warn(
            "clock", f"the server's clock is {abs(apart):.0f} s away from this one", "synchronise both clocks"
        )


def _waiting(client: AdminClient) -> Iterator[Finding]:
    try:
        answer = client.get("/api/v1/optimize?status=running,paused&limit=200")
    except Refused as refused:
        yield warn("optimizations", refused.message.split("\n", 1)[0], "upgrade the server to this version")
        return
    rows = answer["optimizations"]
    for row in rows:
        if row["status"] == "paused":
            yield warn(
                "optimizations",
                f"{row['id']} ({row['name']}) is paused: {row.get('reason') or 'manual'}",
                f"llm-optimizer optimize status {row['id']}",
            )
    if not any(row["status"] == "paused" for row in rows):
        yield ok("optimizations", f"{len(rows)} rolling out, none waits for a person")


def _constraints(client: AdminClient) -> Iterator[Finding]:
    """Constraints that can not be kept together: nothing is broken, but a person has to choose."""
    try:
        steering = client.get("/api/v1/arms").get("steering", {})
    except Refused:
        return  # said of the optimizations already
    rows = [(route, kept) for route, found in steering.items() for kept in found["kept"]]
    lost = [(route, kept) for route, kept in rows if not kept["feasible"]]
    for route, kept in lost:
        yield warn(
            "constraints",
            f"route {route} can not keep {kept['name']}: {kept['target']:.4g} is asked, "
            f"{kept['expected']:.4g} is the nearest",
            f"loosen one of them, or add an arm; llm-optimizer arms --route {route}",
        )
    if rows and not lost:
        yield ok("constraints", f"{len(rows)} can be kept")


def _judges(client: AdminClient) -> Iterator[Finding]:
    """Judges that do not answer: requests go on as before, but their routes learn nothing about quality."""
    try:
        judges = client.get("/api/v1/judges").get("judges", [])
    except Refused:
        return  # said of the optimizations already
    mute = [judge for judge in judges if not judge["answers"]]
    for judge in mute:
        yield warn(
            "judges",
            f"{judge['name']} of route {judge['route']} does not answer ({judge['problem']}); its route learns no "
            "quality meanwhile",
            f"look at the model {judge['model']} and its upstream, or take `judge` out of the route",
        )
    if judges and not mute:
        yield ok("judges", f"{len(judges)} answer")
