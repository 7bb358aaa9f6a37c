"""Turns published tables into compiled ones: pools, arms, masks and sides, reusing what did not change.

Invariant: everything is built before anything of the old table is retired, so that a failure leaves it usable.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import TypeAlias
from urllib.parse import urlsplit

from optimizer.routing import (
    CANDIDATE,
    CONTROL,
    ENDPOINTS,
    Arm,
    Model,
    Route,
    RoutingTable,
    Selector,
    Side,
    Upstream,
    Variant,
)
from policies.selector import TableSelector
from proxy.compiled import CompiledArm, CompiledRoute, CompiledSide, CompiledTable, Health, UpstreamHandle
from proxy.http1.client import Origin, Pool
from proxy.http1.framing import encode_headers
from proxy.providers.registry import CODECS
from proxy.resilience.breaker import Board, Breaker
from proxy.resilience.follow_up import RetryBudget
from proxy.rollout_watch import Watches

BreakerOf: TypeAlias = Callable[[Model, Upstream], Breaker]

CAPABILITIES = ("tools", "vision", "audio", "json_object", "json_schema")
_DEFAULT_VARIANT = Variant(name="default", key="")


class Compiler:
    """Turns tables into compiled tables, reusing pools and arms of the one before.

    ``resolve_secret`` maps a secret's name to its value or None. A pool whose upstream left the table is
    handed to ``retire`` (which closes it when idle). ``unit_secret`` keys what the log keeps of users and sessions.
    ``board`` holds the breakers and ``watches`` what is known of rollouts, from table to table.
    """

    def __init__(
        self,
        *,
        make_pool: Callable[[Origin], Pool],
        resolve_secret: Callable[[str], str | None],
        retire: Callable[[Pool], None],
        unit_secret: bytes,
        board: Board,
        watches: Watches | None = None,
    ) -> None:
        self._board = board
        self._watches = watches or Watches()
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
        plain = {
            name: _plain_route(model, handles[model.upstream], self._breaker)
            for name, model in models.items()
        }
        compiled = CompiledTable(table, routes, plain, handles)
        for name, old in self._handles.items():
            if name not in handles or handles[name].pool is not old.pool:
                self._retire(old.pool)
        self._handles = handles
        self._previous = compiled
        self._watch(compiled)
        self._watches.keep(table.routes)
        return compiled

    def _breaker(self, model: Model, upstream: Upstream) -> Breaker:
        return self._board.breaker(upstream.name, model.model_id, upstream.breaker)

    def _watch(self, table: CompiledTable) -> None:
        """Let the breakers of ``table`` report to its sides, and to none of an older table's."""
        watched: dict[Breaker, list[tuple[Health, int]]] = {}
        for route in (*table.routes.values(), *table.plain.values()):
            for side in route.sides:
                side.health.down = _mask(arm for arm in side.arms if arm.breaker.down)
                for arm in side.arms:
                    watched.setdefault(arm.breaker, []).append((side.health, 1 << arm.index))
        for breaker, places in watched.items():
            breaker.watcher = partial(_show, breaker, places)
        self._board.keep({(model.upstream, model.model_id) for model in table.source.models})

    def _handle(self, upstream: Upstream) -> UpstreamHandle:
        old = self._handles.get(upstream.name)
        pool = (
            old.pool
            if old is not None and _same_origin(old.upstream, upstream)
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
        if (
            old is not None
            and old.upstream == upstream
            and (old.pool, old.static, old.missing) == (pool, static, missing)
        ):
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
            budget=RetryBudget(upstream.retry_share, upstream.retry_floor),
        )

    def _route(
        self,
        route: Route,
        models: Mapping[str, Model],
        variants: Mapping[str, Variant],
        handles: Mapping[str, UpstreamHandle],
    ) -> CompiledRoute:
        old = self._previous.routes.get(route.name) if self._previous is not None else None
        control = self._side(CONTROL, route, route.control, models, variants, handles, old)
        candidate = (
            self._side(CANDIDATE, route, route.candidate, models, variants, handles, old)
            if route.candidate is not None
            else None
        )
        fallback = (
            self._side(CONTROL, route, _fallback_side(route), models, variants, handles, None)
            if route.fallbacks
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
            fallback=fallback,
            resilience=route.resilience,
            watch=self._watches.watch(route),
        )

    def _side(
        self,
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
                self._breaker,
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


def _raw_base(path: str, provider: str) -> bytes:
    """What ``/v1`` of a pass-through request becomes, as the codecs build their own paths."""
    base = path.rstrip("/")
    if provider == "anthropic" and not base.endswith("/v1"):
        base += "/v1"
    return (base or "/v1").encode("latin-1")


def _key(*parts: str) -> bytes:
    """Key of a sticky hash: rollout and bandit must not correlate, nor two routes."""
    return blake2b("\0".join(parts).encode(), digest_size=32).digest()


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


def _fallback_side(route: Route) -> Side:
    """The fallbacks as a side, so that they are judged like other arms; nobody draws from it."""
    share = 1.0 / len(route.fallbacks)
    selector = Selector("fallback", "fixed", tuple([share] * len(route.fallbacks)))
    return Side(route.fallbacks, selector, route.fallbacks[0].id)


def _same_origin(old: Upstream, new: Upstream) -> bool:
    """Whether connections to the one serve for the other."""
    rules = {"breaker": new.breaker, "retry_share": new.retry_share, "retry_floor": new.retry_floor}
    return replace(old, **rules) == new  # type: ignore[arg-type]


def _show(breaker: Breaker, places: Iterable[tuple[Health, int]]) -> None:
    """Tell the sides of a breaker's arms whether it is down."""
    for health, bit in places:
        health.down = health.down | bit if breaker.down else health.down & ~bit


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
    breaker: BreakerOf,
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
    return CompiledArm(
        index, arm.id, arm, model, variant, handle, model.price, block, breaker(model, handle.upstream)
    )


def _header_text(text: str) -> bytes:
    """Names in a header: printable ASCII, anything else as ``?``."""
    return bytes(byte if 32 <= byte < 127 else 63 for byte in text.encode("ascii", "replace"))


def _plain_route(model: Model, handle: UpstreamHandle, breaker: BreakerOf) -> CompiledRoute:
    arm = Arm(
        id=model.name,
        model=model.name,
        variant=_DEFAULT_VARIANT.name,
        model_key=model.key,
        variant_key="",
    )
    compiled = _arm(0, model.name, CONTROL, arm, model, _DEFAULT_VARIANT, handle, breaker)
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
