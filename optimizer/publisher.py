"""Settings and evidence in, routing table out.

Pure: what is published follows from the settings, the evidence, the seed, and the ``now`` and version
it is given. Each route draws from its own generator, seeded by (seed, route name), so a route's
selector does not depend on which other routes exist or were rebuilt with it.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np

from optimizer.evidence import EvidenceSource
from optimizer.indexing import is_steered
from optimizer.rollouts.overlays import RouteOverlay, effective, plain_overlays
from optimizer.rollouts.records import Optimization
from optimizer.routing import (
    CANDIDATE,
    CONTROL,
    REDIS,
    CacheStore,
    Features,
    Route,
    RoutingTable,
    Sampling,
    Selector,
    Side,
)
from optimizer.settings import FLOOR, STEERED_FLOOR, RouteSettings, Settings
from policies.registry import POLICIES
from policies.types import ArmEvidence, Goal, PolicyParams

# Six decimals keep tables and events short. What is published is the policy: workers draw from the
# rounded numbers, so propensities stay exact.
_DECIMALS = 6
_FIXED = "fixed"


def goals_of(route: RouteSettings) -> list[Goal]:
    """The route's objectives as a policy wants them; a route without any pursues quality."""
    if not any(objective.weight > 0.0 for objective in route.objectives):
        return [Goal("quality", 1.0, True)]
    return [
        Goal(objective.metric, objective.weight, objective.maximize, objective.scale)
        for objective in route.objectives
    ]


def params_of(route: RouteSettings) -> PolicyParams:
    """The route's policy settings as a policy wants them."""
    policy = route.policy
    usual = STEERED_FLOOR if is_steered(route) else FLOOR
    return PolicyParams(
        floor=usual if policy.floor is None else policy.floor,
        min_pulls=policy.min_pulls,
        max_memory=policy.max_memory,
        prior_strength=policy.prior_strength,
        epsilon=policy.epsilon,
        fixed=policy.fixed if route.optimize else {},
    )


def gather(route: RouteSettings, source: EvidenceSource, *, now: float) -> list[ArmEvidence]:
    """The evidence of every arm of a route, in the route's order."""
    return [
        source.evidence(route.name, arm, now=now, half_life_s=route.policy.half_life_s) for arm in route.arms
    ]


def build_side(route: RouteSettings, evidence: Sequence[ArmEvidence], *, seed: int) -> Side:
    """Freeze the route's policy into one side.

    Raises:
        ValueError: If the route has no arms, its baseline is none of them, its policy is unknown, or
            the policy refuses its parameters; the message names the route.
    """
    name = route.policy.name if route.optimize else _FIXED
    policy = POLICIES.get(name)
    if policy is None:
        raise ValueError(f"route {route.name}: unknown policy {name!r}")
    arms = [arm.id for arm in route.arms]
    if route.baseline not in arms:
        raise ValueError(f"route {route.name}: baseline {route.baseline!r} is none of its arms")
    rng = np.random.default_rng([seed, _number(route.name)])
    try:
        shares = policy.probabilities(
            evidence, goals_of(route), arms.index(route.baseline), params_of(route), rng
        )
    except ValueError as error:
        raise ValueError(f"route {route.name}: {error}") from error
    probabilities = rounded([float(share) for share in shares])
    return Side(
        arms=route.arms,
        selector=Selector(selector_id(name, arms, probabilities), name, probabilities),
        baseline=route.baseline,
    )


def rounded(shares: Sequence[float]) -> tuple[float, ...]:
    """``shares`` with six decimals, the remainder put on the greatest, so that they still sum to 1."""
    short = [round(share, _DECIMALS) for share in shares]
    greatest = max(range(len(short)), key=short.__getitem__)
    short[greatest] = round(short[greatest] + 1.0 - sum(short), _DECIMALS)
    return tuple(short)


def selector_id(policy: str, arms: Sequence[str], probabilities: Sequence[float]) -> str:
    """Hash of everything that a replay of a draw depends on: 24 hex digits."""
    content = json.dumps([policy, list(arms), list(probabilities)], separators=(",", ":"))
    return blake2b(content.encode(), digest_size=12, person=b"selector").hexdigest()


def route_salt(name: str) -> str:
    """Key of a route's sticky hashes: the same on every node and after every reload."""
    return blake2b(name.encode(), digest_size=16, person=b"route-salt").hexdigest()


def cache_store(settings: Settings) -> CacheStore | None:
    """Where workers keep answers beside their own memory; None if no route does."""
    redis = settings.redis
    used = any(route.caching is not None and route.caching.store == REDIS for route in settings.routes)
    if redis is None or not used:
        return None
    name = settings.cluster.name if settings.cluster is not None else "default"
    return CacheStore(redis.url, name, redis.max_connections)


def _number(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8, person=b"route-seed").digest(), "big")


