"""S7, code from configuration, templates or data: LiteLLM CVE-2024-2952, CVE-2026-37004 (jinja), CVE-2024-4264 (eval),
CVE-2026-40217 (a sandbox of its own), CVE-2026-42271 (a command field).

The sources hold none of the means; and a template is a text in which one word is replaced once.
"""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.routing import Variant
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems
from proxy.prompt import apply_variant

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for package in ("proxy", "optimizer", "policies") for path in (ROOT / package).rglob("*.py")
)
BUILTINS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jinja2", "mako", "code", "codeop",
    "runpy", "pty",
    "joblib", "commands", "xmlrpc", "imp",
}  # fmt: skip
PROCESS = {
    "system",
    "popen",
    "spawnl",
    "spawnv",
    "execl",
    "execv",
    "execve",
    "execvp",
    "fork",
    "forkpty",
    "posix_spawn",
}
# Who starts processes, and imports by a name: our own commands, never a text from outside.
STARTS = {"proxy/supervisor_child.py", "proxy/demo/stage.py"}
IMPORTS = {"proxy/cli/__init__.py"}


def names(path: Path) -> set[tuple[str, int]]:
    """Every dangerous thing a source mentions, with its line."""
    text, where = path.read_text(), path.relative_to(ROOT).as_posix()
    found: set[tuple[str, int]] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                found.add((name, node.lineno))
            case ast.Import(names=aliases):
                found |= {(alias.name, node.lineno) for alias in aliases if _is_bad_module(alias.name, where)}
            case ast.ImportFrom(module=str(module)) if _is_bad_module(module, where):
                found.add((module, node.lineno))
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if _is_bad(owner, attribute, where):
                # ``yaml.load`` is fine with a loader of ours, which a test below takes apart.
                if attribute != "load" or "Loader" not in text.splitlines()[node.lineno - 1]:
                    found.add((f"{owner}.{attribute}", node.lineno))
            case ast.keyword(arg="shell" | "allow_pickle", value=ast.Constant(value=True)):
                found.add((str(node.arg), node.lineno))
            case _:
                pass
    return found


def _is_bad_module(name: str, where: str) -> bool:
    return name.partition(".")[0] in MODULES or (
        name.partition(".")[0] in ("subprocess", "multiprocessing") and where not in STARTS
    )


def _is_bad(owner: str, attribute: str, where: str) -> bool:
    return (
        (owner == "os" and attribute in PROCESS)
        or (owner == "yaml" and attribute in ("load", "load_all", "full_load", "unsafe_load"))
        or (attribute == "import_module" and where not in IMPORTS)
        or (attribute == "create_subprocess_exec" and where not in STARTS)
        or attribute in ("create_subprocess_shell", "extractall", "unpack_archive", "enable_load_extension")
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_sources_hold_no_means_to_run_text(path):
    assert names(path) == set()


def test_every_yaml_loader_is_a_safe_one():
    """Our loader derives from the safe one and adds no constructor for foreign types."""
    import yaml

    from proxy.config import document

    loaders = [
        value
        for value in vars(document).values()
        if isinstance(value, type) and hasattr(value, "yaml_constructors")
    ]
    assert loaders
    for loader in loaders:
        assert not issubclass(loader, yaml.UnsafeLoader | yaml.FullLoader | yaml.Loader)
        assert not [tag for tag in loader.yaml_constructors if tag and "python" in tag]


@pytest.mark.parametrize(
    "text",
    ["a: !!python/object/apply:os.system ['touch /tmp/owned']", "a: !!python/name:os.system", "!!python/module:os {}",
     "a: !!python/object/new:subprocess.Popen [[id]]", "a: !include /etc/passwd", "a: !ENV ${HOME}",
     "a: !!binary aWQ="],
)  # fmt: skip
def test_yaml_tags_of_other_types_are_problems(text):
    with pytest.raises(ConfigProblems):
        load_text(text, {"HOME": "/secret-home"})


TEMPLATES = (
    "{question!r}", "{question:>1000000000}", "{question.__class__.__mro__}", "{question[0]}", "{{question}}",
    "{0}", "{}",
    "{question:{question}}", "{{ 7*7 }}", "{% for x in [] %}{% endfor %}", "${question}", "$(id)",
    "%(question)s", "%s",
    "{question", "question}", "{ question }", "{QUESTION}", "#{7*7}", "<%= 7*7 %>", "\\{question\\}", "`id`",
    "{config.__init__.__globals__}", "{question!s:s}",
)  # fmt: skip
QUESTIONS = ("{question}", "{{question}}", "{0.__class__}", "{{7*7}}", "%s%n", "\\1\\g<0>", "${HOME}", "")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_template_is_plain_substitution(template, question):
    """Only the exact word is replaced, and what it is replaced by is not looked at again."""
    for text in (template, template + " {question}"):
        assert wrapped(text, question) == text.replace("{question}", question)


def wrapped(template: str, question: str) -> str:
    variant = Variant(name="v", key="v", template=template)
    document = {"model": "m", "messages": [{"role": "user", "content": question}]}
    changed = apply_variant(document, "chat", variant)
    if changed is None:  # a template without the word would lose the question
        assert "{question}" not in template
        return template
    return changed["messages"][-1]["content"]


@given(st.text(), st.text(), st.text())
def test_any_template_and_question(before, after, question):
    template = before + "{question}" + after
    assert wrapped(template, question) == template.replace("{question}", question)
