"""From a parsed request to x: the one code path of workers, of the simulator and of what is learned again.

``compile_features`` prepares a route's ``Features`` once per table; ``read_context`` then costs one request. Nothing
that a caller sends makes it raise. numpy, for processes that serve or learn contextual routes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optimizer.context.features import fixed_size, fixed_version
from optimizer.context.projection import lexical
from optimizer.context.prompt import read_prompt
from optimizer.context.structure import structural
from optimizer.context.words import BUCKETS, decode_sketch, encode_sketch, word_buckets
from optimizer.routing import CHAT, ClientFeature, Features
from optimizer.vectors import Revise

FloatArray: TypeAlias = NDArray[np.float32]

_NO_HEADERS: Final[Mapping[bytes, bytes]] = {}
# A client's word is compared, so a longer one can not be any of the configured ones.
_LONGEST_VALUE: Final = 256


@dataclass(frozen=True, slots=True)
class Context:
    """One request as a decision sees it. ``x`` float32 (d,); ``sketch`` only on routes where words count."""

    x: FloatArray
    sketch: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Client:
    """A client feature made ready: ``header`` set for headers, ``slots`` for words."""

    header: bytes | None
    key: str
    slots: Mapping[str, int]
    start: int
    low: float
    span: float


@dataclass(frozen=True, slots=True)
class CompiledFeatures:
    """``Features`` made ready for requests. ``projection`` float32 (4096, r), or None without lexical features."""

    features: Features
    fixed: int
    client: tuple[_Client, ...]
    projection: FloatArray | None


def compile_features(features: Features, projection: FloatArray | None = None) -> CompiledFeatures:
    """Prepare a route's features; ``projection`` is the content of the file that ``features.projection`` names.

    Raises:
        ValueError: The projection is missing or of another size than the features say, or the features were made by
            another release.
    """
    fixed = fixed_size(features.client)
    size = fixed
    if features.projection is not None:
        if projection is None:
            raise ValueError(f"features {features.version} need the projection {features.projection}")
        if projection.ndim != 2 or projection.shape[0] != BUCKETS:
            raise ValueError(f"a projection of shape {projection.shape}, not ({BUCKETS}, r)")
        size += int(projection.shape[1])
    if size != features.size:
        raise ValueError(
            f"features {features.version} have {features.size} entries, here they would be {size}"
        )
    used = projection if features.projection is not None else None
    return CompiledFeatures(features, fixed, _compile_client(features.client, fixed), used)


def _compile_client(client: tuple[ClientFeature, ...], fixed: int) -> tuple[_Client, ...]:
    start = fixed - sum(len(feature.values) or 1 for feature in client)
    compiled = []
    for feature in client:
        header = feature.key.lower().encode("latin-1", "replace") if feature.source == "header" else None
        slots = {value: start + number for number, value in enumerate(feature.values)}
        span = feature.high - feature.low
        compiled.append(_Client(header, feature.key, slots, start, feature.low, span))
        start += len(feature.values) or 1
    return tuple(compiled)


def read_context(
    doc: Mapping[str, Any],
    endpoint: str,
    plan: CompiledFeatures,
    *,
    headers: Mapping[bytes, bytes] = _NO_HEADERS,
    output_limit: int | None = None,
) -> Context:
    """The vector of a parsed body, with lower-cased header names; ``output_limit`` in tokens."""
    prompt = read_prompt(doc, endpoint, output_limit)
    values = structural(prompt)
    if plan.client:
        values += [0.0] * (plan.fixed - len(values))
        metadata = doc.get("metadata")
        for feature in plan.client:
            given: Any = None
            if feature.header is not None:
                given = headers.get(feature.header)
            elif type(metadata) is dict:
                given = metadata.get(feature.key)
            if given is not None:
                _set_client(values, feature, given)
    if not plan.features.lexical:
        return Context(np.array(values, dtype=np.float32))
    buckets = word_buckets(prompt.text)
    x = np.empty(plan.features.size, dtype=np.float32)
    x[: plan.fixed] = values
    if plan.projection is not None:
        x[plan.fixed :] = lexical(buckets, plan.projection)
    return Context(x, encode_sketch(buckets))


def _set_client(values: list[float], feature: _Client, given: Any) -> None:
    if type(given) is bytes:
        given = given.decode("latin-1")
    if type(given) is str:
        given = given[:_LONGEST_VALUE].strip()
    elif type(given) not in (int, float, bool):
        return
    if feature.slots:
        slot = feature.slots.get(given if type(given) is str else _word(given))
        if slot is not None:
            values[slot] = 1.0
        return
    try:
        number = float(given)
    except (ValueError, OverflowError):
        return
    if math.isfinite(number) and feature.span > 0.0:
        # The middle of the range is 0, and so is saying nothing.
        values[feature.start] = min(1.0, max(-1.0, 2.0 * (number - feature.low) / feature.span - 1.0))


def _word(given: Any) -> str:
    """How a JSON value other than a string would be written as one of the configured words."""
    return str(given).lower() if type(given) is bool else str(given)


def reviser(plan: CompiledFeatures) -> Revise:
    """How a logged request is brought to ``plan``'s version: a ``optimizer.vectors.Revise``.

    It gives None for vectors whose built-in or client features were others. A request whose words were not logged has
    lexical features 0, the middle: it goes on teaching the rest.

    Raises:
        ValueError: Of the function that is returned, when vector or sketch are damaged.
    """
    wanted = fixed_version(plan.features.version)

    def revise(version: str, x: bytes, sketch: bytes | None) -> bytes | None:
        if fixed_version(version) != wanted:
            return None
        if len(x) < 4 * plan.fixed:
            raise ValueError(f"{len(x)} bytes are no vector of {version}")
        fixed = x[: 4 * plan.fixed]
        if plan.projection is None:
            return fixed
        words = lexical(decode_sketch(sketch or b""), plan.projection)
        return fixed + words.astype("<f4", copy=False).tobytes()

    return revise


def vectorise(text: str, plan: CompiledFeatures, metadata: Mapping[str, Any] | None = None) -> Context:
    """The context of a chat with ``text`` as its only message, for data sets: what a worker would have computed."""
    doc = {"messages": [{"role": "user", "content": text}], "metadata": dict(metadata or {})}
    return read_context(doc, CHAT, plan)
