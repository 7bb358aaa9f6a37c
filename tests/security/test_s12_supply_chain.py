"""S12, the supply chain: litellm 1.82.7 and 1.82.8 were on PyPI for forty minutes, with a .pth file that stole keys.

Every requirement is pinned with hashes, no file names a place to fetch from, and nothing of ours runs by itself.
"""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("runtime.txt", "demo.txt", "dev.txt", "build.txt", "clients.txt")
PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[a-z0-9,_-]+\])?==([^\s;\\]+)( ; [^\\]+)?")
# Places to fetch from; a registry or index host in a tracked file would silently become one of those.
REGISTRIES = re.compile(
    r"--(extra-)?index-url|--find-links|--trusted-host|PIP_INDEX|UV_INDEX|pyp[i]\.org/simple|files\.pythonhoste[d]\.org|"
    r"artifactory|nexus\.|\bdevpi\b|registry\.npm[j]s\.org|git\+https?://|curl[^\n]*\|\s*(ba)?sh|wget[^\n]*\|\s*(ba)?sh"
)


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False
    ).stdout.decode()
    files = [ROOT / name for name in listed.split("\0") if name]
    if not files:  # an export without history
        files = [
            path for path in ROOT.rglob("*") if path.is_file() and not set(path.parts) & {".venv", ".git"}
        ]
    return files


def requirements(name: str) -> list[list[str]]:
    """One list of words per requirement, continuation lines joined, comments left out."""
    text = (ROOT / "requirements" / name).read_text()
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line.split() for line in lines if line.strip() and not line.strip().startswith("#")]


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_and_hashed(name):
    """No line without a hash, no option, no path, no address."""
    found = requirements(name)
    assert found
    for words in found:
        hashes = [word for word in words if word.startswith("--hash=sha256:")]
        rest = " ".join(word for word in words if not word.startswith("--hash="))
        assert PINNED.fullmatch(rest), rest
        assert hashes, rest
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes)


def test_every_declared_dependency_is_in_the_lock():
    """What pyproject asks for is what the lock pins, in each of the subsets that need it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name in ("runtime.txt", "demo.txt", "dev.txt"):
        pinned = {words[0].partition("==")[0].partition("[")[0].lower() for words in requirements(name)}
        for dependency in declared:
            assert re.split(r"[><=;\[ ]", dependency)[0].lower() in pinned


def test_installations_check_hashes_and_build_without_the_network():
    """Everything is installed with --require-hashes; our own package without dependencies and isolation."""
    for file in ("Makefile", "deploy/install.sh"):
        for line in (ROOT / file).read_text().splitlines():
            if re.search(r"(\bpip\b|\$\(PIP\)) install", line):
                assert "--require-hashes" in line or "--no-deps --no-build-isolation" in line, line


def test_no_tracked_file_names_a_place_to_fetch_from():
    for path in tracked():
        if path.is_relative_to(ROOT / "tests") or not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        found = REGISTRIES.search(text)
        # uv is told to leave the address out of the lock files.
        assert found is None or "--no-emit-index-url" in text[found.start() - 10 : found.end() + 4], (
            path,
            found,
        )


def test_nothing_runs_when_an_interpreter_starts():
    """No .pth, sitecustomize or setup.py; the one hook of the build makes the page, and npm runs no scripts."""
    names = {path.name for path in tracked()}
    assert not [name for name in names if name.endswith(".pth")]
    assert not names & {"sitecustomize.py", "usercustomize.py", "setup.py", "conda.yaml"}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert (build["build-backend"], build["backend-path"]) == ("backend", ["deploy/packaging"])
    settings = [path for path in tracked() if path.name == ".npmrc"]
    assert settings
    assert all("ignore-scripts=true" in path.read_text().split() for path in settings)


def test_no_credentials_are_tracked():
    """Shapes of real keys; the planted ones of tests say that they are planted."""
    shapes = re.compile(
        r"sk-(proj|ant|live)-[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|"
        r"-----BEGIN [A-Z ]*PRIVATE KEY"
    )
    for path in tracked():
        if path.is_file() and path != Path(__file__).resolve():
            found = shapes.search(path.read_bytes().decode("utf-8", "replace"))
            assert found is None, (path, found)
