"""What an event says about the request's features: its vector, the version that made it, and the sketch of its words.

Raw bytes throughout, little-endian (float32, uint16): the learner collects thousands of vectors before it looks at one.
A field that is damaged is no vector; what else the event says still counts.
"""

from binascii import a2b_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

# Makes the vector of the present version of a request that was logged under another one: (version, x, sketch) -> x,
# all raw; None if that can not be done. Sketches are those of events, None where there was none.
Revise: TypeAlias = Callable[[str, bytes, bytes | None], bytes | None]


class Vector(NamedTuple):
    """A logged vector: float32 little-endian, d x 4 bytes."""

    version: str
    x: bytes


@dataclass(frozen=True, slots=True)
class Revision:
    """How the vectors of a route are brought to ``version``, from which position of the log on (see ``Relearn``)."""

    version: str
    revise: Revise


class InvalidVector(ValueError):
    """A context field that is none."""


def vector_of(data: Mapping[str, Any]) -> Vector | None:
    """The vector in the ``data`` of a ``request.v1`` event, None if it has none.

    Raises:
        InvalidVector: If it has something else there.
    """
    context = data.get("context")
    if context is None:
        return None
    try:
        version, x = context["version"], a2b_base64(context["x"], strict_mode=True)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidVector(f"no vector: {error!r}") from error
    if not isinstance(version, str) or not version or not x or len(x) % 4:
        raise InvalidVector(f"no vector: version {version!r}, {len(x)} bytes")
    return Vector(version, x)


def sketch_of(data: Mapping[str, Any]) -> bytes | None:
    """The sketch in the ``data`` of a ``request.v1`` event, None if it has none that can be read."""
    sketch = data.get("sketch")
    if not isinstance(sketch, str):
        return None
    try:
        return a2b_base64(sketch, strict_mode=True)
    except ValueError:
        return None


def vectors_of(data: Mapping[str, Any], revision: Revision | None) -> list[Vector]:
    """The vector as logged and, if there is a way, as the present version would have made it.

    Raises:
        InvalidVector: See ``vector_of``; or the revision refused it.
    """
    logged = vector_of(data)
    if logged is None:
        return []
    if revision is None or revision.version == logged.version:
        return [logged]
    try:
        x = revision.revise(logged.version, logged.x, sketch_of(data))
    except ValueError as error:
        raise InvalidVector(f"a vector of {logged.version} can not be revised: {error}") from error
    return [logged] if x is None else [logged, Vector(revision.version, x)]
