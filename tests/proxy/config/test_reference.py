"""The written reference: current, complete, with links that lead somewhere."""

import re
from pathlib import Path

from proxy.config.models import File
from proxy.config.models_base import Block
from proxy.config.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "configuration-reference.md"


def test_the_page_is_current():
    """If not: `python -m proxy.config.reference > docs/configuration-reference.md`."""
    assert PAGE.read_text() == reference()


def test_every_key_says_what_it_does():
    """In a sentence, beside the field."""
    silent = [
        f"{block.__name__}.{name}"
        for block in _blocks(File)
        for name, field in block.model_fields.items()
        if not (field.description or "").endswith((".", "..."))
    ]

    assert silent == []


def test_every_block_has_one_section_and_every_link_leads_to_it():
    """Anchors as Markdown renderers derive them from headings."""
    text = reference()
    headings = re.findall(r"^## `?(.+?)`?$", text, re.MULTILINE)
    anchors = [re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings]

    assert len(anchors) == len(set(anchors)) == len(_blocks(File))
    assert set(re.findall(r"\]\(#(.+?)\)", text)) == set(anchors) - {"top-level"}


def test_what_is_said_about_a_key():
    """Type with its bounds, default, unit, when it acts."""
    rows = {}
    section = ""
    for line in reference().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").strip("`")
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows[section, cells[0].strip("`")] = tuple(cells[1:5])

    assert rows["server", "port"] == ("whole number ≥ 0, ≤ 65535", "`8080`", "", "restart")
    assert rows["routes.<name>.retries", "attempts"] == ("whole number ≥ 1, ≤ 10", "`3`", "", "live")
    assert rows["upstreams.<name>.breaker", "window_ms"] == (
        "number ≥ 100, ≤ 600000",
        "`10000`",
        "ms",
        "live",
    )
    assert rows["upstreams.<name>.breaker", "error_rate"] == ("number > 0, ≤ 1", "`0.5`", "", "live")
    assert rows["upstreams.<name>", "api_key"] == ("secret", "-", "", "live")
    assert rows["routes.<name>", "arms"] == ("list of [block](#routesnamearms)", "-", "", "live")
    assert rows["routes.<name>", "retries"] == ("[block](#routesnameretries)", "-", "", "")
    assert rows["routes.<name>.objectives[]", "weight"] == ("number ≥ 0", "`1`", "", "live")
    assert rows["routes.<name>.arms[]", "model"] == ("text", "needed", "", "live")
    assert rows["deployment.canary.stages[]", "duration_sec"] == ("number ≥ 0, ≤ 31536000", "-", "s", "live")
    assert rows["database", "url"] == ("secret", "-", "", "restart")
    assert rows["redis", "url"] == ("secret", "-", "", "restart")
    assert rows["cluster", "secret"] == ("secret", "-", "", "restart")
    assert rows["kafka.security", "protocol"] == (
        "`plaintext`, `ssl`, `sasl_plaintext`, `sasl_ssl`",
        "`plaintext`",
        "",
        "live",
    )
    assert rows["kafka", "security"] == ("[block](#kafkasecurity)", "-", "", "")
    assert rows["webhooks[]", "secret"] == ("secret", "-", "", "live")
    assert rows["access.when_optimizer_away", "budgets"] == ("`open`, `closed`", "`closed`", "", "live")


def _blocks(block, seen=None):
    """Every block class that is reachable, each once."""
    seen = {} if seen is None else seen
    if block not in seen:
        seen[block] = None
        for field in block.model_fields.values():
            for part in _blocks_in(field.annotation):
                _blocks(part, seen)
    return list(seen)


def _blocks_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return [annotation]
    return [block for part in getattr(annotation, "__args__", ()) for block in _blocks_in(part)]
