"""``${NAME}`` and ``${NAME:-default}`` in the text values of a document.

A secret's place is left alone: it keeps its reference. Only a secret address may have variables among other text.
``$${`` stands for a literal ``${``.
"""

import re
from collections.abc import Mapping
from typing import Any

from proxy.config.places import holds_password, is_secret, may_hold_password
from proxy.config.problems import Findings, KeyPath
from proxy.config.secrets import is_reference

_VARIABLE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}")
# Shorter values are words, ports and switches; to hide those would shred the messages.
_LEAST_SECRET = 6


def has_variable(text: str) -> bool:
    """Whether reading ``text`` needs the environment (or un-escaping)."""
    return _VARIABLE.search(text) is not None


def interpolate(
    value: Any,
    environ: Mapping[str, str],
    findings: Findings,
    *,
    keep: Mapping[KeyPath, str],
    path: KeyPath = (),
) -> Any:
    """A copy of ``value`` with variables replaced; ``keep`` holds what the environment set already."""
    if path in keep or (is_secret(path) and not _is_composed(value, path)):
        return value
    if isinstance(value, dict):
        return {
            key: interpolate(child, environ, findings, keep=keep, path=(*path, key))
            for key, child in value.items()
        }
    if isinstance(value, list):
        return [
            interpolate(child, environ, findings, keep=keep, path=(*path, index))
            for index, child in enumerate(value)
        ]
    if isinstance(value, str) and "${" in value:
        # A default in a password's place is written out.
        is_written = ":-" in value.rpartition("@")[0] or holds_password(value)
        if may_hold_password(path) and not is_written:
            findings.composed.add(path)
        return _substitute(value, environ, findings, path)
    return value


def _is_composed(value: Any, path: KeyPath) -> bool:
    """Whether a secret is an address that is written out, perhaps with a variable in the password's place."""
    return may_hold_password(path) and isinstance(value, str) and not is_reference(value)


def _substitute(text: str, environ: Mapping[str, str], findings: Findings, path: KeyPath) -> str:
    unset = []

    def replacement(match: re.Match[str]) -> str:
        if match.group(1):
            return match.group(1)
        name, has_default, default = match.group(2), match.group(3), match.group(4)
        value = environ.get(name)
        if has_default is not None and not value:
            return default or ""
        if value is None:
            findings.problem(
                path,
                f"the environment variable {name} is not set.",
                f"Set it, or write ${{{name}:-default}}; for a literal dollar brace write $${{.",
            )
            unset.append(name)
            return ""
        if len(value) >= _LEAST_SECRET:
            findings.substituted[value] = match.group()
        return value

    result = _VARIABLE.sub(replacement, text)
    if unset:
        findings.unset.add(path)
    return result
