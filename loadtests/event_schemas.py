"""The JSON Schemas of events in ``docs/schemas``: checking events against them, and ``docs/events.md``.

``python -m loadtests.event_schemas > docs/events.md`` writes the page. Invariant: the schemas are the one
description of what goes over the wire; page and tests are made from them.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator

from loadtests.markdown import table

DIRECTORY: Final = Path(__file__).parents[1] / "docs" / "schemas"

_HEAD: Final = """\
# Events

<!-- Written by `python -m loadtests.event_schemas > docs/events.md`. To change something change docs/schemas. -->

What the log holds and what is shipped to Kafka: one JSON object a line or record, a
[CloudEvents 1.0](https://github.com/cloudevents/spec) envelope around `data`. The JSON Schemas (2020-12) are in
`docs/schemas`, one for each type; every event that the tests make the product write is checked against them.

- `id` is fixed when an event is made and never changes. Delivery is at least once: **count an id once**.
- On Kafka the key is the route (empty without one), and the attributes of the envelope are headers as well (`ce_type`,
  `ce_id`, ...).
- **Evolution is additive.** A type never loses a field, and a field never changes its type or becomes optional; what
  would do so gets a new type, `...v2`. New fields and new words do appear: ignore what you do not know.
- No prompt, completion, comment or credential is in any event.

## The envelope

| Attribute | Type | Always | Meaning |
|---|---|---|---|
"""


class EventSchemas:
    """The schemas of a directory, by event type."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        documents = [json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*.json"))]
        self.documents: Mapping[str, Mapping[str, Any]] = {
            document["title"]: document for document in documents
        }
        self._validators = {
            title: Draft202012Validator(document) for title, document in self.documents.items()
        }

    def problems(self, event: Mapping[str, Any]) -> list[str]:
        """What is wrong with an event, fields that no schema describes included; empty when nothing is."""
        type_ = event.get("type")
        validator = self._validators.get(str(type_))
        if validator is None:
            return [f"no schema for {type_!r}"]
        found = [
            f"{type_} {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(event)
        ]
        described = self.documents[str(type_)]["properties"]
        found += [f"{type_} {name}: not described" for name in event.keys() - described.keys()]
        data = event.get("data")
        if isinstance(data, dict):
            found += [
                f"{type_} data.{name}: not described"
                for name in data.keys() - described["data"]["properties"]
            ]
        return found

    def fields(self) -> dict[str, dict[str, Any]]:
        """By type: every described place with its type, and whether it is always there. What must never change."""
        return {
            title: dict(_places("", document, required=True)) for title, document in self.documents.items()
        }


def _places(path: str, schema: Mapping[str, Any], *, required: bool) -> Iterator[tuple[str, Any]]:
    yield path or ".", {"type": type_of(schema), "always": required}
    needed = schema.get("required", ())
    for name, part in schema.get("properties", {}).items():
        yield from _places(f"{path}/{name}", part, required=name in needed)
    for number, part in enumerate(schema.get("prefixItems", ())):
        yield from _places(f"{path}/{number}", part, required=True)
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from _places(f"{path}/*", schema[word], required=False)


def type_of(schema: Mapping[str, Any]) -> list[str]:
    """Names of the JSON types that a schema allows."""
    if "type" in schema:
        named = schema["type"]
        return [named] if isinstance(named, str) else list(named)
    words = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return sorted({"string" if isinstance(word, str) else "integer" for word in words})


@cache
def event_schemas() -> EventSchemas:
    """Those of this project."""
    return EventSchemas()


def page(schemas: EventSchemas) -> str:
    """``docs/events.md``."""
    first = next(iter(schemas.documents.values()))
    lines = [_HEAD.rstrip("\n")]
    envelope = {name: part for name, part in first["properties"].items() if name != "data"}
    envelope["id"] = envelope["id"] | {"description": "What the event is known by; see its type"}
    lines += ["| " + " | ".join(row) + " |" for row in _rows(envelope, first["required"])]
    for title, document in schemas.documents.items():
        data = document["properties"]["data"]
        file = title.removeprefix("llm_optimizer.")
        lines += ["", f"## {title}", "", f"{document['description']} [Schema](schemas/{file}.json)."]
        lines += ["", f"`id`: {document['properties']['id']['description']}.", ""]
        lines.append(
            table(
                ("Field of `data`", "Type", "Always", "Meaning"), _rows(data["properties"], data["required"])
            )
        )
    return "\n".join(lines) + "\n"


def _rows(properties: Mapping[str, Any], required: list[str], before: str = "") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, part in properties.items():
        rows.append((f"`{before}{name}`", _type(part), "yes" if name in required else "", _meaning(part)))
        inner, mark = (part["items"], "[].") if isinstance(part.get("items"), dict) else (part, ".")
        if "properties" in inner:
            rows += _rows(inner["properties"], inner["required"], f"{before}{name}{mark}")
    return rows


def _type(schema: Mapping[str, Any]) -> str:
    return " or ".join(type_of(schema)) or "any"


def _meaning(schema: Mapping[str, Any]) -> str:
    text = schema.get("description", "")
    words = schema.get("enum")
    if words and isinstance(words[0], str):
        text += ": " + ", ".join(f"`{word}`" for word in words)
    row = schema.get("items", {}).get("prefixItems") if isinstance(schema.get("items"), dict) else None
    if row:
        text += ": rows of " + ", ".join(part["description"] for part in row)
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page(event_schemas()))
