"""``llm-optimizer doctor``: what it finds with and without a server, and that every finding has a fix."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizer.log.node import StateDirectory
from proxy.cli.findings import FAIL
from tests.proxy.cli.conftest import BASE, optimization

CONFIG = """
upstreams: {sim: {base_url: "http://127.0.0.1:9/v1", api_key: "env:SIM_KEY"}}
models:
  small: {upstream: sim, model: small, price: {input: 1, output: 4}}
routes:
  chat: {arms: [small]}
"""
HEALTH: dict[str, Any] = {
    "status": "healthy",
    "components": {"optimizer": "healthy", "workers": "healthy", "kafka": "off"},
    "version": "0.0.1",
    "configuration": {"hash": "abc", "last_reload_successful": True, "notes": []},
    "workers": {"1": {}, "2": {}},
}
NONE_PAUSED = {"optimizations": [], "total": 0, "limit": 200, "offset": 0}


@pytest.fixture
def state(tmp_path) -> Path:
    """A state directory as ``serve`` leaves it, without a server."""
    return StateDirectory(tmp_path / "state").path


def health(**changes: Any) -> dict[str, Any]:
    """An answer of /health/detailed, now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {**HEALTH, "timestamp": now, **changes}


@pytest.fixture
def examine(ask):
    """Run the doctor; the findings by check."""

    def run(*arguments: str, **environment: str) -> tuple[int, dict[str, list[tuple[str, str, str]]]]:
        result = ask(
            "doctor", *arguments, "-o", "json", env={"LLM_OPTIMIZER__STATE_DIR": None, **environment}
        )
        report = json.loads(result.stdout)
        found: dict[str, list[tuple[str, str, str]]] = {}
        for row in report["checks"]:
            assert row["fix"] or row["state"] == "ok", row
            found.setdefault(row["check"], []).append((row["state"], row["message"], row["fix"]))
        assert report["healthy"] == (result.exit_code == 0)
        return result.exit_code, found

    return run


def test_without_a_server_it_says_so_and_checks_the_disk(examine, state, tmp_path) -> None:
    """State, disk, configuration, clock, database files; one thing is broken: nothing runs."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    with sqlite3.connect(state / "learner.sqlite3") as database:
        database.execute("CREATE TABLE t (x)")
    database.close()

    code, found = examine("--state-dir", str(state), "--config", str(config), SIM_KEY="k")

    assert code == 1
    assert {check for check, rows in found.items() if rows[0][0] == FAIL} == {"server"}
    assert found["server"][0][1:] == ("is not running", "llm-optimizer serve --config config.yaml")
    assert found["state"][0][0] == found["disk"][0][0] == found["clock"][0][0] == "ok"
    assert found["configuration"][0][1].endswith("is valid; routes: chat")
    assert found["secrets"] == [("ok", "1 asked for, all set", "")]
    assert found["database"] == [("ok", "learner.sqlite3 is whole", "")]


def test_a_secret_that_is_not_set_is_named(examine, state, tmp_path) -> None:
    """With the variable to set."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)

    _, found = examine("--state-dir", str(state), "--config", str(config))

    assert found["secrets"] == [
        ("warn", "upstream sim: env:SIM_KEY is not set", "set SIM_KEY where the server starts")
    ]


def test_a_broken_file_is_pointed_to_check_config(examine, state, tmp_path) -> None:
    """The first problem, the number of others."""
    config = tmp_path / "config.yaml"
    config.write_text("servr: {}\nroutse: {}\n")

    _, found = examine("--state-dir", str(state), "--config", str(config))

    [(word, message, fix)] = found["configuration"]
    assert (word, fix) == (FAIL, f"llm-optimizer check-config {config}")
    assert "servr" in message
    assert "(and 1 more)" in message


def test_what_was_served_last_is_checked_when_no_file_is_named(examine, state) -> None:
    """From the kept versions."""
    (state / "config" / "history" / "00000001-abc.yaml").write_text(CONFIG)

    _, found = examine("--state-dir", str(state), SIM_KEY="k")

    assert found["configuration"] == [("ok", "what was served last is valid; routes: chat", "")]


