"""Sources of two versions of the program side by side: one out of git, and a copy of those of the working tree.

Invariant: both are copies, so that nothing which happens to the repository meanwhile changes what runs.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.processes import ROOT, Failed, Skipped

PACKAGES: Final = ("policies", "optimizer", "proxy")


@dataclass(frozen=True, slots=True)
class Program:
    """One version: ``tree`` has its packages."""

    name: str
    tree: Path


def older(commit: str, into: Path) -> Program:
    """What ``commit`` has.

    Raises:
        Skipped: If this is no clone that has the commit.
    """
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit, *PACKAGES], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        raise Skipped(f"commit {commit} is not here: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(into, filter="data")
    return _checked(Program(commit, into))


def newer(into: Path) -> Program:
    """What the working tree has now."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, into / package, ignore=shutil.ignore_patterns("__pycache__"))
    return _checked(Program("this tree", into))


def _checked(program: Program) -> Program:
    """The program, when what an interpreter finds there is its own and nothing that is installed."""
    script = (
        f"import {', '.join(PACKAGES)}; print(*({', '.join(f'{name}.__path__[0]' for name in PACKAGES)},))"
    )
    environ = {**os.environ, "PYTHONPATH": str(program.tree)}
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=program.tree,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = [str(program.tree / package) for package in PACKAGES]
    if found.stdout.split() != wanted:
        raise Failed(f"{program.name} would run {found.stdout or found.stderr}, not {wanted}")
    return program
