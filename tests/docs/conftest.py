"""The pages that people read, taken apart."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```([a-z]*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is written in, and its text."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Page:
    """One page. ``prose`` is its text without fenced blocks."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def prose(self) -> str:
        return _FENCE.sub("", self.text)

    def blocks(self) -> Iterator[Block]:
        for language, text in _FENCE.findall(self.text):
            yield Block(self.name, language, text)


@pytest.fixture(scope="session")
def pages() -> list[Page]:
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "loadtests").glob("*.md")]
    assert len(paths) > 20
    return [Page(path, path.read_text()) for path in sorted(paths)]


@pytest.fixture(scope="session")
def blocks(pages: list[Page]) -> list[Block]:
    return [block for page in pages for block in page.blocks()]
