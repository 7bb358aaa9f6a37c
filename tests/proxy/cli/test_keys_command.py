"""``llm-optimizer keys`` against a real optimizer process."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optimizer.keys import well_formed
from proxy.cli import main
from proxy.cli.options import seconds_of

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
upstreams: {sim: {base_url: "http://127.0.0.1:9/v1"}}
models:
  small: {upstream: sim, model: small, price: {input: 1, output: 4}}
routes:
  chat: {arms: [small]}
access: {client_keys: true}
"""


@pytest.fixture
def run(optimizer: Path) -> Callable[..., Result]:
    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["keys", *arguments, "--state-dir", str(optimizer)])

    return invoke


def test_create_hands_the_key_alone_to_a_pipe(run) -> None:
    """Nothing else on stdout, so that KEY=$(...) works."""
    result = run("create", "ci")

    assert result.exit_code == 0, result.output
    assert well_formed(result.stdout.removesuffix("\n"))
    assert result.stderr == ""


def test_create_says_more_on_a_terminal(optimizer) -> None:
    """The key on a line of its own, what it may do, and that it is not shown again."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "proxy.cli", "keys", "create", "person", "--usd-per-day", "2.5", "--pin"]
    process = subprocess.Popen(
        [*command, "--state-dir", str(optimizer)], stdout=follower, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    os.close(follower)
    assert process.wait(20) == 0
    text = os.read(leader, 10_000).decode()
    os.close(leader)

    assert any(well_formed(line.strip()) for line in text.splitlines())
    assert "every route; pin" in text
    assert "2.5 USD/day" in text
    assert "not shown again" in text


def test_options_become_scopes_and_limits(run) -> None:
    """As the API names them."""
    result = run(
        "create", "batch", "--route", "chat", "--route", "b*", "--model", "sm*", "--passthrough", "--expires-in",
        "90d", "--requests-per-minute", "5", "--tokens-per-minute", "100", "--usd-per-month", "7", "--json",
    )  # fmt: skip

    made = json.loads(result.stdout)
    assert (made["routes"], made["models"]) == (["chat", "b*"], ["sm*"])
    assert (made["pin"], made["passthrough"]) == (False, True)
    assert made["expires_at"] - made["created_at"] == pytest.approx(90 * 86400, abs=5)
    assert made["quota"] == {"requests_per_minute": 5, "tokens_per_minute": 100, "usd_per_month": 7.0}
    assert "'b*' matches no route" in result.output
    assert json.loads(run("create", "none", "--no-routes", "--json").stdout)["routes"] == []


def test_notes_go_to_stderr(run) -> None:
    """Beside a key that is captured."""
    result = run("create", "odd", "--route", "chta")

    assert well_formed(result.stdout.strip())
    assert "Did you mean 'chat'?" in result.stderr


def test_list_shows_what_works_and_revoke_ends_it(run) -> None:
    """Ended keys only when asked for; revoking twice does no harm."""
    made = json.loads(run("create", "[bold]web[/bold]", "--json").stdout)
    assert made["id"] in run("list").output
    assert "[bold]web[/bold]" in run("list").output

    first, again = run("revoke", made["id"]), run("revoke", made["id"])

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "revoked" in first.output
    assert made["id"] not in run("list").output
    assert "that ended" in run("list").output
    shown = run("list", "--all").output
    assert re.search(rf"{made['id']} .*{re.escape(made['key'][-4:])} .*revoked", shown)
    assert made["key"] not in shown
    states = {key["id"]: key["state"] for key in json.loads(run("list", "--json").stdout)["keys"]}
    assert states[made["id"]] == "revoked"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create",), "NAME"),
        (("create", "x", "--expires-in", "soon"), "no duration"),
        (("create", "x", "--route", "a", "--no-routes"), "exclude"),
        (("create", "x", "--usd-per-day", "0"), "usd-per-day"),
        (("create", ""), "name: must be printable text"),
        (("revoke", "key_nope"), "no client key with this id"),
        (("revoke", "../routes"), "no client key with this id"),
    ],
)
def test_mistakes_are_answered_with_what_is_wrong(run, arguments, words) -> None:
    """Not zero, and a sentence."""
    result = run(*arguments)

    assert result.exit_code != 0
    assert words in result.output


def test_without_a_server_it_says_so(tmp_path) -> None:
    """No traceback."""
    result = CliRunner().invoke(main, ["keys", "list", "--state-dir", str(tmp_path)])

    assert result.exit_code == 1
    assert "llm-optimizer serve" in result.output


def test_help_teaches() -> None:
    """How to switch keys on, and how an application sends one."""
    text = " ".join(CliRunner().invoke(main, ["keys", "--help"]).output.split())

    assert "client_keys: true" in text
    assert "api_key of an OpenAI client" in text
    assert "llm-optimizer keys create" in text


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("12H", 43200), ("1.5d", 129600), ("2w", 1209600)]
)
def test_durations(text, seconds) -> None:
    """One unit each."""
    assert seconds_of(text) == seconds
