"""A routing table made ready for requests: names resolved, bytes pre-encoded, masks computed.

A ``CompiledTable`` is immutable in use and belongs to one worker. Whatever can be computed once per
publication is computed here, so that a request costs look-ups and one draw. Parts that did not
change between two tables are carried over, connection pools above all.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from hashlib import blake2b
from urllib.parse import urlsplit

from optimizer.routing import (
    CANDIDATE,
    CONTROL,
    ENDPOINTS,
    Arm,
    Model,
    Price,
    Route,
    RoutingTable,
    Selector,
    Side,
    Sticky,
    Upstream,
    Variant,
)
from policies.selector import TableSelector
from proxy.http1.client import Origin, Pool
from proxy.http1.framing import encode_headers
from proxy.providers.base import Codec
from proxy.providers.registry import CODECS

CAPABILITIES = ("tools", "vision", "audio", "json_object", "json_schema")
_DEFAULT_VARIANT = Variant(name="default", key="")
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


@dataclass(frozen=True, slots=True)
class CompiledSide:
    """Arms, selector and the masks from which eligibility is intersected. Bit i stands for arm i.

    ``fixed_facts`` is the recorder's: serialized facts by how a request was decided.
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
    fixed_facts: dict[tuple[object, ...], bytes] = field(default_factory=dict, compare=False, repr=False)

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

    Rollout and bandit keys are the same in all workers of all nodes; the unit key is this node's secret.
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


class Compiler:
    """Turns tables into compiled tables, reusing pools and arms of the one before.

    ``resolve_secret`` maps a secret's name to its value or None. A pool whose upstream left the table is
    handed to ``retire`` (which closes it when idle). ``unit_secret`` keys what the log keeps of users and sessions.
    """

    def __init__(
        self,
        *,
        make_pool: Callable[[Origin], Pool],
        resolve_secret: Callable[[str], str | None],
        retire: Callable[[Pool], None],
        unit_secret: bytes,
    ) -> None:
        self._make_pool = make_pool
        self._resolve_secret = resolve_secret
        self._retire = retire
        self._unit_secret = unit_secret
        self._handles: dict[str, UpstreamHandle] = {}
        self._previous: CompiledTable | None = None

    def compile(self, table: RoutingTable) -> CompiledTable:
        """Build everything first, then retire what is gone: a failure leaves the old table usable."""
        handles = {upstream.name: self._handle(upstream) for upstream in table.upstreams}
        models = {model.name: model for model in table.models if model.upstream in handles}
        variants = {variant.name: variant for variant in table.variants}
        routes = {route.name: self._route(route, models, variants, handles) for route in table.routes}
        plain = {name: _plain_route(model, handles[model.upstream]) for name, model in models.items()}
        compiled = CompiledTable(table, routes, plain, handles)
        for name, old in self._handles.items():
            if name not in handles or handles[name].pool is not old.pool:
                self._retire(old.pool)
        self._handles = handles
        self._previous = compiled
        return compiled

    def _handle(self, upstream: Upstream) -> UpstreamHandle:
        old = self._handles.get(upstream.name)
        pool = (
            old.pool
            if old is not None and old.upstream == upstream
            else self._make_pool(Origin.from_upstream(upstream))
        )
        codec = CODECS[upstream.provider]
        missing = None
        credentials: list[tuple[bytes, bytes]] = []
        if upstream.auth == "key" and upstream.secret is not None:
            secret = self._resolve_secret(upstream.secret)
            if secret:
                credentials.append(codec.auth_header(upstream, secret))
            else:
                missing = f"secret {upstream.secret} is not set"
        parts = urlsplit(upstream.base_url)
        static = encode_headers(
            [
                (b"host", (parts.netloc.rpartition("@")[2] or "localhost").encode("latin-1")),
                *credentials,
                *((name.encode("latin-1"), value.encode("latin-1")) for name, value in upstream.headers),
            ]
        )
        if old is not None and old.pool is pool and old.static == static and old.missing == missing:
            return old
        return UpstreamHandle(
            upstream=upstream,
            pool=pool,
            codec=codec,
            static=static,
            missing=missing,
            passthrough_auth=upstream.auth == "passthrough",
            base=_raw_base(parts.path, upstream.provider),
            query=parts.query,
        )

    def _route(
        self,
        route: Route,
        models: Mapping[str, Model],
        variants: Mapping[str, Variant],
        handles: Mapping[str, UpstreamHandle],
    ) -> CompiledRoute:
        old = self._previous.routes.get(route.name) if self._previous is not None else None
        control = _side(CONTROL, route, route.control, models, variants, handles, old)
        candidate = (
            _side(CANDIDATE, route, route.candidate, models, variants, handles, old)
            if route.candidate is not None
            else None
        )
        return CompiledRoute(
            name=route.name,
            control=control,
            candidate=candidate,
            fraction=route.candidate_fraction if candidate is not None else 0.0,
            rollout=route.rollout,
            sticky=route.sticky,
            home=route.home,
            rollout_key=_key("rollout", route.rollout or "", route.salt),
            bandit_key=_key("bandit", route.name, route.salt),
            unit_key=blake2b(route.name.encode(), digest_size=32, key=self._unit_secret).digest(),
            plain=False,
            source=route,
        )


