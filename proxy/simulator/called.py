"""Which function a request forces the model to call, and arguments that its JSON schema accepts. Pure.

Invariant: the same schema gives the same arguments. Schemas are followed to a fixed depth, so that one that refers to
itself ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 8

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the function ``name``; ``arguments`` is a JSON object as text."""

    name: str
    arguments: str


def forced_call(document: Document) -> Call | None:
    """The call that ``tool_choice`` asks for, in the words of chat or of responses; None leaves it to the model."""
    tools = document.get("tools")
    choice = document.get("tool_choice")
    if not isinstance(tools, list) or choice in (None, "auto", "none"):
        return None
    functions = [found for found in map(_function, tools) if found is not None]
    if isinstance(choice, Mapping):
        wanted = _function(choice)
        name = wanted.get("name") if wanted is not None else None
        functions = [function for function in functions if function["name"] == name]
    if not functions:
        return None
    schema = functions[0].get("parameters")
    arguments = example(schema) if isinstance(schema, Mapping) else {}
    return Call(functions[0]["name"], orjson.dumps(arguments if isinstance(arguments, dict) else {}).decode())


def example(schema: Document) -> Any:
    """A value that a JSON schema of common words accepts."""
    return _example(schema, schema, 0)


def _function(tool: object) -> Document | None:
    """What names a function: chat nests it, responses does not."""
    if not isinstance(tool, Mapping):
        return None
    nested = tool.get("function")
    function = nested if isinstance(nested, Mapping) else tool
    return function if isinstance(function.get("name"), str) else None


def _example(schema: Document, whole: Document, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return None
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    for word in ("enum", "examples"):
        if isinstance(schema.get(word), list) and schema[word]:
            return schema[word][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list) and schema[word]:
            return _example(schema[word][0], whole, depth + 1)
    if isinstance(schema.get("$ref"), str):
        return _example(_referred(schema["$ref"], whole), whole, depth + 1)
    return _of_type(schema, whole, depth)


def _of_type(schema: Document, whole: Document, depth: int) -> Any:
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            members = schema.get("properties")
            members = members if isinstance(members, Mapping) else {}
            return {name: _example(member, whole, depth + 1) for name, member in members.items()}
        case "array":
            items = schema.get("items")
            return [_example(items, whole, depth + 1)] if isinstance(items, Mapping) else []
        case "string":
            return "text"
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case _:
            return None


def _referred(reference: str, whole: Document) -> Document:
    found: Any = whole
    for part in filter(None, reference.removeprefix("#").split("/")):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
