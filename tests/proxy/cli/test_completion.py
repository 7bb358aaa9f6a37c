"""Shell completion: what a real bash completes, and what it loads to do so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from tests.proxy.cli.conftest import BASE, optimization

ROOT = Path(__file__).resolve().parents[3]

PRESS_TAB = """
eval "$(llm-optimizer completion bash)"
complete -p llm-optimizer > /dev/null || exit 9
COMP_WORDS=({words})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_llm_optimizer_completion llm-optimizer
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def program(tmp_path) -> Path:
    """A directory with the command as an installation would have it on the PATH."""
    path = tmp_path / "bin" / "llm-optimizer"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from proxy.cli import main\nmain(prog_name='llm-optimizer')\n"
    )
    path.chmod(0o755)
    return path.parent


def press_tab(program: Path, words: str, **environment: str) -> list[str]:
    """What bash would offer after these words; the last one is being typed."""
    done = subprocess.run(
        ["bash", "--norc", "-c", PRESS_TAB.format(words=words)],
        env={"PATH": f"{program}:{os.environ['PATH']}", "HOME": str(program), **environment},
        cwd=program,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("llm-optimizer op", ["optimize"]),
        ("llm-optimizer optimize de", ["deploy", "delete"]),
        ("llm-optimizer optimize create --strategy co", ["cost_reduction"]),
        ("llm-optimizer optimize list --status pa", ["paused"]),
        ("llm-optimizer audit --ac", ["--actor", "--action"]),
        ("llm-optimizer completion ''", ["bash", "zsh", "fish"]),
        ("llm-optimizer nonsense de", ["demo"]),
    ],
)
def test_bash_completes_for_real(program, words, offered) -> None:
    """The script that is printed, in a bash, with a Tab."""
    assert press_tab(program, words) == offered


def test_ids_and_routes_come_from_the_running_server(program, script) -> None:
    """Found by the environment, as the command itself would."""
    script.on("GET", BASE, {"optimizations": [optimization(), optimization(id="other")], "total": 2})
    script.on("GET", "/api/v1/routes", {"routes": [{"name": "chat"}, {"name": "batch"}]})
    environment = {"LLM_OPTIMIZER_URL": script.url, "LLM_OPTIMIZER_ADMIN_KEY": "k"}

    assert press_tab(program, "llm-optimizer optimize rollback op", **environment) == ["opt_1"]
    assert press_tab(program, "llm-optimizer optimize create --route c", **environment) == ["chat"]
    assert script.asked[0].headers["authorization"] == "Bearer k"
    assert press_tab(program, f"llm-optimizer arms --url {script.url} --route b") == ["batch"]


def test_a_server_that_is_away_completes_nothing(program) -> None:
    """And prints nothing between the words."""
    assert press_tab(program, "llm-optimizer optimize status ''") == []


@pytest.mark.parametrize(
    ("shell", "words"), [("zsh", "#compdef llm-optimizer"), ("fish", "complete --no-files")]
)
def test_other_shells_get_their_own_script(shell, words) -> None:
    """As click writes them."""
    assert words in CliRunner().invoke(main, ["completion", shell]).output


def test_completing_a_command_loads_none_of_them() -> None:
    """A Tab must not take as long as a command."""
    program = (
        "import os, sys\nos.environ.update(COMP_WORDS='llm-optimizer ', COMP_CWORD='1',"
        " _LLM_OPTIMIZER_COMPLETE='bash_complete')\nfrom proxy.cli import main\n"
        "try:\n    main(prog_name='llm-optimizer')\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith(('proxy.', 'optimizer'))))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert "plain,optimize" in done.stdout
    assert done.stdout.splitlines()[-1] == "['proxy.cli']"
