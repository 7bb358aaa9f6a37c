"""The selectors of steered routes: frozen in a thread, kept until they move, given out when a table is built.

A route is steered when its decisions look at requests or keep constraints (``indexing.is_steered``). A side that was
never frozen, or whose settings changed, is frozen at once, because a table must not be published without; new evidence
waits for ``refresh``, which runs beside everything else and replaces an index at most once a second and only when the
shares really moved. However many routes there are, it takes about a quarter of a core at most: after each freezing it
rests, and the one that waited longest comes next.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from optimizer import selector_file
from optimizer.condenser import Condenser
from optimizer.events import INLINE_VECTOR_ARMS
from optimizer.indexing import (
    THOMPSON,
    Frozen,
    Material,
    freeze,
    gather_linear,
    guesses_usd,
    is_steered,
)
from optimizer.linear_statistics import LinearStatistics
from optimizer.publisher import gather, goals_of, params_of, rounded, selector_id
from optimizer.routing import CANDIDATE, CONTROL, Features, Model, Resilience, Route, Selector, Side
from optimizer.settings import DriftSettings, RouteSettings, Settings
from optimizer.statistics import Statistics
from optimizer.steering import Ledger, Steering
from optimizer.timeline import RouteArm
from policies.linear import LinearSums
from policies.types import FloatArray

# An index is frozen anew at most this often, and in any case after so long while money is paced by the clock.
LEAST_AGE_S: Final = 1.0
MOST_AGE_S: Final = 60.0
# After a freezing nothing is frozen for so many times as long as it took, and a round ends after about so long.
REST: Final = 3.0
ROUND_S: Final = 1.0
# Mean change of the shares over recent requests below which an index stays as it is.
_MOVED: Final = 0.004

_log = logging.getLogger(__name__)

_Key: TypeAlias = tuple[str, str]  # route, side


@dataclass(slots=True)
class _Prepared:
    """One frozen side. ``route`` None: taken over from the last table, to be frozen anew soon."""

    features: Features | None
    arms: tuple[str, ...]
    selector: Selector
    at: float
    route: RouteSettings | None = None
    frozen: Frozen | None = None
    # Monotonic seconds when its turn was last, also in vain.
    turn: float = 0.0


@dataclass(slots=True)
class _Queue:
    """Which sides are to be frozen, and which routes' selectors moved since somebody asked."""

    stale: set[_Key] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)


