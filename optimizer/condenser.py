"""Keeps every route's lexical projection current: from the keeper's samples to files that workers map.

A fit runs in a thread, its file is durable before anything names it, and a restored projection whose file is gone or
damaged is made again. What a route's features are at any moment is answered here, and so is how logged vectors are
brought to them.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from optimizer import selector_file
from optimizer.context.features import ProjectionInfo, features_of
from optimizer.context.keeper import ProjectionKeeper
from optimizer.context.projection import Projection, refit
from optimizer.context.vector import CompiledFeatures, compile_features, reviser
from optimizer.context.words import Buckets
from optimizer.routing import Features
from optimizer.settings import RouteSettings, Settings
from optimizer.vectors import Revision

_log = logging.getLogger(__name__)

Matrix: TypeAlias = NDArray[np.float32]


class Condenser:
    """Projections of all routes of a node. Call ``configure`` at start, once the log's consumers are restored, and
    after every reload, ``step`` every now and then; all on one event loop.
    """

    def __init__(self, keeper: ProjectionKeeper, directory: Path) -> None:
        """``directory`` is where workers look for the files that tables name."""
        self._keeper = keeper
        self._directory = directory
        self._matrices: dict[str, Matrix] = {}

    def configure(self, settings: Settings) -> None:
        """Follow a configuration; every projection that is in use afterwards can be read."""
        sizes = {
            route.name: route.context.lexical_size
            for route in settings.routes
            if route.context is not None and route.context.lexical
        }
        self._keeper.configure(sizes)
        for route in sizes:
            self._load(route)
        self._forget_unused()

    def features(self, route: RouteSettings) -> Features | None:
        """What workers shall look at now; None for a route without context."""
        if route.context is None:
            return None
        return features_of(route.context, self._keeper.projection(route.name))

    def revision(self, route: RouteSettings) -> Revision | None:
        """How logged vectors of ``route`` are brought to its present features, see ``optimizer.relearn``."""
        plan = self._plan(route)
        return Revision(plan.features.version, reviser(plan)) if plan is not None else None

    @property
    def files(self) -> frozenset[str]:
        """Names of the projections in use, which must stay on disk beside those of the newest tables."""
        return frozenset(self._matrices)

    async def step(self) -> list[str]:
        """Fit what is due, one route after the other; the routes whose features changed.

        Raises:
            OSError: When the disk refuses a file; the route stays due.
        """
        changed = []
        for route in self._keeper.due():
            sketches = self._keeper.sketches(route)
            used = self._keeper.projection(route)
            present = self._matrices.get(used.name) if used is not None else None
            size = self._keeper.size(route)
            if present is not None and present.shape[1] > size:
                present = None  # A smaller one was asked for, so the same in fewer features is something new.
            name, fitted = await asyncio.to_thread(self._fit, route, sketches, size, present)
            if fitted is None:
                self._keeper.adopt(route, None)
                continue
            self._matrices[name] = fitted.matrix
            self._keeper.adopt(route, ProjectionInfo(name, fitted.size))
            self._forget_unused()
            changed.append(route)
        return changed

    def _fit(
        self, route: str, sketches: Sequence[Buckets], size: int, present: Matrix | None
    ) -> tuple[str, Projection | None]:
        try:
            fitted = refit(sketches, size, present)
        except ValueError as error:
            _log.warning("the words of route %s can not be condensed yet: %s", route, error)
            return "", None
        if fitted is None:
            return "", None
        return selector_file.write_projection(self._directory, fitted.matrix), fitted

    def _plan(self, route: RouteSettings) -> CompiledFeatures | None:
        features = self.features(route)
        if features is None:
            return None
        matrix = self._matrices[features.projection] if features.projection is not None else None
        return compile_features(features, matrix)

    def _load(self, route: str) -> None:
        used = self._keeper.projection(route)
        if used is None or used.name in self._matrices:
            return
        try:
            matrix = selector_file.load_projection(self._directory / used.name)
        except selector_file.BlobRefused as error:
            _log.warning("the projection of route %s is made again: %s", route, error)
            self._keeper.lose(route)
        else:
            self._matrices[used.name] = matrix

    def _forget_unused(self) -> None:
        used = {info.name for info in self._keeper.projections().values()}
        self._matrices = {name: matrix for name, matrix in self._matrices.items() if name in used}
