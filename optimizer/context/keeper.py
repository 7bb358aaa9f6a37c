"""Collects logged sketches and says when a route's words should be condensed anew.

One bounded sample of sketches per route where words count, renewed at random, so that it reaches back a few times its
size. It is a sample: only a part of it is saved, and a crash may cost it a minute of sketches, never a fitted
projection. Fitting is the caller's, in a thread: ``due`` -> ``sketches`` -> ``projection.refit`` -> write the file ->
``adopt``.
"""

import random
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from optimizer import events
from optimizer.context.features import ProjectionInfo
from optimizer.context.words import MOST_BUCKETS, Buckets, decode_sketch
from optimizer.log.segment import Position

CAPACITY: Final = 2000
# A first projection of this many sketches is worth having; later ones wait for a sample that is new throughout.
FIRST_FIT: Final = 500
TURNOVERS: Final = 4
# Every new projection is a new version of the features, to be learned again from the log.
LEAST_AGE_S: Final = 6 * 3600.0
_SAVE_S: Final = 60.0
# So many sketches are saved of all routes together: they are written in one piece, on the loop.
MOST_SAVED: Final = 20_000


@dataclass(slots=True)
class _Sample:
    """Of one route: raw sketches; ``fresh`` counts those taken in since the last fit, ``fitted_at`` its event time."""

    size: int
    sketches: list[bytes] = field(default_factory=list)
    fresh: int = 0
    projection: ProjectionInfo | None = None
    fitted_at: float | None = None
    # The size asked for when it was fitted: a vocabulary may not have that many directions.
    fitted_size: int = 0
    newest: float = 0.0


