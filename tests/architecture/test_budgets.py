"""The house rules that a machine can hold: sizes, imports, globals, where the environment is read."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("proxy", "optimizer", "policies")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_keeps_the_house_rules(path: Path) -> None:
    """Size limits hold, the module says what it is, and there is no global state to reach for."""
    text = path.read_text()
    tree = ast.parse(text)

    assert len(text.splitlines()) <= MAX_FILE_LINES
    long = {
        function.name: (function.end_lineno or 0) - function.lineno + 1
        for function in _functions(tree)
        if (function.end_lineno or 0) - function.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == {}
    assert ast.get_docstring(tree), "a module starts by saying what it is"
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    assert "utils" not in path.parts
    assert path.stem not in ("utils", "helpers", "common", "misc")


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if "config" not in path.relative_to(ROOT).parts],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_only_the_configuration_reads_the_environment(path: Path) -> None:
    """``os.environ`` and ``os.getenv`` appear in ``proxy.config`` alone."""
    tree = ast.parse(path.read_text())
    reads = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    ]
    assert reads == []


def test_a_worker_stays_small() -> None:
    """The data plane imports no web framework, validation library, store or numpy."""
    program = (
        "import sys, proxy.worker\n"
        "heavy = {'aiohttp', 'pydantic', 'numpy', 'redis', 'aiokafka', 'prometheus_client', 'sqlite3', 'yaml',\n"
        "    'sqlalchemy', 'alembic', 'psycopg'}\n"
        "print(' '.join(sorted(heavy & set(sys.modules))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""


def test_client_libraries_stay_in_their_room() -> None:
    """Kafka, Redis and databases are each imported in their own rooms only."""
    homes = {
        "aiokafka": {"sinks", "cluster"},
        "redis": {"redis_link.py"},
        "sqlite3": {"optimizer"},
        "sqlalchemy": {"control_store"},
        "alembic": {"control_store"},
        "psycopg": {"control_store"},
    }
    strays = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                home = homes.get(name.partition(".")[0])
                if home is not None and home.isdisjoint(path.relative_to(ROOT).parts):
                    strays.append(f"{path.relative_to(ROOT)} imports {name}")
    assert strays == []


def test_no_registry_address_is_committed() -> None:
    """Pinned requirements carry hashes and no index lines."""
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text, path
        assert "--index-url" not in text, path
        assert "--hash=sha256:" in text, path
