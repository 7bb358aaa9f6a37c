"""The command line: help that loads nothing, commands against a real optimizer process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main, platform_refusal

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
upstreams: {sim: {base_url: "http://127.0.0.1:9/v1", api_key: planted-secret-3}}
models:
  small: {upstream: sim, model: small, price: {input: 1, output: 4}}
  large: {upstream: sim, model: large, price: {input: 10, output: 40}}
routes:
  chat: {match: ["gpt-*"], arms: [small, large], baseline: large}
"""


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin)


def test_help_teaches_and_imports_nothing_of_the_product() -> None:
    """Every command with a line, examples, and no module of it loaded."""
    program = (
        "import sys\nfrom proxy.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith(('proxy.', 'optimizer'))))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    for name in main.list_commands(None):
        assert f"\n  {name} " in done.stdout
    assert "Start here" in done.stdout
    assert done.stdout.splitlines()[-1] == "['proxy.cli']"


@pytest.mark.parametrize("name", main.list_commands(None))
def test_every_command_explains_itself(name: str) -> None:
    """The table of commands points to commands that exist."""
    result = run(name, "--help")

    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    """Not just refused."""
    result = run("chek-config")

    assert result.exit_code == 2
    assert "check-config" in result.output


def test_windows_is_pointed_to_wsl() -> None:
    """The refusal says where it does run."""
    assert "WSL 2" in platform_refusal("win32")
    assert platform_refusal("linux") == platform_refusal("darwin") == ""


def test_version() -> None:
    """Product, interpreter, system."""
    assert "llm-optimizer" in run("version").output


def test_check_config_accepts_and_shows_the_meaning(tmp_path: Path) -> None:
    """Exit 0; --effective prints YAML on stdout without secrets."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)

    accepted = run("check-config", str(path))
    effective = run("check-config", str(path), "--effective")

    assert (accepted.exit_code, effective.exit_code) == (0, 0)
    assert "valid" in accepted.output
    assert "planted-secret-3" not in effective.output
    assert "baseline: large" in effective.stdout


def test_check_config_lists_every_problem_with_its_path(tmp_path: Path) -> None:
    """Exit 1 and all of it at once."""
    path = tmp_path / "config.yaml"
    path.write_text("servr: {}\n" + CONFIG.replace("baseline: large", "baseline: nope"))

    result = run("check-config", str(path))

    assert result.exit_code == 1
    assert "servr" in result.output
    assert "routes.chat.baseline" in result.output


def test_routes_and_arms_are_shown_as_tables_and_as_json(optimizer: Path) -> None:
    """Percentages for people, the API's answer for programs."""
    table = run("routes", "--state-dir", str(optimizer))
    document = run("routes", "--json", "--state-dir", str(optimizer))
    arms = run("arms", "--route", "chat", "--state-dir", str(optimizer))

    assert table.exit_code == 0, table.output
    assert "chat  (thompson, matches gpt-*)" in table.output
    assert "50.0 %" in table.output
    assert json.loads(document.output)["routes"][0]["name"] == "chat"
    assert "large" in arms.output


def test_config_export_reload_validate(optimizer: Path, tmp_path: Path) -> None:
    """The operator's loop on a running server."""
    exported = run("config", "export", "--state-dir", str(optimizer))
    reloaded = run("config", "reload", "--state-dir", str(optimizer))
    good = run("config", "validate", "-", "--state-dir", str(optimizer), stdin=exported.output)
    bad = run("config", "validate", "-", "--state-dir", str(optimizer), stdin="servr: {}\n")

    assert "planted-secret-3" not in exported.output
    assert reloaded.output.startswith("unchanged: configuration ")
    assert good.exit_code == 0, good.output
    assert "valid: configuration" in good.output
    assert bad.exit_code == 1
    assert "servr" in bad.output


def test_a_refused_reload_lists_the_problems(optimizer: Path) -> None:
    """Exit 1 with paths; afterwards the good file is accepted again."""
    path = optimizer.parent / "config.yaml"
    path.write_text(CONFIG.replace("baseline: large", "baseline: nope"))
    refused = run("config", "reload", "--state-dir", str(optimizer))
    path.write_text(CONFIG)
    accepted = run("config", "reload", "--state-dir", str(optimizer))

    assert refused.exit_code == 1
    assert "routes.chat.baseline" in refused.output
    assert accepted.exit_code == 0


def test_configured_keys_do_not_lock_the_operator_out(optimizer: Path) -> None:
    """Where no key is in the state directory, the commands are local requests; require_key ends that."""
    path = optimizer.parent / "config.yaml"
    key = optimizer / "secrets" / "admin.key"
    hidden = key.rename(key.with_suffix(".hidden"))
    try:
        assert run("routes", "--state-dir", str(optimizer)).exit_code == 0
        path.write_text(CONFIG + "admin: {require_key: true, key: operator-key-1}\n")
        assert run("config", "reload", "--state-dir", str(optimizer)).exit_code == 0
        refused = run("routes", "--state-dir", str(optimizer))
        mine = optimizer.parent / "mine.key"
        mine.write_text("operator-key-1\n")
        accepted = run("routes", "--state-dir", str(optimizer), "--key-file", str(mine))
    finally:
        hidden.rename(key)
        path.write_text(CONFIG)
        mine = optimizer.parent / "mine.key"
        mine.write_text("operator-key-1\n")
        run("config", "reload", "--state-dir", str(optimizer), "--key-file", str(mine))

    assert refused.exit_code == 1
    assert "A key is required" in refused.output
    assert accepted.exit_code == 0


def test_errors_say_what_to_do(optimizer: Path, tmp_path: Path) -> None:
    """No server, no decision, no key file, no URL."""
    away = run("routes", "--state-dir", str(tmp_path / "nothing"))
    unknown = run("explain", "req_00", "--state-dir", str(optimizer))
    no_key = run("routes", "--key-file", str(tmp_path / "none"))
    no_url = run("routes", "--url", "localhost:8080")

    assert "Is `llm-optimizer serve` running?" in away.output
    assert "No decision with this id" in unknown.output
    assert "can't be read" in no_key.output
    assert "is not a URL" in no_url.output
    assert {result.exit_code for result in (away, unknown, no_key, no_url)} == {1}
