"""Configurations as YAML that loads again: as they take effect, or as they were written. Never with a
secret.

A literal key becomes its ``literal:<digest>`` reference, which loads to the same settings; whoever restores
the export supplies the key again. ``${NAME}`` stays as it is. Deployed optimizations are part of what takes effect, so
the effective export has the routes that they made; a rollout that is still under way is only mentioned.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal
from urllib.parse import urlsplit

import yaml

from optimizer.rollouts.overlays import effective, layer, obstacle
from optimizer.rollouts.records import OVERLAYING, Optimization, Status
from proxy.config.document import Span
from proxy.config.effective import address_reference, effective_document
from proxy.config.load import Loaded
from proxy.config.places import ADDRESSES, holds_password, is_secret, mask_address, may_hold_password
from proxy.config.problems import KeyPath
from proxy.config.secrets import LITERAL, is_reference, parse

_SHORTEST_SECRET = 6
_LIKE_A_KEY = re.compile(r"(?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|hf|key|AIza)[-_A-Za-z0-9]{16,}")
_PROPERTIES = re.compile(r"(?:[&!][^\s]*\s+)*")


def export(
    loaded: Loaded,
    *,
    source: Literal["effective", "file"] = "effective",
    overlays: Sequence[Optimization] = (),
) -> str:
    """YAML of the configuration, by default with every default and every flat block spelled out.

    ``overlays`` are records of optimizations. The deployed ones change the routes of the effective export; the file is
    what the operator wrote, whatever is deployed.
    """
    return effective_yaml(loaded, overlays) if source == "effective" else file_yaml(loaded)


def effective_yaml(loaded: Loaded, overlays: Sequence[Optimization] = ()) -> str:
    """What ``check-config --effective`` prints; see ``export`` for ``overlays``."""
    header = f"# Effective configuration {loaded.settings.config_hash}; secrets are references.\n"
    written = {route.name: route for route in loaded.settings.routes}
    published = effective(loaded.settings, overlays)
    changed = {name: one.control for name, one in published.items() if one.control != written[name]}
    document = effective_document(loaded, changed)
    body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return header + "".join(_mentioned(overlays, loaded)) + body


def _mentioned(overlays: Sequence[Optimization], loaded: Loaded) -> Iterator[str]:
    """A comment per optimization that changes a route or is about to."""
    for record in sorted(overlays, key=lambda record: (record.route, *layer(record))):
        if record.status not in OVERLAYING or obstacle(record, loaded.settings) is not None:
            continue
        where = f"# Route {record.route}: optimization {record.id} ({_on_one_line(record.name)}) "
        if record.status is Status.DEPLOYED:
            yield f"{where}is deployed and part of this.\n"
        elif record.rollout is not None:
            yield (
                f"{where}is {record.status} at {record.candidate_percentage:g} % "
                f"as rollout {record.rollout.id}; not part of this.\n"
            )


def _on_one_line(name: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in name)


def file_yaml(loaded: Loaded) -> str:
    """The file as written, comments included, with references in the place of secrets."""
    document = loaded.source.document
    if not document.text.strip():
        return "# There is no configuration file; built-in defaults apply.\n"
    replacements: dict[Span, str] = {}
    hidden = set(_hidden(loaded))
    for path, span in document.spans.items():
        value = _value_at(document.data, path)
        if not isinstance(value, str):
            continue
        if is_secret(path) and may_hold_password(path):
            if holds_password(value) and not is_reference(value):
                replacements[span] = _reference(value, loaded, path)
                hidden.add(value)
        elif is_secret(path):
            reference, literal = parse(value, loaded.path.parent if loaded.path is not None else None)
            if literal is not None:
                replacements[span] = reference
                hidden.add(literal)
    return _hide(_replace(document.text, replacements), hidden)


def _reference(url: str, loaded: Loaded, path: KeyPath) -> str:
    """What stands for the address of an engine when a password is written in it."""
    variable = loaded.source.overrides.get(path)
    reference = address_reference(loaded, path)
    return (
        reference if variable is None and reference is not None else f'"{mask_address(url, path, variable)}"'
    )


def _hidden(loaded: Loaded) -> Iterator[str]:
    """Literal keys, and of an address its password: an address without one is no secret."""
    addresses = {address_reference(loaded, path) for path in ADDRESSES}
    for reference, value in loaded.secrets.items():
        if reference not in addresses:
            yield value
        elif holds_password(value):
            yield value
            yield urlsplit(value).password or value


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
