"""Configurations as YAML that loads again: as they take effect, or as they were written. Never with a
secret.

A literal key becomes its ``literal:<digest>`` reference, which loads to the same settings; whoever restores
the export supplies the key again. ``${NAME}`` stays as it is.
"""

import re
from typing import Literal

import yaml

from proxy.config.document import Span
from proxy.config.effective import effective_document
from proxy.config.load import Loaded
from proxy.config.places import is_secret, mask_address, may_hold_password
from proxy.config.secrets import LITERAL, parse

_SHORTEST_SECRET = 6
_LIKE_A_KEY = re.compile(r"(?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|hf|key|AIza)[-_A-Za-z0-9]{16,}")
_PROPERTIES = re.compile(r"(?:[&!][^\s]*\s+)*")


def export(loaded: Loaded, *, source: Literal["effective", "file"] = "effective") -> str:
    """YAML of the configuration, by default with every default and every flat block spelled out."""
    return effective_yaml(loaded) if source == "effective" else file_yaml(loaded)


def effective_yaml(loaded: Loaded) -> str:
    """What ``check-config --effective`` prints."""
    header = f"# Effective configuration {loaded.settings.config_hash}; secrets are references.\n"
    body = yaml.safe_dump(effective_document(loaded), sort_keys=False, allow_unicode=True, width=110)
    return header + body


def file_yaml(loaded: Loaded) -> str:
    """The file as written, comments included, with references in the place of secrets."""
    document = loaded.source.document
    if not document.text.strip():
        return "# There is no configuration file; built-in defaults apply.\n"
    replacements: dict[Span, str] = {}
    hidden: set[str] = set(loaded.secrets.values())
    for path, span in document.spans.items():
        value = _value_at(document.data, path)
        if not isinstance(value, str):
            continue
        if is_secret(path):
            reference, literal = parse(value, loaded.path.parent if loaded.path is not None else None)
            if literal is not None:
                replacements[span] = reference
                hidden.add(literal)
        elif may_hold_password(path) and mask_address(value, path) != value:
            replacements[span] = f'"{mask_address(value, path)}"'
            hidden.add(value)
    return _hide(_replace(document.text, replacements), hidden)


def _value_at(data: object, path: tuple[str | int, ...]) -> object:
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
    return data


def _replace(text: str, replacements: dict[Span, str]) -> str:
    for span in sorted(replacements, key=lambda span: span.start, reverse=True):
        written = text[span.start : span.end]
        properties = _PROPERTIES.match(written)
        kept = properties.group() if properties is not None else ""
        ending = "\n" if written.endswith("\n") else ""
        text = text[: span.start] + kept + replacements[span] + ending + text[span.end :]
    return text


def _hide(text: str, hidden: set[str]) -> str:
    """Secrets also stand in comments: an old key, a copied line."""
    for value in sorted(hidden, key=len, reverse=True):
        if len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return "".join(_hide_in_comment(line) for line in text.splitlines(keepends=True))


def _hide_in_comment(line: str) -> str:
    before, mark, comment = line.partition("#")
    if not mark or LITERAL in comment:
        return line
    return before + mark + _LIKE_A_KEY.sub("***", comment)
