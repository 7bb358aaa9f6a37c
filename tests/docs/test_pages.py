"""What pages say is there, is there: links, configurations, commands, make targets, metrics, paths."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
import yaml

from proxy.cli import main
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems, describe_problems
from proxy.control.admin.reference import page as api_reference
from proxy.control.admin.registry import ENDPOINTS
from proxy.control.metrics.reference import example, name_of

from .conftest import ROOT, Block, Page

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_METRIC = re.compile(r"\bllm_optimizer_[a-z0-9_]+\b")
_API_PATH = re.compile(r"/api/v1/[A-Za-z0-9_{},./-]+")
_SUFFIXES = ("_bucket", "_sum", "_count")
# Keys of the environment that examples name.
_ENVIRONMENT = dict.fromkeys(
    (
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "MISTRAL_API_KEY",
        "GROQ_API_KEY",
        "AZURE_OPENAI_API_KEY",
        "GEMINI_API_KEY",
        "DEEPSEEK_API_KEY",
        "OPENROUTER_API_KEY",
        "TOGETHER_API_KEY",
    ),
    "x",
)


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    text = re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def test_every_link_leads_somewhere(pages: list[Page]) -> None:
    broken = []
    for page in pages:
        for target in _LINK.findall(page.prose):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, part = unquote(target).partition("#")
            file = (page.path.parent / name) if name else page.path
            if not file.exists():
                broken.append((page.name, target))
            elif part and file.suffix == ".md":
                text = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
                if part not in {anchor(heading) for heading in _HEADING.findall(text)}:
                    broken.append((page.name, target))
    assert not broken


def test_every_page_is_reached_from_the_readme(pages: list[Page]) -> None:
    """A page that nobody links or names is a page that nobody finds."""
    by_path = {page.path.resolve(): page for page in pages}
    waiting, found = [ROOT / "README.md"], set()
    while waiting:
        page = by_path.get(waiting.pop().resolve())
        if page is None or page.path in found:
            continue
        found.add(page.path)
        links = [
            page.path.parent / target.partition("#")[0]
            for target in _LINK.findall(page.text)
            if ":" not in target
        ]
        waiting += [link for link in links if link.suffix == ".md"]
        waiting += [
            ROOT / name
            for name in re.findall(r"\b(?:docs|loadtests)/[\w/-]+\.md\b|\b[A-Z]+\.md\b", page.text)
        ]
    assert {page.name for page in pages} - {str(path.relative_to(ROOT)) for path in found} == set()


def configurations(blocks: list[Block]) -> Iterator[Block]:
    """Blocks of YAML that are no manifest of something else."""
    for block in blocks:
        if block.language == "yaml" and not re.search(
            r"^(apiVersion|services|receivers|groups):", block.text, re.MULTILINE
        ):
            yield block


def test_every_configuration_is_accepted(blocks: list[Block]) -> None:
    refused = []
    for block in configurations(blocks):
        try:
            load_text(block.text, _ENVIRONMENT)
        except ConfigProblems as problems:
            refused.append(
                f"{block.page}:\n{block.text}\n{describe_problems(problems.problems, origin=problems.origin)}"
            )
    assert not refused, "\n\n".join(refused)


def test_the_configuration_of_pages_says_something(blocks: list[Block]) -> None:
    found = list(configurations(blocks))
    assert len(found) >= 6
    assert all(isinstance(yaml.safe_load(block.text), dict) for block in found)


def commands(blocks: list[Block]) -> Iterator[tuple[str, list[str]]]:
    """``(page, words)`` of every line of a shell that begins with our command."""
    for block in blocks:
        if block.language not in ("bash", "sh", "console"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[|;]", line.removeprefix("$ ")):
                words = (
                    shlex.split(part.strip(), comments=True)
                    if part.count('"') % 2 == 0 and part.count("'") % 2 == 0
                    else []
                )
                while (
                    words
                    and re.fullmatch(r"[A-Z_]+=.*|\.venv/bin/.*", words[0])
                    and not words[0].endswith("llm-optimizer")
                ):
                    words.pop(0)
                if words and words[0].rpartition("/")[2] == "llm-optimizer":
                    yield block.page, words[1:]


def test_every_command_exists_with_its_options(blocks: list[Block]) -> None:
    wrong = []
    seen = 0
    for page, line in commands(blocks):
        words = [word for word in line if not re.match(r"\d?>|&", word)]
        seen += 1
        command: click.Command | None = main
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            command = command.get_command(click.Context(command), words.pop(0))
        if command is None:
            wrong.append((page, words))
            continue
        options = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        if unknown := given - options - {"-h", "--help"}:
            wrong.append((page, f"{command.name}: {sorted(unknown)}"))
    assert not wrong
    assert seen > 20


def test_every_make_target_and_module_exists(pages: list[Page]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for page in pages:
        code = "\n".join([*re.findall(r"`([^`\n]+)`", page.prose), *(block.text for block in page.blocks())])
        named = re.findall(r"(?:^|[\s(])make ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)", code, re.MULTILINE)
        wrong += [
            (page.name, f"make {name}")
            for words in named
            for name in words.split()[:1]
            if name not in targets
        ]
        for module in re.findall(
            r"python3? -m ((?:proxy|optimizer|policies|loadtests|deploy|monitoring)[\w.]*)", code
        ):
            if importlib.util.find_spec(module.rstrip(".")) is None:
                wrong.append((page.name, module))
    assert not wrong


def test_every_metric_that_is_named_is_exported(pages: list[Page]) -> None:
    known = {name_of(family) for family in example()} | {"llm_optimizer"}
    wrong = set()
    for page in pages:
        for name in _METRIC.findall(page.text):
            base = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)
            if {name, base, name.removesuffix("_total")} & known or name.startswith("llm_optimizer_custom_"):
                continue
            if not any(other.startswith(name.rstrip("_")) for other in known):
                wrong.add((page.name, name))
    assert not wrong


def test_every_admin_path_that_is_named_exists(pages: list[Page]) -> None:
    patterns = [re.compile(re.sub(r"{\w+}", r"[^/]+", endpoint.path) + r"/?") for endpoint in ENDPOINTS]
    wrong = set()
    for page in pages:
        for path in _API_PATH.findall(page.text):
            shown = re.sub(r"\{([a-z]+(?:,[a-z]+)+)\}.*", lambda found: found[1].split(",")[0], path).rstrip(
                "./"
            )
            prefix = any(endpoint.path.startswith(shown) for endpoint in ENDPOINTS)
            if not prefix and not any(pattern.fullmatch(shown) for pattern in patterns):
                wrong.add((page.name, path))
    assert not wrong


@pytest.mark.parametrize(
    "name", ["troubleshooting", "admin-guide", "api-reference", "configuration-reference", "architecture"]
)
def test_the_names_that_the_user_guide_links_exist(name: str) -> None:
    assert (ROOT / "docs" / f"{name}.md").exists()


def test_every_file_that_a_page_names_exists(pages: list[Page]) -> None:
    rooms = "docs|proxy|optimizer|policies|tests|loadtests|deploy|monitoring|requirements|ui"
    wrong = [
        (page.name, name)
        for page in pages
        for name in re.findall(rf"`((?:{rooms})/[\w./-]+)`", page.prose)
        if not (ROOT / name).exists()
    ]
    assert not wrong


def test_every_test_that_a_page_names_exists(pages: list[Page]) -> None:
    wrong = []
    seen = 0
    for page in pages:
        for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.text):
            seen += 1
            file = ROOT / path
            if not file.exists() or (
                name and not re.search(rf"^(async )?def {name}\(", file.read_text(), re.MULTILINE)
            ):
                wrong.append((page.name, path, name))
    assert not wrong
    assert seen > 40


def test_the_reference_of_commands_is_current() -> None:
    """If not: `python -m proxy.cli.reference > docs/cli-reference.md`."""
    from proxy.cli.reference import page

    assert Path(ROOT / "docs" / "cli-reference.md").read_text() == page()


def test_the_reference_of_the_api_is_current() -> None:
    """If not: `python -m proxy.control.admin.reference > docs/api-reference.md`."""
    assert (ROOT / "docs" / "api-reference.md").read_text() == api_reference()
