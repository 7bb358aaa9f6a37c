"""A routing table made ready for requests: names resolved, bytes pre-encoded, masks computed.

A ``CompiledTable`` is immutable in use and belongs to one worker. Whatever can be computed once per
publication is computed here, so that a request costs look-ups and one draw. Parts that did not
change between two tables are carried over, connection pools above all.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import TYPE_CHECKING

from optimizer.routing import (
    Arm,
    Caching,
    Model,
    Price,
    Quota,
    Resilience,
    Route,
    RoutingTable,
    Sampling,
    Sticky,
    Upstream,
    Variant,
)
from policies.selector import TableSelector
from proxy.http1.client import Pool
from proxy.providers.base import Codec
from proxy.resilience.breaker import Breaker
from proxy.resilience.follow_up import RetryBudget
from proxy.rollout_watch import Watch
from proxy.selectors import Reads

if TYPE_CHECKING:
    from policies.contextual import ContextualSelector

_RESOLVE_CACHE = 4096
_OPENINGS = 4096
# A longer ``model`` is nobody's; it must neither be kept nor be matched.
_LONGEST_NAME = 512


@dataclass(frozen=True, slots=True)
class UpstreamHandle:
    """An upstream with its pool, codec and credentials resolved.

    ``missing`` says why it can't be used (an unresolved secret), else None. ``static`` is the header
    block of every request to it: host, credentials, configured headers. ``base`` is the path that stands for
    ``/v1`` there and ``query`` what every pass-through request carries.
    """

    upstream: Upstream
    pool: Pool
    codec: Codec
    static: bytes
    missing: str | None
    passthrough_auth: bool

    base: bytes
    query: str
    budget: RetryBudget = field(compare=False, repr=False)
    openings: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def opening(self, path: str) -> bytes:
        """The beginning of a request head that is the same for every optimized request to ``path``."""
        known = self.openings.get(path)
        if known is None:
            if len(self.openings) >= _OPENINGS:
                self.openings.clear()
            known = self.openings[path] = (
                b"POST %b HTTP/1.1\r\n%b" % (path.encode("latin-1"), self.static)
                + b"content-type: application/json\r\naccept-encoding: identity\r\nuser-agent: llm-optimizer\r\n"
            )
        return known


@dataclass(frozen=True, slots=True)
class CompiledArm:
    """One arm with everything that a request to it needs. ``block`` is its response header block."""

    index: int
    id: str
    arm: Arm
    model: Model
    variant: Variant
    handle: UpstreamHandle
    price: Price | None
    block: bytes
    breaker: Breaker = field(compare=False, repr=False)


class Health:
    """Which arms of one side are not to be chosen now: bit i of ``down`` stands for arm i.

    Their breakers keep it up to date, so a decision reads one number.
    """

    __slots__ = ("down",)

    def __init__(self) -> None:
        self.down = 0


@dataclass(frozen=True, slots=True)
class CompiledSide:
    """Arms, selector and the masks from which eligibility is intersected. Bit i stands for arm i.

    ``available`` says whose credentials are there, ``health`` which of them are up. ``contextual`` chooses by what a
    request is like; without it ``selector`` does, which is always there. ``fixed_facts`` is the recorder's: serialized
    facts by how a request was decided; ``meanings`` the cache's, which depend on the arms alone.
    """

    name: str
    arms: tuple[CompiledArm, ...]
    ids: tuple[str, ...]
    selector: TableSelector
    policy: str
    probabilities: tuple[float, ...]
    full: int
    available: int
    baseline: int
    endpoint_masks: Mapping[str, int]
    capability_masks: Mapping[str, int]
    context_limits: tuple[int | None, ...]
    smallest_context: int
    same_vectors: int
    upstream_masks: Mapping[str, int]
    passthrough: int
    contextual: "ContextualSelector | None" = field(default=None, compare=False, repr=False)
    health: Health = field(default_factory=Health, compare=False, repr=False)
    fixed_facts: dict[tuple[object, ...], bytes] = field(default_factory=dict, compare=False, repr=False)
    meanings: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def index_of(self, name: str) -> int | None:
        """Arm by id, else the first arm of a model of that name."""
        for arm in self.arms:
            if arm.id == name:
                return arm.index
        for arm in self.arms:
            if arm.model.name == name:
                return arm.index
        return None


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """A route, or a plain model seen as a route of one arm (``plain``).

    ``fallback`` are the arms to go to instead of the side's own when the decided one fails. Rollout and bandit keys
    are the same in all workers of all nodes; the unit key is this node's secret. ``watch`` counts for the guards of the
    rollout; None without one. ``reads`` turns requests into vectors, on routes whose decisions look at them.
    ``sampling`` says which requests leave their content to a judge, ``caching`` which answers are kept; None for none.
    """

    name: str
    control: CompiledSide
    candidate: CompiledSide | None
    fraction: float
    rollout: str | None
    sticky: Sticky | None
    home: str | None
    rollout_key: bytes
    bandit_key: bytes
    unit_key: bytes
    plain: bool
    source: Route | None
    fallback: CompiledSide | None = None
    resilience: Resilience = field(default_factory=Resilience)
    watch: Watch | None = field(default=None, compare=False, repr=False)
    reads: Reads | None = field(default=None, compare=False, repr=False)
    sampling: Sampling | None = None
    caching: Caching | None = None

    @property
    def quota(self) -> Quota | None:
        """Limits of the route as a whole."""
        return self.source.quota if self.source is not None else None

    @property
    def sides(self) -> tuple[CompiledSide, ...]:
        """All that it has."""
        return tuple(side for side in (self.control, self.candidate, self.fallback) if side is not None)


class CompiledTable:
    """All routes of one published version."""

    __slots__ = (
        "_patterns",
        "_resolved",
        "handles",
        "passthrough",
        "plain",
        "routes",
        "source",
        "version",
    )

    def __init__(
        self,
        source: RoutingTable,
        routes: Mapping[str, CompiledRoute],
        plain: Mapping[str, CompiledRoute],
        handles: Mapping[str, UpstreamHandle],
    ) -> None:
        self.source = source
        self.version = source.version
        self.routes = routes
        self.plain = plain
        self.handles = handles
        self.passthrough = tuple(
            (prefix, handles[name])
            for prefix, name in sorted(source.passthrough, key=lambda pair: -len(pair[0]))
            if name in handles
        )
        self._patterns: list[tuple[Callable[[str], object], CompiledRoute]] = [
            (re.compile(translate(pattern)).match, routes[route.name])
            for route in source.routes
            for pattern in route.match
        ]
        self._resolved: dict[str, CompiledRoute | None] = {}

    def resolve(self, model: str) -> CompiledRoute | None:
        """What a ``model`` field selects: exact route, else first matching pattern, else plain model."""
        route = self.routes.get(model)
        if route is not None:
            return route
        if len(model) > _LONGEST_NAME:
            return None
        if model in self._resolved:
            return self._resolved[model]
        route = next((route for match, route in self._patterns if match(model)), None)
        if route is None:
            route = self.plain.get(model)
        if len(self._resolved) < _RESOLVE_CACHE:
            self._resolved[model] = route
        return route

    def passthrough_handle(self, path: str) -> UpstreamHandle | None:
        """The upstream that the longest configured prefix of ``path`` names; a prefix ends where a segment does."""
        for prefix, handle in self.passthrough:
            if path.startswith(prefix) and (prefix[-1:] == "/" or path[len(prefix) :][:1] in ("", "/")):
                return handle
        return None