def _raw_base(path: str, provider: str) -> bytes:
    """What ``/v1`` of a pass-through request becomes, as the codecs build their own paths."""
    base = path.rstrip("/")
    if provider == "anthropic" and not base.endswith("/v1"):
        base += "/v1"
    return (base or "/v1").encode("latin-1")


def _key(*parts: str) -> bytes:
    """Key of a sticky hash: rollout and bandit must not correlate, nor two routes."""
    return blake2b("\0".join(parts).encode(), digest_size=32).digest()


def _side(
    name: str,
    route: Route,
    side: Side,
    models: Mapping[str, Model],
    variants: Mapping[str, Variant],
    handles: Mapping[str, UpstreamHandle],
    old: CompiledRoute | None,
) -> CompiledSide:
    before = (old.control if name == CONTROL else old.candidate) if old is not None else None
    arms = tuple(
        _arm(
            index,
            route.name,
            name,
            arm,
            models[arm.model],
            variants.get(arm.variant, _DEFAULT_VARIANT),
            handles[models[arm.model].upstream],
        )
        for index, arm in enumerate(side.arms)
    )
    if (
        before is not None
        and before.arms == arms
        and before.selector.selector_id == side.selector.id
        and before.ids[before.baseline] == side.baseline
    ):
        return before
    return _assemble(name, arms, side.selector, side.baseline)


def _assemble(name: str, arms: tuple[CompiledArm, ...], selector: Selector, baseline_id: str) -> CompiledSide:
    ids = tuple(arm.id for arm in arms)
    baseline = ids.index(baseline_id)
    contexts = tuple(arm.model.context_tokens for arm in arms)
    known = [limit for limit in contexts if limit is not None]
    vectors_of = arms[baseline].model.model_id
    return CompiledSide(
        name=name,
        arms=arms,
        ids=ids,
        selector=TableSelector(selector.id, selector.probabilities),
        policy=selector.policy,
        probabilities=selector.probabilities,
        full=(1 << len(arms)) - 1,
        available=_mask(arm for arm in arms if arm.handle.missing is None),
        baseline=baseline,
        endpoint_masks={
            endpoint: _mask(arm for arm in arms if endpoint in arm.model.endpoints) for endpoint in ENDPOINTS
        },
        capability_masks={
            capability: _mask(arm for arm in arms if capability in arm.model.capabilities)
            for capability in CAPABILITIES
        },
        context_limits=contexts,
        smallest_context=min(known) if known else 2**62,
        same_vectors=_mask(arm for arm in arms if arm.model.model_id == vectors_of),
        upstream_masks={
            name: _mask(arm for arm in arms if arm.model.upstream == name)
            for name in {arm.model.upstream for arm in arms}
        },
        passthrough=_mask(arm for arm in arms if arm.handle.passthrough_auth),
    )


def _mask(chosen: Iterable[CompiledArm]) -> int:
    return sum(1 << arm.index for arm in chosen)


def _arm(
    index: int,
    route: str,
    side: str,
    arm: Arm,
    model: Model,
    variant: Variant,
    handle: UpstreamHandle,
) -> CompiledArm:
    block = encode_headers(
        [
            (b"x-llm-optimizer-route", _header_text(route)),
            (b"x-llm-optimizer-arm", _header_text(arm.id)),
            (b"x-llm-optimizer-model", _header_text(model.name)),
            (b"x-llm-optimizer-variant", _header_text(variant.name)),
            (b"x-llm-optimizer-side", side.encode()),
        ]
    )
    return CompiledArm(index, arm.id, arm, model, variant, handle, model.price, block)


def _header_text(text: str) -> bytes:
    """Names in a header: printable ASCII, anything else as ``?``."""
    return bytes(byte if 32 <= byte < 127 else 63 for byte in text.encode("ascii", "replace"))


def _plain_route(model: Model, handle: UpstreamHandle) -> CompiledRoute:
    arm = Arm(
        id=model.name,
        model=model.name,
        variant=_DEFAULT_VARIANT.name,
        model_key=model.key,
        variant_key="",
    )
    compiled = _arm(0, model.name, CONTROL, arm, model, _DEFAULT_VARIANT, handle)
    side = _assemble(CONTROL, (compiled,), Selector(id="plain", policy="plain", probabilities=(1.0,)), arm.id)
    return CompiledRoute(
        name=model.name,
        control=side,
        candidate=None,
        fraction=0.0,
        rollout=None,
        sticky=None,
        home=None,
        rollout_key=b"",
        bandit_key=b"",
        unit_key=b"",
        plain=True,
        source=None,
    )
