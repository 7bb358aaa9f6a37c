"""The reference of every key, as Markdown: ``python -m proxy.config.reference > docs/configuration-reference.md``.

Everything is read from the blocks themselves, so that the page can not say anything else than the code does. A test
compares the page with what this module writes.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from proxy.config.environment import NAMED, PREFIX
from proxy.config.models import File
from proxy.config.places import is_secret
from proxy.config.problems import KeyPath

Schema: TypeAlias = Mapping[str, Any]

_NAME = "<name>"
_ITEM = "[]"
_HEAD = """\
# Configuration

<!-- Written by `python -m proxy.config.reference > docs/configuration-reference.md`.
     To change something change the descriptions of the fields in proxy/config/models*.py. -->

Every key of the configuration file. `config.yaml` at the top of the repository shows them in use;
`llm-optimizer check-config FILE` names every problem of a file, `--effective` prints it with every default spelled out.

- No key is required, except where "needed" stands in place of a default; an empty file is valid. `-` as the default
  means that the key may be left out; the last column says what follows.
- `<name>` stands for a name of your own, `[]` for each entry of a list.
- **Change** says when a new value acts: `live` as soon as the file is saved and valid, `restart` when the processes
  start again.
- `${NAME}` takes a value from the environment, `${NAME:-default}` with a default, `$${` stands for `${`.
- The environment goes before the file: %(named)s, and `%(prefix)sA__B` for any key `a.b`. Lists and mappings may be
  written in YAML's flow style, `[a, b]`.
- Where a secret is asked for: `${NAME}`, `file:/path`, or the value itself. Only the reference is ever stored.
- The blocks under `optimization` may also stand at the top level.
"""
_TABLE = "| Key | Type | Default | Unit | Change | Meaning |\n|---|---|---|---|---|---|\n"
_UNITS: tuple[tuple[str, str], ...] = (
    ("_ms", "ms"),
    ("_sec", "s"),
    ("_hours", "hours"),
    ("_days", "days"),
    ("_bytes", "bytes"),
    ("_tokens", "tokens"),
    ("usd_per_day", "USD"),
    ("usd_per_month", "USD"),
    ("_usd", "USD"),
    ("percentage", "%"),
)
# The words of JSON Schema, and those that pydantic uses where a value is prepared before it is checked.
_LOWER: tuple[tuple[str, str], ...] = (("minimum", "≥"), ("ge", "≥"), ("exclusiveMinimum", ">"), ("gt", ">"))
_UPPER: tuple[tuple[str, str], ...] = (("maximum", "≤"), ("le", "≤"), ("exclusiveMaximum", "<"), ("lt", "<"))
_KINDS: Mapping[str, str] = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
}


def reference() -> str:
    """The whole page."""
    schema = File.model_json_schema()
    page = _Page(schema["$defs"])
    page.add(schema, ())
    named = ", ".join(f"`{name}`" for name in NAMED)
    return _HEAD % {"named": named, "prefix": PREFIX} + "".join(page.sections)


@dataclass(slots=True)
class _Page:
    """Sections in the order of the file; a block that stands in several places is described at the first."""

    definitions: Mapping[str, Schema]
    places: dict[str, KeyPath] = field(default_factory=dict)
    sections: list[str] = field(default_factory=list)

    def add(self, block: Schema, path: KeyPath) -> None:
        """One section for ``block``, and one for every block below it that has none yet."""
        below: list[tuple[str, KeyPath]] = []
        for key, part in block["properties"].items():
            for name, place in _references(part, (*path, key)):
                if name not in self.places:
                    self.places[name] = place
                    below.append((name, place))
        title = f"`{_title(path)}`" if path else "Top level"
        rows = "".join(self._row(key, part, block, path) for key, part in block["properties"].items())
        self.sections.append(f"\n## {title}\n\n{_plain(block['description'])}\n\n{_TABLE}{rows}")
        for name, place in below:
            self.add(self.definitions[name], place)

    def _row(self, key: str, part: Schema, block: Schema, path: KeyPath) -> str:
        here = (*path, key)
        kind = "secret" if is_secret(here) else self._type(part)
        # pydantic leaves a description out that repeats the block's own.
        meaning = part.get("description") or self.definitions[part["$ref"].rpartition("/")[2]]["description"]
        cells = (
            f"`{key}`",
            kind,
            _default(key, part, block),
            next((unit for ending, unit in _UNITS if key.endswith(ending)), ""),
            "" if _is_block(part) else str(part.get("reload", "live")),
            _plain(meaning),
        )
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"

    def _type(self, part: Schema) -> str:
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            return f"[block](#{_slug(_title(self.places[name]))})"
        if "anyOf" in part:
            return " or ".join(self._type(option) for option in part["anyOf"] if option.get("type") != "null")
        if "enum" in part:
            return ", ".join(f"`{word}`" for word in part["enum"])
        if part.get("type") == "array":
            return f"list of {self._type(part['items'])}"
        if part.get("type") == "object":
            inner = _values(part)
            return f"by name: {self._type(inner)}" if inner else "mapping"
        return f"{_KINDS[part['type']]} {_bounds(part)}".strip()


def _bounds(part: Schema) -> str:
    """Between what a number must lie; of two bounds on one side the stricter."""
    low = [(part[word], sign) for word, sign in _LOWER if word in part]
    high = [(part[word], sign) for word, sign in _UPPER if word in part]
    # At the same number the open bound is the stricter one.
    chosen = [max(low, key=lambda bound: (bound[0], bound[1] == ">"))] if low else []
    chosen += [min(high, key=lambda bound: (bound[0], bound[1] == "≤"))] if high else []
    return ", ".join(f"{sign} {_number(value)}" for value, sign in chosen)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _values(part: Schema) -> Schema | None:
    """What the keys of a mapping lead to; None if that may be anything."""
    patterns = part.get("patternProperties")
    inner = next(iter(patterns.values())) if patterns else part.get("additionalProperties")
    return inner if isinstance(inner, dict) else None


def _references(part: Schema, path: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    """The blocks that a key leads to, each with its place."""
    if "$ref" in part:
        yield part["$ref"].rpartition("/")[2], path
    for option in part.get("anyOf", ()):
        yield from _references(option, path)
    if part.get("type") == "array":
        yield from _references(part["items"], (*path, _ITEM))
    if part.get("type") == "object":
        yield from _references(_values(part) or {}, (*path, _NAME))


def _title(path: KeyPath) -> str:
    return ".".join(str(part) for part in path).replace("." + _ITEM, _ITEM)


def _slug(title: str) -> str:
    """The anchor that Markdown renderers derive from a heading."""
    return re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")


def _default(key: str, part: Schema, block: Schema) -> str:
    if key in block.get("required", ()):
        return "needed"
    value = part.get("default")
    if isinstance(value, float):
        return f"`{_number(value)}`"
    return "-" if value is None or value == [] else f"`{orjson.dumps(value).decode().strip(chr(34))}`"


def _is_block(part: Schema) -> bool:
    """Whether the key only holds other keys."""
    options = part.get("anyOf", (part,))
    return any("$ref" in option for option in options)


def _plain(text: str) -> str:
    """A docstring as Markdown on one line."""
    text = " ".join(text.split()).replace("``", "`")
    # Outside of code, what looks like a tag would vanish.
    return re.sub(r"(`[^`]*`)|<", lambda found: found.group(1) or "&lt;", text)


if __name__ == "__main__":
    sys.stdout.write(reference())