def test_servers_that_the_configuration_names_are_tried(examine, state, tmp_path) -> None:
    """A connection each; what does not answer is broken."""
    config = tmp_path / "config.yaml"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        free = socket.create_server(("127.0.0.1", 0))
        closed = free.getsockname()[1]
        free.close()
        config.write_text(
            CONFIG
            + f"kafka: {{brokers: ['127.0.0.1:{port}', '127.0.0.1:{closed}']}}\n"
            + "database: {url: 'env:DB'}\n"
        )
        _, found = examine(
            "--state-dir",
            str(state),
            "--config",
            str(config),
            DB=f"postgresql://u:pw-canary@127.0.0.1:{closed}/x",
        )

    assert [row[0] for row in found["kafka"]] == ["ok", FAIL]
    assert found["database"][0][0] == FAIL
    assert f"127.0.0.1:{closed} does not answer" in found["database"][0][1]
    assert "pw-canary" not in json.dumps(found)


@pytest.mark.parametrize(
    ("damage", "check", "words"),
    [
        (lambda state: (state / "learner.sqlite3").write_bytes(b"x" * 5000), "database", "not a database"),
        (lambda state: (state / "secrets" / "id.key").chmod(0o644), "state", "others may read"),
        (lambda state: (state / "node.json").unlink(), "state", "was not made by llm-optimizer"),
        (lambda state: os.utime(state / "run" / "guard", (2**32, 2**32)), "clock", "in the future"),
    ],
)
def test_damage_is_found(examine, state, damage, check, words) -> None:
    """And named."""
    (state / "run" / "guard").touch()
    damage(state)

    _, found = examine("--state-dir", str(state))

    assert any(words in message for state, message, _ in found[check] if state != "ok"), found


def test_nothing_is_made_where_nothing_is(examine, tmp_path) -> None:
    """A doctor does not leave a state directory behind."""
    code, found = examine("--state-dir", str(tmp_path / "typo"))

    assert code == 1
    assert found["state"][0][0] == FAIL
    assert not (tmp_path / "typo").exists()


def test_a_healthy_server_leaves_nothing_to_do(examine, script) -> None:
    """Exit status 0; nothing of this machine is looked at."""
    script.on("GET", "/health/detailed", health())
    script.on("GET", BASE, NONE_PAUSED)

    code, found = examine()

    assert code == 0
    assert {row[0] for check, rows in found.items() if check != "version" for row in rows} == {"ok"}
    assert found["processes"][0][1] == "optimizer and 2 workers answer"
    assert "state" not in found
    assert "configuration" not in found


def test_what_a_server_complains_about_is_passed_on_with_a_fix(examine, script) -> None:
    """Components, keys, versions, clocks, rollouts that wait."""
    script.on(
        "GET",
        "/health/detailed",
        health(
            components={"kafka": "degraded", "database": "degraded", "novelty": "degraded"},
            configuration={
                "notes": ["upstreams.x: its key env:X is not set; until it is, its arms are unavailable."]
            },
            timestamp="2020-01-01T00:00:00.000Z",
        ),
    )
    waits = optimization("paused", reason="approval")
    script.on("GET", BASE, {**NONE_PAUSED, "optimizations": [waits, optimization("running")]})

    code, found = examine()

    assert code == 0
    for check in ("kafka", "database", "novelty", "secrets", "clock", "optimizations", "version"):
        assert found[check][0][0] == "warn", check
    assert found["optimizations"] == [
        ("warn", "opt_1 (Cost Optimization) is paused: approval", "llm-optimizer optimize status opt_1")
    ]


def test_a_refused_file_and_a_key_that_is_missing_are_told_in_the_servers_words(examine, script) -> None:
    """Problems of the file stand in the line itself; a key in a file needs no restart."""
    configuration = {
        "problems": ["line 3: servr: unknown key."],
        "notes": ["upstreams.sim: its key file:/run/sim is not set; until it is, its arms are unavailable."],
    }
    script.on(
        "GET",
        "/health/detailed",
        health(
            components={"configuration": "degraded"}, configuration=HEALTH["configuration"] | configuration
        ),
    )

    _, found = examine()

    ((state, message, _),) = found["configuration"]
    assert (state, message) == ("warn", "degraded: line 3: servr: unknown key.")
    assert "config reload" in found["secrets"][0][2]


