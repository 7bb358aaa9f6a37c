"""docs/clients.md shows code that runs: each of its blocks is a part of a script here, and each such part is shown."""

import re

from .conftest import HERE, ROOT

_PART = re.compile(r"^(?:#|//) docs: begin ([\w-]+)\n(.*?)^(?:#|//) docs: end$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(?:python|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, str]:
    """What the scripts mark for the page, by name. Imports stand together, other parts have a line between them."""
    found: dict[str, str] = {}
    for script in sorted([*HERE.glob("python/*.py"), *HERE.glob("node/*.mjs")]):
        for name, text in _PART.findall(script.read_text()):
            part = text.strip()
            gap = "\n" if re.match(r"(from|import) ", part) else "\n\n"
            found[name] = f"{found[name]}{gap}{part}" if name in found else part
    return found


def test_the_page_shows_what_the_tests_run():
    page = (ROOT / "docs" / "clients.md").read_text()
    shown = [block.strip() for block in _BLOCK.findall(page)]
    ran = recipes()

    assert len(ran) == 9
    assert {name for name, text in ran.items() if text not in shown} == set(), "not shown as it runs"
    assert [block for block in shown if block not in ran.values()] == [], "shown, but nothing runs it"


def test_locked_packages_have_hashes_and_no_addresses():
    lock = (HERE / "node" / "package-lock.json").read_text()

    assert '"resolved"' not in lock
    assert "://registry" not in lock
    assert lock.count('"integrity"') > 15
