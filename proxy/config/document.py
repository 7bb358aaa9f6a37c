"""YAML text to plain values, remembering where each value stands.

Only the safe core of YAML is accepted: mappings with text keys, lists, text, numbers, booleans, null. Every
problem in the text is collected; nothing in a message repeats a value, since any value may be a secret.
"""

from dataclasses import dataclass, field
from typing import Any

import yaml

from proxy.config.problems import Findings, KeyPath

_MOST_NODES = 200_000
_DEEPEST = 40
_TAG = "tag:yaml.org,2002:"
# A date is text here: model names like 2024-08-06 exist, settings of type date do not.
_AS_TEXT = {f"{_TAG}timestamp"}
_ACCEPTED = {f"{_TAG}{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")} | _AS_TEXT

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a scalar stands in the text, as character offsets."""

    start: int
    end: int


@dataclass(slots=True)
class Document:
    """A parsed file: its text, its values, and the spans of its scalars by path."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    spans: dict[KeyPath, Span] = field(default_factory=dict)


def parse(text: str, findings: Findings) -> Document:
    """Parse ``text``; problems and line numbers go to ``findings``, and what could be read is returned."""
    document = Document(text)
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return document
        data = _Builder(loader, findings, document.spans).build(node, ())
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        LookupError,
    ) as error:  # LookupError: `!!int ''`, `!!bool x`
        findings.problem((), _syntax_message(error))
        return document
    finally:
        if loader is not None:
            loader.dispose()
    if data is None:
        return document
    if not isinstance(data, dict):
        findings.problem((), "the file must hold a mapping of keys at its top level.")
        return document
    document.data = data
    return document


def _syntax_message(error: Exception) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return "this is not YAML: the text can not be read."
    mark = error.problem_mark
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    what = error.problem or error.context or "it can not be read"
    if "'\\t'" in what or "tab" in what:
        what += "; indent with spaces"
    return f"this is not YAML{where}: {what}."


class _Builder:
    """Walks the node tree of one document."""

    def __init__(self, loader: Any, findings: Findings, spans: dict[KeyPath, Span]) -> None:
        self._loader = loader
        self._findings = findings
        self._spans = spans
        self._nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._nodes += 1
        if self._nodes > _MOST_NODES or len(path) > _DEEPEST:
            raise ValueError("too large or too deep")
        self._findings.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag not in _ACCEPTED:
            kind = node.tag.replace(_TAG, "!!")
            self._findings.problem(path, f"the YAML tag {kind} is not accepted here.")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        if node.tag in _AS_TEXT:
            return node.value
        self._spans[path] = Span(node.start_mark.index, node.end_mark.index)
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._report_duplicates(node, path)
        self._loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            # What is written as 3.5 or 2024 is meant as a name: keys are always text.
            if not isinstance(key_node, yaml.ScalarNode):
                self._findings.problem(path, "a key must be text.")
                continue
            key = str(key_node.value)
            self._findings.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.build(value_node, (*path, key))
        return result

    def _report_duplicates(self, node: yaml.MappingNode, path: KeyPath) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == f"{_TAG}merge":
                continue
            line = key_node.start_mark.line + 1
            if key_node.value in seen:
                first = seen[key_node.value]
                self._findings.lines[(*path, key_node.value)] = line
                self._findings.problem(
                    (*path, key_node.value), f"the key is written twice, first in line {first}."
                )
            else:
                seen[key_node.value] = line