@pytest.mark.parametrize(("feasible", "word"), [(True, "ok"), (False, "warn")])
def test_constraints_that_can_not_be_kept_wait_for_a_person(examine, script, feasible, word) -> None:
    """Nothing is broken, but somebody has to choose what to give up."""
    kept = {
        "name": "cost",
        "target": 0.001,
        "expected": 0.0014,
        "actual": None,
        "multiplier": 0.0,
        "feasible": feasible,
    }
    script.on("GET", "/health/detailed", health())
    script.on("GET", BASE, NONE_PAUSED)
    script.on("GET", "/api/v1/arms", {"arms": [], "steering": {"chat": {"kept": [kept], "gain": 0.0}}})

    code, found = examine()

    assert code == 0
    assert found["constraints"][0][0] == word
    assert ("0.0014 is the nearest" in found["constraints"][0][1]) is not feasible


@pytest.mark.parametrize(("problem", "word"), [(None, "ok"), ("http_404", "warn")])
def test_a_judge_that_does_not_answer_is_named(examine, script, problem, word) -> None:
    """No request fails for it, so nothing else would tell why a route stopped learning quality."""
    judge = {"route": "chat", "name": "tutor", "model": "gpt", "answers": problem is None, "problem": problem}
    script.on("GET", "/health/detailed", health())
    script.on("GET", BASE, NONE_PAUSED)
    script.on("GET", "/api/v1/judges", {"judges": [judge], "waiting": 0, "samples": {}})

    code, found = examine()

    assert code == 0
    assert found["judges"][0][0] == word
    assert ("tutor of route chat does not answer (http_404)" in found["judges"][0][1]) is (word == "warn")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            401,
            {"error": {"code": "UNAUTHORIZED", "message": "The key is not an admin key."}},
            "not an admin key",
        ),
        (200, {"hello": "world"}, "is no llm-optimizer"),
        (200, "<html>", "is it an llm-optimizer?"),
    ],
)
def test_a_server_that_is_no_help_is_broken(examine, script, status, body, words) -> None:
    """Wrong key, wrong address."""
    script.on("GET", "/health/detailed", body, status=status)

    code, found = examine()

    assert code == 1
    assert words in found["server"][0][1]


def test_without_the_key_only_states_are_shown(examine, script) -> None:
    """Said so."""
    script.on("GET", "/health/detailed", {"status": "healthy", "components": {}, "timestamp": "x"})

    assert examine()[1]["access"][0][0] == "warn"


def test_people_get_a_line_for_each(ask, script) -> None:
    """Word, what, fix; and a sum."""
    script.on("GET", "/health/detailed", health(components={"kafka": "degraded"}))
    script.on("GET", BASE, NONE_PAUSED)

    lines = ask("doctor", env={"LLM_OPTIMIZER__STATE_DIR": None}).output.splitlines()

    assert lines[0].startswith("ok    installation")
    assert any(line.startswith("warn  kafka") and " -> start the brokers" in line for line in lines)
    assert (
        lines[-1] == f"{len(lines) - 2} checks, {sum(line.startswith('warn') for line in lines)} to look at"
    )


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


@pytest.mark.parametrize("supervised", [True, False])
def test_an_optimizer_that_does_not_answer_while_processes_live(examine, state, child, supervised) -> None:
    """Serving goes on; or what was left over is named."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (state / "run" / "pids").write_text(
        json.dumps(
            {"supervisor": child.pid if supervised else gone.pid, "optimizer": None, "workers": [child.pid]}
        )
    )

    _, found = examine("--state-dir", str(state))

    words = "workers serve on" if supervised else f"processes are left: {child.pid}"
    assert words in found["server"][0][1]