class ProjectionKeeper:
    """Follows the log as an ``ingest.Consumer``; call ``configure`` at start and after every reload."""

    name = "projections"

    def __init__(self, *, seed: int = 0, capacity: int = CAPACITY) -> None:
        """``seed`` decides which sketches make room for new ones; ``capacity`` is how many are kept per route."""
        self._random = random.Random(seed)  # noqa: S311  # which sketch is forgotten is no secret
        self._capacity = capacity
        self._samples: dict[str, _Sample] = {}
        self._restored: dict[str, Any] = {}
        self._saved: bytes | None = None
        self._saved_at = 0.0
        self._newest = 0.0

    def configure(self, sizes: Mapping[str, int]) -> None:
        """Keep samples of exactly these routes; values are how many lexical features each is to have."""
        for name, size in sizes.items():
            sample = self._samples.get(name)
            if sample is None:
                self._samples[name] = _sample_from(self._restored.pop(name, {}), size)
            else:
                sample.size = size
        for name in [name for name in self._samples if name not in sizes]:
            del self._samples[name]
        self._saved = None

    def observe(self, event: Mapping[str, Any], where: Position) -> None:
        """See ``ingest.Consumer``."""
        if event["type"] != events.REQUEST:
            return
        data = event["data"]
        sketch = data.get("sketch")
        sample = self._samples.get(data.get("route") or "")
        if sample is None or not sketch:
            return
        raw = a2b_base64(sketch)
        # Whole decoding waits for a fit: thousands of events a second pass here.
        if len(raw) % 2 or len(raw) > 2 * MOST_BUCKETS:
            raise ValueError(f"a sketch of {len(raw)} bytes")
        at = data["started_ms"] * 1e-3
        kept = sample.sketches
        if len(kept) < self._capacity:
            kept.append(raw)
        else:
            kept[int(self._random.random() * len(kept))] = raw
        sample.fresh += 1
        sample.newest = max(sample.newest, at)
        self._newest = max(self._newest, sample.newest)

    def due(self) -> list[str]:
        """Routes that should get a (new) projection now."""
        return [name for name, sample in self._samples.items() if self._is_due(sample)]

    def _is_due(self, sample: _Sample) -> bool:
        if len(sample.sketches) < FIRST_FIT or sample.size < 1:
            return False
        if sample.projection is None and sample.fitted_at is None:
            return True
        if sample.projection is not None and sample.fitted_size != sample.size:
            return True
        aged = sample.fitted_at is None or sample.newest - sample.fitted_at >= LEAST_AGE_S
        # After a restart the sample is smaller than what was counted.
        is_full = len(sample.sketches) >= self._capacity
        return aged and is_full and sample.fresh >= TURNOVERS * self._capacity

    def size(self, route: str) -> int:
        """How many lexical features a projection of ``route`` should make; 0 where words do not count."""
        sample = self._samples.get(route)
        return sample.size if sample is not None else 0

    def sketches(self, route: str) -> list[Buckets]:
        """The present sample, decoded, without damaged ones; a list of the caller's own, for another thread."""
        sample = self._samples.get(route)
        found = []
        for raw in sample.sketches if sample is not None else ():
            with suppress(ValueError):
                found.append(decode_sketch(raw))
        return found

    def projection(self, route: str) -> ProjectionInfo | None:
        """The projection in use, None before there is one."""
        sample = self._samples.get(route)
        return sample.projection if sample is not None else None

    def projections(self) -> dict[str, ProjectionInfo]:
        """All that are in use, by route."""
        return {
            name: used for name, sample in self._samples.items() if (used := sample.projection) is not None
        }

    def adopt(self, route: str, projection: ProjectionInfo | None) -> None:
        """Note the result of a fit, once its file is durable; None: the present one is as good, or there is none."""
        sample = self._samples.get(route)
        if sample is None:
            return
        if projection is not None:
            sample.projection = projection
        sample.fitted_at = sample.newest
        sample.fitted_size = sample.size
        sample.fresh = 0
        self._saved = None

    def lose(self, route: str) -> None:
        """The file of ``route``'s projection is gone or damaged: there is none, and a new one is due."""
        sample = self._samples.get(route)
        if sample is not None:
            sample.projection = None
            sample.fitted_at = None
            self._saved = None

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``. The same bytes for a while: hundreds of kilobytes are not written at every step."""
        if self._saved is None or self._newest - self._saved_at >= _SAVE_S:
            self._saved_at = self._newest
            state = dict(self._restored)
            most = min(MOST_SAVED // max(len(self._samples), 1), FIRST_FIT)
            state.update((name, _facts(sample, most)) for name, sample in self._samples.items())
            self._saved = orjson.dumps(state)
        return self._saved

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``; routes come back when they are configured.

        Raises:
            ValueError, TypeError, KeyError: If the snapshot is none of ours.
        """
        state = orjson.loads(data)
        for facts in state.values():
            _sample_from(facts, 1)
        self._restored = state
        for name in [name for name in self._samples if name in state]:
            self._samples[name] = _sample_from(self._restored.pop(name), self._samples[name].size)
        self._newest = max((sample.newest for sample in self._samples.values()), default=0.0)
        self._saved = None


def _facts(sample: _Sample, most: int) -> dict[str, Any]:
    used = sample.projection
    # Which ones were replaced was random, so any are as good as others.
    saved = sample.sketches[:most]
    return {
        # One text and their sizes: thousands of small texts take ten times as long.
        "sketches": b2a_base64(b"".join(saved), newline=False).decode(),
        "sizes": [len(raw) for raw in saved],
        "fresh": sample.fresh,
        "projection": None if used is None else [used.name, used.size],
        "fitted_at": sample.fitted_at,
        "fitted_size": sample.fitted_size,
        "newest": sample.newest,
    }


def _sample_from(facts: Mapping[str, Any], size: int) -> _Sample:
    if not facts:
        return _Sample(size)
    joined, sketches, at = a2b_base64(facts["sketches"]), [], 0
    for length in facts["sizes"]:
        sketches.append(joined[at : at + length])
        at += length
    used = facts["projection"]
    return _Sample(
        size=size,
        sketches=sketches,
        fresh=int(facts["fresh"]),
        projection=None if used is None else ProjectionInfo(str(used[0]), int(used[1])),
        fitted_at=facts["fitted_at"],
        fitted_size=int(facts["fitted_size"]),
        newest=float(facts["newest"]),
    )
