"""A route's feature set: what its vector is made of, in order, and the version that names all of it.

The vector is built-in features, then the client's, then the lexical ones. Its version depends on nothing but their
meaning: letting words count changes it only once a projection was fitted, so knowledge is kept until then.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optimizer.context.structure import BUILT_IN, REVISION
from optimizer.routing import ClientFeature, Features
from optimizer.settings import ContextSettings

_LEXICAL_MARK: Final = "."


@dataclass(frozen=True, slots=True)
class ProjectionInfo:
    """A fitted projection: the ``name`` of its file, content-named, and how many features it makes."""

    name: str
    size: int


def features_of(settings: ContextSettings, projection: ProjectionInfo | None = None) -> Features:
    """What workers are told. A projection counts only where words do.

    Raises:
        ValueError: Two client features have the same name.
    """
    names = [feature.name for feature in settings.client]
    if len(set(names)) != len(names):
        raise ValueError(f"client features need distinct names, not {names}")
    parts = [*BUILT_IN]
    for feature in settings.client:
        parts += [
            feature.name,
            feature.source,
            feature.key,
            repr(feature.values),
            repr((feature.low, feature.high)),
        ]
    version = f"{REVISION}-{_digest(parts, 6)}"
    used = projection if settings.lexical else None
    if used is not None:
        version += _LEXICAL_MARK + _digest([used.name, str(used.size)], 4)
    return Features(
        version=version,
        size=fixed_size(settings.client) + (used.size if used is not None else 0),
        client=settings.client,
        lexical=settings.lexical,
        projection=used.name if used is not None else None,
    )


def _digest(parts: Sequence[str], size: int) -> str:
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=size).hexdigest()


def fixed_version(version: str) -> str:
    """The part of a version that names the built-in and client features: vectors that share it begin alike."""
    return version.partition(_LEXICAL_MARK)[0]


def fixed_size(client: tuple[ClientFeature, ...]) -> int:
    """How many features there are before the lexical ones."""
    return len(BUILT_IN) + sum(len(feature.values) or 1 for feature in client)


def feature_names(features: Features) -> list[str]:
    """A name for every entry of the vector, for people: ``length``, ``tier=gold``, ``words_3``."""
    names = list(BUILT_IN)
    for feature in features.client:
        names += [f"{feature.name}={value}" for value in feature.values] or [feature.name]
    return names + [f"words_{number}" for number in range(1, features.size - len(names) + 1)]
