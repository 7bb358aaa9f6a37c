"""What a worker loads beside its table: the blobs of contextual selectors and of projections, by name.

Invariant: a request never waits for a file. A selector whose blob is not there, or is not what its name says, leaves
its side with the mean probabilities of the table; that is counted, and said once. numpy is imported with the first
blob or the first route that looks at requests, and by nobody else in a worker.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, Union

from optimizer.routing import Features, Route, RoutingTable, Selector, Side
from proxy.envelope import Envelope

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from policies.contextual import ContextualSelector, Index
    from proxy.context import Context

Blob: TypeAlias = Union["Index", "NDArray[np.float32]", None]
Reads: TypeAlias = Callable[[Envelope, Mapping[bytes, bytes]], "Context"]

REFUSALS: Final = ("missing", "too_large", "checksum", "format", "invalid", "features", "size")
"""Why a file was not used: those of ``selector_file``, and features or arms that are not its route's."""

_PROJECTION = "prj-"
_log = logging.getLogger("llm_optimizer.selectors")


class Selectors:
    """All that the newest table names, loaded; ``refused`` counts by reason what could not be used."""

    def __init__(self, directory: Path) -> None:
        self.refused: Counter[str] = Counter()
        self._directory = directory
        self._blobs: dict[str, Blob] = {}
        self._selectors: dict[tuple[str, str, Features], ContextualSelector | None] = {}
        self._readers: dict[Features, Reads | None] = {}
        self._said: set[str] = set()
        self._imported = False

    def missing(self, table: RoutingTable) -> list[str]:
        """The names that ``table`` needs and that are not there; those that were refused are tried once a table.

        An empty name asks for what reads requests, when there is no file yet.
        """
        looked_at = [route for route in table.routes if route.features is not None]
        names = [name for route in looked_at for name in _names(route) if self._blobs.get(name) is None]
        if looked_at and not names and not self._imported:
            return [""]
        return list(dict.fromkeys(names))

    def load(self, names: Iterable[str]) -> dict[str, Blob]:
        """Read blobs, in any thread: only ``refused`` changes here. None stands for a blob that was refused."""
        from optimizer import selector_file  # noqa: PLC0415  # numpy: only workers with contextual routes pay for it
        from proxy import context  # noqa: F401, PLC0415

        loaded: dict[str, Blob] = {}
        for name in filter(None, names):
            read = selector_file.load_projection if name.startswith(_PROJECTION) else selector_file.load
            try:
                loaded[name] = read(self._directory / Path(name).name)
            except selector_file.BlobRefused as error:
                self._refuse(error.reason, name, str(error))
                loaded[name] = None
        return loaded

    def learn(self, loaded: Mapping[str, Blob]) -> None:
        """Take over what ``load`` found."""
        self._imported = True
        self._blobs |= loaded
        # What could not be made without them can be tried again.
        self._selectors = {key: value for key, value in self._selectors.items() if value is not None}
        self._readers = {key: value for key, value in self._readers.items() if value is not None}

    def keep(self, table: RoutingTable) -> None:
        """Forget what ``table`` does not need."""
        if not self._imported:
            return
        names = {name for route in table.routes for name in _names(route)}
        self._blobs = {name: blob for name, blob in self._blobs.items() if name in names}
        self._said &= names
        selectors = {
            (side.selector.id, side.selector.index, route.features)
            for route in table.routes
            for side in _sides(route)
        }
        self._selectors = {key: value for key, value in self._selectors.items() if key in selectors}
        features = {route.features for route in table.routes}
        self._readers = {key: value for key, value in self._readers.items() if key in features}

    def is_pending(self, selector: Selector) -> bool:
        """Whether the selector has a blob that nobody has tried to load yet."""
        return selector.index is not None and selector.index not in self._blobs

    def reader(self, features: Features | None) -> Reads | None:
        """What turns requests into vectors; None on routes without, or when their projection can not be used."""
        if features is None or not self._imported:
            return None
        if features not in self._readers:
            self._readers[features] = self._make_reader(features)
        return self._readers[features]

    def contextual(
        self, selector: Selector, features: Features | None, arms: int
    ) -> "ContextualSelector | None":
        """The selector that looks at requests; None where the published probabilities are all there is."""
        if selector.index is None or features is None or self.reader(features) is None:
            return None
        key = (selector.id, selector.index, features)
        if key not in self._selectors:
            self._selectors[key] = self._make_selector(selector.id, selector.index, features, arms)
        return self._selectors[key]

    def _make_reader(self, features: Features) -> Reads | None:
        from proxy.context import compile_features, extract  # noqa: PLC0415  # see ``load``

        projection = self._blobs.get(features.projection) if features.projection is not None else None
        if features.projection is not None and projection is None:
            return None  # counted when it was loaded
        try:
            plan = compile_features(features, projection)  # type: ignore[arg-type]  # by its name it is a projection
        except ValueError as error:
            self._refuse("features", features.version, str(error))
            return None
        return lambda envelope, headers: extract(envelope, headers, plan)

    def _make_selector(
        self, selector_id: str, name: str, features: Features, arms: int
    ) -> "ContextualSelector | None":
        from policies.contextual import ContextualSelector, Index  # noqa: PLC0415  # see ``load``

        index = self._blobs.get(name)
        if not isinstance(index, Index):
            return None  # counted when it was loaded
        if (index.n_arms, index.size) != (arms, features.size):
            found = f"{index.n_arms} arms and {index.size} features"
            self._refuse("size", name, f"it is for {found}, its route has {arms} and {features.size}")
            return None
        return ContextualSelector(selector_id, index)

    def _refuse(self, reason: str, name: str, detail: str) -> None:
        self.refused[reason] += 1
        if name not in self._said:
            self._said.add(name)
            _log.warning("a contextual route falls back to its mean probabilities: %s: %s", name, detail)


def _sides(route: Route) -> Iterator[Side]:
    yield route.control
    if route.candidate is not None:
        yield route.candidate


def _names(route: Route) -> Iterator[str]:
    if route.features is None:
        return
    if route.features.projection is not None:
        yield route.features.projection
    for side in _sides(route):
        if side.selector.index is not None:
            yield side.selector.index
