"""A document against the typed blocks: every problem at once, with its path and a suggestion.

After a problem the offending part is cut out and validation goes on, so that one misspelt key does not hide
the others. What was cut inside a named entry is remembered, so that no reference to it is called unknown.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config.models import File
from proxy.config.models_base import Shapes
from proxy.config.normalise import STRATEGY_BLOCKS
from proxy.config.places import is_secret
from proxy.config.problems import Findings, KeyPath, suggest

_MOST_ROUNDS = 12
# A key is longer than most words; and where keys are expected a misplaced one may stand.
_LONGEST_VALUE = 24
_UNSHOWN = {
    *(("upstreams",), ("admin",), ("database",), ("redis",), ("kafka",), ("cluster",), ("tracing",)),
    *(("passthrough",), ("webhooks",)),
}
_MESSAGES: Mapping[str, str] = {
    "missing": "is required.",
    "string_type": "must be text; put it in quotes.",
    "string_too_short": "must not be empty.",
    "dict_type": "must be a mapping of keys.",
    "model_type": "must be a mapping of keys.",
    "list_type": "must be a list.",
    "too_short": "must not be an empty list.",
    "int_type": "must be a whole number.",
    "int_parsing": "must be a whole number.",
    "int_from_float": "must be a whole number.",
    "float_type": "must be a number.",
    "float_parsing": "must be a number.",
    "finite_number": "must be a finite number.",
    "bool_type": "must be true or false.",
    "bool_parsing": "must be true or false.",
}


def validate(data: dict[str, Any], raw: dict[str, Any], findings: Findings) -> File:
    """Check ``data`` (interpolated) and return what is valid of it; ``raw`` is it before interpolation."""
    shapes = Shapes()
    rest = deepcopy(data)
    cut: set[KeyPath] = set()
    for _ in range(_MOST_ROUNDS):
        try:
            return File.model_validate(rest, context=shapes)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
        paths: set[KeyPath] = set()
        for detail in details:
            path = _existing(detail["loc"], rest)
            if findings.written(path) not in cut:
                _report(detail, path, rest, raw, shapes, findings)
            paths.add(path)
        # By where it was written: what stands in a list moves up when something before it is cut.
        cut |= {findings.written(path) for path in paths}
        # Deepest first, and the end of a list before its start, so that no cut moves another's target.
        gone: set[KeyPath] = set()
        for path in sorted(paths, key=_cutting_order, reverse=True):
            # What went with something around it needs no cut of its own, which would take what is around that.
            if not any(path[:length] in gone for length in range(1, len(path))):
                gone.add(_cut(rest, path, findings))
            findings.broken |= {path[:2], path[:3]}
    return File()


def _cutting_order(path: KeyPath) -> tuple[int, list[tuple[int, str]]]:
    return len(path), [(part, "") if isinstance(part, int) else (-1, part) for part in path]


def _existing(loc: Sequence[str | int], data: Any) -> KeyPath:
    """The part of a pydantic location that names keys of the document (it appends words of its own)."""
    path: list[str | int] = []
    place = data
    for part in loc:
        if isinstance(place, dict) and isinstance(part, str) and part != "[key]":
            path.append(part)
            place = place.get(part)
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            path.append(part)
            place = place[part]
        else:
            break
    return tuple(path)


def _report(
    detail: ErrorDetails,
    path: KeyPath,
    data: dict[str, Any],
    raw: dict[str, Any],
    shapes: Shapes,
    findings: Findings,
) -> None:
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = shapes.keys_of(_at(data, path[:-1]))
        if len(path) == 1:
            known = (*known, *STRATEGY_BLOCKS)
        findings.problem(path, "unknown key.", suggest(str(path[-1]), known, list_up_to=10))
        return
    if detail["loc"] and detail["loc"][-1] == "[key]":
        findings.problem(path, "this name is not accepted here.", _name_hint(detail))
        return
    findings.problem(path, _message(detail) + _shown(path, data, raw), _hint(detail, path, data))


def _message(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "string_pattern_mismatch":
        return "holds characters that are not accepted here."
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:] + "."


def _name_hint(detail: ErrorDetails) -> str | None:
    if detail["type"] == "literal_error":
        return f"Expected: {detail['ctx']['expected']}."
    return "Names are up to 128 letters, digits and any of . _ : / @ + # ~ -"


def _hint(detail: ErrorDetails, path: KeyPath, data: dict[str, Any]) -> str | None:
    value = _at(data, path)
    if detail["type"] == "literal_error" and isinstance(value, str):
        expected = [word.strip(" '") for word in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
        return suggest(value, expected)
    if detail["type"] == "string_pattern_mismatch" and path[-1:] == ("id",):
        return _name_hint(detail)
    return None


def _shown(path: KeyPath, data: dict[str, Any], raw: dict[str, Any]) -> str:
    """The value at fault, unless it is a secret, came from the environment, or is long."""
    value, written = _at(data, path), _at(raw, path)
    if not isinstance(value, (str, int, float)) or is_secret(path) or path[:1] in _UNSHOWN:
        return ""
    if value != written or len(str(value)) > _LONGEST_VALUE:
        return ""
    return f" It is {value!r}."


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _cut(data: Any, path: KeyPath, findings: Findings) -> KeyPath:
    """Take away what can not be used: the key, or the entry that lacks one. Returns what was taken away."""
    for length in range(len(path), 0, -1):
        parent = _at(data, path[: length - 1])
        part = path[length - 1]
        if isinstance(parent, dict) and part in parent:
            del parent[part]
            return path[:length]
        if isinstance(parent, list) and isinstance(part, int) and part < len(parent):
            # What stood behind it moves up, and is still to be named by where it was written.
            behind = [
                findings.written((*path[: length - 1], index)) for index in range(part + 1, len(parent))
            ]
            findings.moved |= {(*path[: length - 1], part + step): place for step, place in enumerate(behind)}
            del parent[part]
            return path[:length]
    return path