class Steered(Protocol):
    """Who keeps the selectors of routes that look at requests or keep constraints; see ``optimizer.context_book``."""

    def features(self, route: RouteSettings) -> Features | None:
        """What the route's workers look at."""
        ...

    def selector(self, route: RouteSettings, side: str) -> Selector:
        """The frozen selector of one side; ``ValueError`` and ``OSError`` as ``build_side`` and the disk have them."""
        ...

    def drop(self, route: str, side: str) -> None:
        """There is no such side any more."""
        ...


@dataclass(frozen=True, slots=True)
class _Built:
    overlay: RouteOverlay
    route: Route


class Publisher:
    """Builds table after table, and rebuilds only the routes that something happened to.

    With the same seed and evidence a route gets the same selector whether it was skipped before or not;
    only the slow fading of old evidence on an idle route waits for its next event.
    """

    def __init__(self, *, seed: int, steered: Steered | None = None) -> None:
        self._seed = seed
        self._steered = steered
        self._built: dict[str, _Built] = {}

    def build(
        self,
        settings: Settings,
        source: EvidenceSource,
        *,
        version: int,
        now: float,
        dirty: Collection[str] | None = None,
        records: Iterable[Optimization] = (),
    ) -> RoutingTable:
        """The next table.

        Args:
            settings: May differ from the last call's; routes whose settings changed are rebuilt.
            source: Where evidence comes from.
            version: Of the table; the caller counts.
            now: Unix time in seconds, for the fading of evidence and ``published_at``.
            dirty: Names of routes with new evidence; None rebuilds all.
            records: The optimizations that change routes.

        Raises:
            ValueError: See ``build_side``; nothing of this call is remembered then.
        """
        records = tuple(records)
        overlays = effective(settings, records)
        built: dict[str, _Built] = {}
        for name, overlay in overlays.items():
            last = self._built.get(name)
            if last is not None and dirty is not None and name not in dirty and last.overlay == overlay:
                built[name] = last
            else:
                built[name] = _Built(overlay, self._route(overlay, source, now=now))
        self._built = built
        return RoutingTable(
            version=version,
            published_at=now,
            config_hash=settings.config_hash,
            upstreams=settings.upstreams,
            models=settings.models,
            variants=settings.variants,
            routes=tuple(built[route.name].route for route in settings.routes),
            passthrough=settings.passthrough,
            limits=settings.limits,
            access=settings.access,
            guard_lease_s=settings.guard_lease_s,
            segment_bytes=settings.retention.segment_bytes,
            overlays=plain_overlays(records),
            cache_store=cache_store(settings),
            trace_rate=settings.tracing.sample_rate if settings.tracing is not None else None,
        )

    def _route(self, overlay: RouteOverlay, source: EvidenceSource, *, now: float) -> Route:
        settings, candidate, judge = overlay.control, overlay.candidate, overlay.control.judge
        if candidate is None and self._steered is not None:
            self._steered.drop(settings.name, CANDIDATE)
        return Route(
            name=settings.name,
            control=self._side(settings, CONTROL, source, now=now),
            match=settings.match,
            candidate=self._side(candidate, CANDIDATE, source, now=now) if candidate is not None else None,
            candidate_fraction=overlay.fraction,
            rollout=overlay.rollout,
            sticky=settings.sticky,
            home=settings.home,
            salt=route_salt(settings.name),
            fallbacks=settings.fallbacks,
            resilience=settings.resilience,
            quota=settings.quota,
            guarding=overlay.guarding,
            features=self._features(settings, candidate),
            sampling=Sampling(judge.rate, judge.max_content_bytes) if judge is not None else None,
            caching=settings.caching,
        )

    def _features(self, *sides: RouteSettings | None) -> Features | None:
        steered = self._steered
        if steered is None:
            return None
        # Also of a policy that does not look: what is logged today is what a change to one that does will know. And a
        # side with too many arms does not look, but the other one may.
        looking = [side for side in sides if side is not None and side.optimize and len(side.arms) > 1]
        found = (steered.features(side) for side in looking if side.context is not None)
        return next((features for features in found if features is not None), None)

    def _side(self, route: RouteSettings, name: str, source: EvidenceSource, *, now: float) -> Side:
        if self._steered is not None:
            if is_steered(route):
                return Side(route.arms, self._steered.selector(route, name), route.baseline)
            self._steered.drop(route.name, name)
        return build_side(route, gather(route, source, now=now), seed=self._seed)


def build_table(
    settings: Settings,
    source: EvidenceSource,
    *,
    version: int,
    now: float,
    rng: np.random.Generator,
) -> RoutingTable:
    """One complete table; takes one number from ``rng``. ``Publisher`` does the same incrementally."""
    publisher = Publisher(seed=int(rng.integers(2**63)))
    return publisher.build(settings, source, version=version, now=now)
