"""The identities under which knowledge is kept: of models, of models with parameters, of prompts, of a
whole setting.

Stable for ever: a change here orphans what was learned. Names in the configuration take no part, so that
renaming a model or a prompt forgets nothing.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import orjson

from optimizer.judging.rubric import SCALE, WORDING
from optimizer.routing import Upstream

_DIGEST_BYTES = 8
# Larger whole numbers stay floats: JSON has no room for all their digits.
EXACT = 2.0**53
_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_of(upstream: Upstream) -> str:
    """Scheme, host and port of an upstream, or its unix socket."""
    if upstream.unix_socket is not None:
        return f"unix:{upstream.unix_socket}"
    parts = urlsplit(upstream.base_url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)}"


# Never empty: an empty key stands for every variant when statistics are reset.
IDENTITY_VARIANT_KEY = "identity"


def model_key(origin: str, model_id: str) -> str:
    """Identity of a model: where it is and what it is called there."""
    return _digest("model", [origin, model_id])


def arm_model_key(origin: str, model_id: str, parameters: Mapping[str, Any]) -> str:
    """Identity of a model with parameter overrides; without any it is the model's own."""
    if not parameters:
        return model_key(origin, model_id)
    return _digest("model+parameters", [origin, model_id, dict(parameters)])


def variant_key(system: str | None, mode: str, template: str | None) -> str:
    """Identity of a prompt's content; a word of its own for the unchanged prompt, never empty."""
    if system is None and template is None:
        return IDENTITY_VARIANT_KEY
    return _digest("variant", [system, mode if system is not None else None, template])


def judge_version(model: str, rubric: str) -> str:
    """Identity of a judge: whoever rates with another model (its key), rubric, wording or scale is another judge."""
    return _digest("judge", [model, rubric, WORDING, SCALE])


def digest_of(value: Any) -> str:
    """A word that names a whole value made of frozen dataclasses, mappings, sequences and scalars."""
    return _digest("settings", _plain(value))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return value


def _digest(kind: str, value: Any) -> str:
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return blake2b(text, digest_size=_DIGEST_BYTES, person=kind.encode()[:16]).hexdigest()
