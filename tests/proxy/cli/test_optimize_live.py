"""The optimization commands against a real optimizer process, with the user guide's lines as they are written."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optimizer.rollouts.records import Status
from optimizer.strategies.registry import STRATEGIES
from proxy.cli import main
from proxy.cli import optimize as commands

CONFIG = """
upstreams: {sim: {base_url: "http://127.0.0.1:9/v1", auth: none}}
models:
  small: {upstream: sim, model: small, price: {input: 1, output: 4}}
  large: {upstream: sim, model: large, price: {input: 10, output: 40}}
routes:
  chat: {arms: [small, large], baseline: large, policy: {type: fixed}}
"""
MANUAL = ("--strategy", "manual", "-p", 'arms=["small"]', "-p", "baseline=small")


@pytest.fixture
def run(optimizer: Path) -> Callable[..., Result]:
    """A command, and that it succeeds unless another exit status is expected."""

    def invoke(*arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(main, [*arguments, "--state-dir", str(optimizer)])
        assert result.exit_code == status, result.output
        return result

    return invoke


@pytest.fixture
def manual(run) -> Iterator[str]:
    """The id of a proposal; taken back in the end."""
    made = json.loads(run("optimize", "create", "--name", "by hand", *MANUAL, "-o", "json").stdout)
    yield made["id"]
    row = json.loads(run("optimize", "status", made["id"], "--json").stdout)
    if "rollback" in row["verbs"]:
        run("optimize", "rollback", made["id"])


def test_the_names_that_help_and_completion_know_are_those_of_the_product() -> None:
    """They are written down again so that help loads nothing."""
    assert set(commands.STRATEGIES) == set(STRATEGIES)
    assert set(commands.STATUSES) == set(Status)


def test_the_user_guides_lines_work_as_written(run) -> None:
    """Create, list, status, deploy, rollback; without data there is no proposal yet, and every line says so."""
    guide = """
    llm-optimizer optimize create \\
      --name "Cost Optimization" \\
      --strategy cost_reduction
    llm-optimizer optimize list
    llm-optimizer optimize status {id}
    llm-optimizer optimize deploy {id}
    llm-optimizer optimize rollback {id}
    """
    outputs, made = [], ""
    for line in guide.replace("\\\n", " ").strip().splitlines():
        outputs.append(run(*shlex.split(line.replace("{id}", made))[1:]).output)
        made = made or outputs[0].split()[0]

    created, listed, shown, deployed, rolled_back = outputs
    assert "collecting (not_enough_data)" in created
    assert "Worst case: 1 % of the requests" in created
    assert made in listed
    assert "Cost Optimization" in shown
    assert "deploys as soon as there is a proposal" in deployed
    assert f"{made} rolled_back" in rolled_back


def test_a_rollout_through_its_verbs(run, manual) -> None:
    """Every verb once, with the routes and the audit beside it."""
    deployed = run(
        "optimize", "deploy", manual, "--stages", "1:300,50:600,100", "--reason", "first try"
    ).output
    routes = run("routes").output
    paused = run("optimize", "pause", manual, "--reason", "lunch").output
    waiting = run("optimize", "status", manual, "--watch", status=5).output
    resumed = run("optimize", "resume", manual).output
    promoted = run("optimize", "promote", manual).output
    late = run("optimize", "status", manual, "--watch", "--timeout", "0", status=6).output
    aborted = run("optimize", "abort", manual).output
    ended = run("optimize", "status", manual, "--watch", status=4).output
    retried = run("optimize", "retry", manual).output
    run("optimize", "promote", manual, "--full")
    watched = run("optimize", "status", manual, "--watch").output
    changed = run("routes").output
    back = run("optimize", "rollback", manual, "--reason", "enough").output
    run("optimize", "status", manual, "--watch", status=3)
    audited = run("audit", "--target", manual, "--limit", "500").output
    run("optimize", "delete", manual)
    run("optimize", "status", manual, "--watch", status=7)

    assert "running, stage 1 of 3, 1 % of chat" in deployed
    assert f"rollout of {manual} (by hand) running, stage 1 of 3" in routes
    assert routes.index("control: 99 %") < routes.index("candidate: 1 %")
    assert "paused" in paused
    assert f"llm-optimizer optimize resume {manual}" in waiting
    assert "stage 1 of 3" in resumed
    assert "stage 2 of 3, 50 % of chat" in promoted
    assert "it goes on" in late
    assert "aborted" in aborted
    assert "aborted" in ended
    assert "stage 1 of 3" in retried
    assert "deployed, 100 % of chat" in watched
    assert f"changed by {manual} (by hand, manual)" in changed
    assert "rolled_back" in back
    for action in ("create", "deploy", "pause", "resume", "promote", "abort", "retry", "rollback"):
        assert f"optimization.{action}" in audited
    assert manual not in run("optimize", "list").output
    assert manual in run("optimize", "list", "--status", "deleted").output


def test_a_second_rollout_on_the_route_is_a_conflict_that_names_the_first(run, manual) -> None:
    """One clear line, exit status 1."""
    run("optimize", "deploy", manual)
    made = json.loads(
        run(
            "optimize", "create", "--name", "second", "--strategy", "manual", "-p", 'arms=["large"]', "--json"
        ).stdout
    )

    refused = run("optimize", "deploy", made["id"], status=1)

    assert refused.output.startswith("Error: ")
    assert manual in refused.output
    assert len(refused.output.splitlines()) == 1


def test_mistakes_are_answered_with_every_problem(run) -> None:
    """From the server, with the field."""
    result = run("optimize", "create", "--name", "x", "--strategy", "cost_reductoin", status=1)

    assert "strategy" in result.output
    assert "cost_reduction" in result.output
    assert run("optimize", "status", "opt_nothing", status=1).output.startswith("Error: ")
    assert run("optimize", "pause", "opt_nothing", status=1).output.startswith("Error: ")


def test_an_edit_of_the_file_ends_what_it_contradicts_and_reload_names_it(run, manual, optimizer) -> None:
    """The file wins."""
    run("optimize", "deploy", manual, "--no-canary")
    exported = run("config", "export").output
    path = optimizer.parent / "config.yaml"
    path.write_text(CONFIG.replace("arms: [small, large]", "arms: [large]"))
    try:
        reloaded = run("config", "reload").output
        watched = run("optimize", "status", manual, "--watch", status=7).output
    finally:
        path.write_text(CONFIG)
        run("config", "reload")

    assert "baseline: small" in exported
    # The file may have been noticed before it was asked for.
    assert f"superseded by the file: {manual}" in reloaded or reloaded.startswith("unchanged")
    assert "superseded" in watched


def test_the_doctor_finds_nothing_wrong_but_the_missing_workers(run) -> None:
    """A real answer of /health/detailed: every component has a line."""
    report = json.loads(run("doctor", "-o", "json").stdout)

    states = {row["check"]: row["state"] for row in report["checks"]}
    assert report["healthy"]
    assert states["database"] == states["optimizer"] == states["state"] == states["version"] == "ok"
    assert states["workers"] == "warn"
