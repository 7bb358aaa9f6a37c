"""What the README and the docs say exists: commands, targets, files, configurations, paths."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.config.load import load_text
from proxy.control.admin.registry import ENDPOINTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text() for page in PAGES}


def _blocks(language: str) -> list[str]:
    return [
        block for text in TEXTS.values() for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    ]


def test_every_make_target_exists() -> None:
    """`make X` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for text in TEXTS.values() for name in re.findall(r"`?make ([a-z-]+)", "\n".join(_code(text)))
    }

    assert named
    assert named <= targets


def _code(text: str) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL) + re.findall(r"`(make [^`]+)`", text)


def test_every_command_exists() -> None:
    """`llm-optimizer X` in a page is a command, and --help works for it."""
    named = {
        name for text in TEXTS.values() for name in re.findall(r"llm-optimizer ([a-z-]+)(?= |`|$)", text)
    }

    assert "serve" in named
    for name in sorted(named):
        shown = CliRunner().invoke(main, [name, "--help"])
        assert shown.exit_code == 0, name


@pytest.mark.parametrize("block", _blocks("yaml"))
def test_every_configuration_loads(block: str) -> None:
    """A YAML block is a whole, valid configuration."""
    load_text(block, {"OPENAI_API_KEY": "sk-test"})


def test_every_file_that_is_named_exists() -> None:
    """Paths in backticks that look like ours are there."""
    named = {
        name
        for text in TEXTS.values()
        for name in re.findall(
            r"`((?:docs|proxy|optimizer|policies|tests|loadtests|deploy|requirements)/[\w./-]+)`", text
        )
    }
    missing = [name for name in sorted(named) if not (ROOT / name).exists()]

    assert missing == []


def test_every_admin_path_exists() -> None:
    """Admin paths in the README are routes of the optimizer process."""
    served = {re.sub(r"\{[^}]*\}", "{}", route.path) for route in ENDPOINTS}
    named = set(re.findall(r"`(/api/v1/[\w/{},-]+)`", TEXTS["README.md"]))

    for path in named:
        for variant in _expanded(path):
            assert re.sub(r"\{[^}]*\}", "{}", variant) in served, variant


def _expanded(path: str) -> list[str]:
    """`/a/{x,y}` stands for two paths; `{id}` for a parameter."""
    match = re.search(r"\{(\w+(?:,\w+)+)\}", path)
    return [path] if match is None else [path.replace(match[0], word) for word in match[1].split(",")]