class ContextBook:
    """All steered routes of a node; on one event loop.

    Args:
        statistics: What is known about arms.
        linear: What is known about arms given requests.
        ledger: What requests really cost and were worth.
        condenser: Says what a route's features are.
        relearning: Routes whose present features are still being learned, with their version.
        directory: Where indices are written.
        now: Unix seconds.
        clock: Monotonic seconds.
        rest: Lets others work for so many seconds.
    """

    def __init__(
        self,
        *,
        statistics: Statistics,
        linear: LinearStatistics,
        ledger: Ledger,
        condenser: Condenser,
        relearning: Callable[[], Mapping[str, str]],
        directory: Path,
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        rest: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._statistics, self._linear = statistics, linear
        self._ledger, self._condenser = ledger, condenser
        self._relearning = relearning
        self._directory = directory
        self._now = now
        self._clock, self._rest = clock, rest
        self._models: Mapping[str, Model] = {}
        self._wanted: dict[_Key, RouteSettings] = {}
        self._prepared: dict[_Key, _Prepared] = {}
        self._ahead: dict[_Key, _Prepared] = {}
        self._in_use: dict[str, Features] = {}
        self._queue = _Queue()

    # --- being told ---------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> None:
        """Follow a configuration, after the condenser did."""
        self._models = {model.name: model for model in settings.models}
        names = {route.name for route in settings.routes}
        for key in [key for key in self._wanted.keys() | self._prepared.keys() if key[0] not in names]:
            self.drop(*key)
        self._in_use = {name: used for name, used in self._in_use.items() if name in names}

    def inherit(self, routes: Iterable[Route]) -> None:
        """Begin with the indices of the last table, so that a start waits for no arithmetic."""
        for route in routes:
            if route.features is not None:
                self._in_use[route.name] = route.features
            for name, side in ((CONTROL, route.control), (CANDIDATE, route.candidate)):
                if (
                    side is not None
                    and side.selector.index is not None
                    and self._is_whole(side.selector.index)
                ):
                    self._prepared[route.name, name] = _inherited(route, side)

    def mark(self, routes: Iterable[str]) -> None:
        """There is new evidence about these routes."""
        sides = [(route, side) for route in routes for side in (CONTROL, CANDIDATE)]
        # One that was never frozen will be made of all there is.
        self._queue.stale.update(key for key in sides if key in self._prepared)

    def take_moved(self) -> set[str]:
        """Routes whose selectors or features moved since the last call."""
        moved, self._queue.moved = self._queue.moved, set()
        return moved

    def drop(self, route: str, side: str) -> None:
        """There is no such side any more."""
        key = (route, side)
        self._wanted.pop(key, None)
        self._prepared.pop(key, None)
        self._queue.stale.discard(key)

    # --- being asked --------------------------------------------------------------------------------

    def features(self, route: RouteSettings) -> Features | None:
        """What a route's workers look at; None where no index needs it.

        New features are used once the log was learned again under them and ``refresh`` froze an index of them; until
        then the ones before.
        """
        features = self._features(route)
        if features is None:
            self._in_use.pop(route.name, None)
            return None
        used = self._in_use.get(route.name)
        if used is not None and _is_alike(used, features) and (route.name, CONTROL) in self._prepared:
            return used
        self._in_use[route.name] = features
        return features

    def selector(self, route: RouteSettings, side: str) -> Selector:
        """The frozen selector of one side.

        Raises:
            ValueError: If the route's goals or parameters make no sense.
            OSError: If its index can't be written.
        """
        key, features = (route.name, side), self.features(route)
        self._wanted[key] = route
        for found in (self._prepared.get(key), self._ahead.get(key)):
            if found is None or not _serves(found, route, features):
                continue
            if found.route is None:
                self._queue.stale.add(key)
            found.route = route
            self._prepared[key] = found
            if self._ahead.get(key) is found:
                del self._ahead[key]
            return found.selector
        frozen = freeze(self._material(route, side, features), now=self._now())
        return self._keep(key, route, features, frozen, self._write(route, frozen)).selector

    def steering(self, route: str) -> Steering | None:
        """How the route's control side keeps its constraints, None while it is not steered."""
        found = self._prepared.get((route, CONTROL))
        return found.frozen.steering if found is not None and found.frozen is not None else None

    def slopes(self, arm: RouteArm, version: str) -> Mapping[str, FloatArray]:
        """How an arm's signals depend on the features of ``version``, see ``optimizer.drift.Slopes``."""
        for side in (CONTROL, CANDIDATE):
            found = self._prepared.get((arm[0], side))
            if found is None or found.frozen is None or found.route is None:
                continue
            if found.features is None or found.features.version != version:
                continue
            for number, one in enumerate(found.route.arms):
                if (one.model_key, one.variant_key) == arm[1:]:
                    return {metric: slope[number] for metric, slope in found.frozen.slopes.items()}
        return {}

    @property
    def files(self) -> frozenset[str]:
        """Names of the files that the next table may name."""
        kept = (*self._prepared.values(), *self._ahead.values())
        indices = {prepared.selector.index for prepared in kept}
        used = {features.projection for features in self._in_use.values()}
        return frozenset(name for name in indices | used if name is not None) | self._condenser.files

    # --- keeping up ---------------------------------------------------------------------------------

    async def prepare(self, settings: Settings) -> None:
        """Freeze beside everything else what a table of these settings will need, so that building it does not.

        Only what it makes quicker: what is missing then is frozen at once. Nothing changes before.

        Raises:
            ValueError, OSError: As ``selector``.
        """
        self._ahead.clear()
        for route in settings.routes:
            key = (route.name, CONTROL)
            if not is_steered(route):
                continue
            features, used = self._condenser.features(route), self._in_use.get(route.name)
            if len(route.arms) > INLINE_VECTOR_ARMS:
                features = None
            elif features is not None and used is not None and _is_alike(used, features):
                features = used
            found = self._prepared.get(key)
            if found is not None and _serves(found, route, features):
                continue
            frozen = await asyncio.to_thread(
                freeze, self._material(route, CONTROL, features), now=self._now()
            )
            selector = await asyncio.to_thread(self._write, route, frozen)
            self._ahead[key] = _Prepared(features, _ids(route), selector, self._now(), route, frozen)

    async def refresh(self) -> None:
        """Freeze anew what has new evidence and is old enough, the oldest first, for about ``ROUND_S``.

        Raises:
            OSError: If an index can't be written; what was stale stays so, and kept no other from its turn.
        """
        ends, refused = self._clock() + ROUND_S, None
        for key in sorted(self._wanted, key=self._last_turn):
            route, found = self._wanted.get(key), self._prepared.get(key)
            if route is None or found is None or not self._is_due(key, route, found):
                continue
            started = found.turn = self._clock()
            # Evidence that comes from here on is not in what is frozen, and marks it again.
            self._queue.stale.discard(key)
            try:
                await self._freeze(key, route, found)
            except OSError as error:
                refused = error
                self._queue.stale.add(key)
            except BaseException:
                self._queue.stale.add(key)
                raise
            now = self._clock()
            await self._rest(REST * (now - started))
            if now >= ends:
                break
        if refused is not None:
            raise refused

    async def sweep(self, keep: Iterable[str]) -> None:
        """Delete files that neither a recent table (``keep``) nor this book needs, in time, and mend what is missing.

        Raises:
            OSError: When the disk refuses.
        """
        await asyncio.to_thread(selector_file.sweep, self._directory, self.files | set(keep), now=self._now())
        for key, found in list(self._prepared.items()):
            name = found.selector.index
            if name is None or await asyncio.to_thread((self._directory / name).exists):
                continue
            _log.warning("the index of route %s is gone from the disk; it is made again", key[0])
            if found.frozen is not None:
                await asyncio.to_thread(selector_file.write, self._directory, found.frozen.index)
            else:
                self._queue.stale.add(key)

    # --- inside -------------------------------------------------------------------------------------

    def _features(self, route: RouteSettings) -> Features | None:
        """What a route is to look at as soon as an index of it can be had."""
        if len(route.arms) > INLINE_VECTOR_ARMS:
            return None
        features = self._condenser.features(route)
        used = self._in_use.get(route.name)
        if features is None or used is None or not _is_alike(used, features):
            return features
        return used if self._relearning().get(route.name) == features.version else features

    def _is_whole(self, name: str) -> bool:
        try:
            selector_file.load(self._directory / name)
        except selector_file.BlobRefused as error:
            _log.warning("an index of the last table is made again: %s", error)
            return False
        return True

    def _last_turn(self, key: _Key) -> float:
        found = self._prepared.get(key)
        return found.turn if found is not None else 0.0

    def _is_due(self, key: _Key, route: RouteSettings, found: _Prepared) -> bool:
        age = self._now() - found.at
        if age < 0.0:
            age = MOST_AGE_S  # The clock was set back.
        if route.constraints.cost_per_day_usd is not None and age >= MOST_AGE_S:
            return True
        return key in self._queue.stale and age >= LEAST_AGE_S

    async def _freeze(self, key: _Key, route: RouteSettings, found: _Prepared) -> None:
        features = self._features(route) if key[1] == CONTROL else self.features(route)
        material = self._material(route, key[1], features)
        frozen = await asyncio.to_thread(freeze, material, now=self._now())
        old = found.frozen if found.features == features else None
        if old is not None and not await asyncio.to_thread(_has_moved, old, frozen, material):
            found.frozen = replace(old, steering=frozen.steering, slopes=frozen.slopes)
            found.at = self._now()
            return
        selector = await asyncio.to_thread(self._write, route, frozen)
        # Who dropped or froze this side meanwhile knew better.
        if self._prepared.get(key) is found and self._wanted.get(key) == route:
            self._keep(key, route, features, frozen, selector)
            if features is not None:
                self._in_use[route.name] = features
            self._queue.moved.add(route.name)

    def _keep(
        self, key: _Key, route: RouteSettings, features: Features | None, frozen: Frozen, selector: Selector
    ) -> _Prepared:
        made = _Prepared(features, _ids(route), selector, self._now(), route, frozen, self._clock())
        self._prepared[key] = made
        return made

    def _write(self, route: RouteSettings, frozen: Frozen) -> Selector:
        probabilities = rounded([float(share) for share in frozen.shares])
        if frozen.index.size == 1:
            return Selector(selector_id(THOMPSON, _ids(route), probabilities), THOMPSON, probabilities)
        name = selector_file.write(self._directory, frozen.index)
        return Selector(name, THOMPSON, probabilities, index=name)

    def _material(self, route: RouteSettings, side: str, features: Features | None) -> Material:
        now, goals = self._now(), goals_of(route)
        evidence = gather(route, self._statistics, now=now)
        account = self._ledger.account(route.name)
        # What a candidate cost is not in it; nor is this account, which goes on, for a thread.
        account = replace(account) if side == CONTROL else account.without_errors()
        bound = route.constraints.latency_p95_ms
        if side == CONTROL and bound is not None:
            self._ledger.bounds_ms[route.name] = bound
        linear: dict[str, list[LinearSums | None]] = {}
        if features is not None:
            linear = gather_linear(self._linear, route, evidence, goals, features.version, now=now)
        return Material(
            route=route,
            goals=goals,
            params=params_of(route),
            evidence=evidence,
            account=account,
            size=features.size if features is not None else 1,
            linear=linear,
            recent=self._linear.recent(route.name, features.version) if features is not None else None,
            guesses_usd=guesses_usd(route.arms, self._models, evidence),
        )


def _essence(route: RouteSettings) -> RouteSettings:
    """A route without what its index does not depend on."""
    return replace(
        route,
        match=(),
        sticky=None,
        home=None,
        fallbacks=(),
        resilience=Resilience(),
        quota=None,
        drift=DriftSettings(),
        judge=None,
    )


def _serves(found: _Prepared, route: RouteSettings, features: Features | None) -> bool:
    """Whether what was prepared is still what a side needs, but for newer evidence."""
    if found.features != features:
        return False
    return found.arms == _ids(route) if found.route is None else _essence(found.route) == _essence(route)


def _is_alike(used: Features, features: Features) -> bool:
    """Words that shall not count any more are not looked at any longer, and headers that shall are at once."""
    return (used.client, used.lexical) == (features.client, features.lexical)


def _ids(route: RouteSettings) -> tuple[str, ...]:
    return tuple([arm.id for arm in route.arms])


def _inherited(route: Route, side: Side) -> _Prepared:
    return _Prepared(route.features, tuple([arm.id for arm in side.arms]), side.selector, at=0.0)


def _has_moved(old: Frozen, new: Frozen, material: Material) -> bool:
    """Whether requests would be spread differently."""
    if old.index.value.shape != new.index.value.shape:
        return True
    recent = material.recent
    if material.size == 1 or recent is None or not len(recent):
        return bool(np.abs(old.shares - new.shares).max() > _MOVED / 10.0)
    requests = np.asarray(recent[-32:], dtype=np.float64)
    return bool(np.abs(old.index.shares(requests) - new.index.shares(requests)).max(axis=1).mean() > _MOVED)
