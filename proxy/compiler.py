"""Turns published tables into compiled ones: pools, arms, masks and sides, reusing what did not change.

Invariant: everything is built before anything of the old table is retired, so that a failure leaves it usable. Building
can be done in steps with requests served between them; nobody sees a table before its last step.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from operator import is_
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import urlsplit

from optimizer.routing import (
    CANDIDATE,
    CHAT,
    CONTROL,
    ENDPOINTS,
    MESSAGES,
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
from proxy.messages_body import NATIVE
from proxy.providers.registry import CODECS
from proxy.resilience.breaker import Board, Breaker
from proxy.resilience.follow_up import RetryBudget
from proxy.rollout_watch import Watches
from proxy.selectors import Selectors

if TYPE_CHECKING:
    from policies.contextual import ContextualSelector

BreakerOf: TypeAlias = Callable[[Model, Upstream], Breaker]

CAPABILITIES = ("tools", "vision", "audio", "json_object", "json_schema")
_DEFAULT_VARIANT = Variant(name="default", key="")
_PLAIN_AT_ONCE = 10

Named = TypeVar("Named", Model, Variant)


class Compiler:
    """Turns tables into compiled tables, reusing pools and arms of the one before.

    ``resolve_secret`` maps a secret's name to its value or None. A pool whose upstream left the table is
    handed to ``retire`` (which closes it when idle). ``unit_secret`` keys what the log keeps of users and sessions.
    ``board`` holds the breakers and ``watches`` what is known of rollouts, from table to table; ``selectors`` what was
    loaded for contextual routes, without which they draw by their mean probabilities.
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
        selectors: Selectors | None = None,
    ) -> None:
        self._board = board
        self._selectors = selectors
        self._watches = watches or Watches()
        self._make_pool = make_pool
        self._resolve_secret = resolve_secret
        self._retire = retire
        self._unit_secret = unit_secret
        self._handles: dict[str, UpstreamHandle] = {}
        self._previous: CompiledTable | None = None
        self._watched: list[tuple[CompiledArm, ...]] = []

    def compile(self, table: RoutingTable) -> CompiledTable:
        """Build everything first, then retire what is gone: a failure leaves the old table usable."""
        for step in self.steps(table):
            if step is not None:
                return step
        raise AssertionError("the last step is the table")

    def steps(self, table: RoutingTable) -> Generator[CompiledTable | None, None, None]:
        """``compile`` in steps of well below a millisecond each; the last one gives the table, which is then in force.

        Steps that are not gone on with leave everything as it was.
        """
        handles: dict[str, UpstreamHandle] = {}
        done = False
        try:
            for upstream in table.upstreams:
                handles[upstream.name] = self._handle(upstream)
            yield None
            before = self._previous
            models = self._models(table, handles, before)
            variants = _kept(table.variants, before.source.variants if before is not None else ())
            yield None
            routes: dict[str, CompiledRoute] = {}
            for route in table.routes:
                routes[route.name] = self._route(route, models, variants, handles)
                yield None
            plain: dict[str, CompiledRoute] = {}
            for name, model in models.items():
                plain[name] = self._plain(model, handles[model.upstream])
                if len(plain) % _PLAIN_AT_ONCE == 0:
                    yield None
            # The next table is compared with what was kept, by identity.
            kept = replace(
                table,
                models=tuple([models.get(model.name, model) for model in table.models]),
                variants=tuple(variants.values()),
            )
            compiled = CompiledTable(kept, routes, plain, handles)
            done = True
        finally:
            if not done:
                self._discard(handles)
        self._commit(compiled, handles)
        yield compiled

    def _commit(self, compiled: CompiledTable, handles: dict[str, UpstreamHandle]) -> None:
        for name, old in self._handles.items():
            if name not in handles or handles[name].pool is not old.pool:
                self._retire(old.pool)
        self._handles = handles
        self._previous = compiled
        self._watch(compiled)
        self._watches.keep(compiled.source.routes)

    def _discard(self, handles: Mapping[str, UpstreamHandle]) -> None:
        """Close the pools of a table that was not finished."""
        in_use = {id(handle.pool) for handle in self._handles.values()}
        for handle in handles.values():
            if id(handle.pool) not in in_use:
                self._retire(handle.pool)

    def _models(
        self, table: RoutingTable, handles: Mapping[str, UpstreamHandle], before: CompiledTable | None
    ) -> dict[str, Model]:
        """By name; those that did not change are the objects of the table before, which is quick to see later."""
        kept = _kept(table.models, before.source.models if before is not None else ())
        return {name: model for name, model in kept.items() if model.upstream in handles}

    def _breaker(self, model: Model, upstream: Upstream) -> Breaker:
        return self._board.breaker(upstream.name, model.model_id, upstream.breaker)

    def _watch(self, table: CompiledTable) -> None:
        """Let the breakers of ``table`` report to its sides, and to none of an older table's."""
        sides = [side for route in (*table.routes.values(), *table.plain.values()) for side in route.sides]
        arms = [side.arms for side in sides]
        same = len(arms) == len(self._watched) and all(map(is_, arms, self._watched))
        self._watched = arms
        if same:
            return  # sides with the same arms share what is known of their health
        watched: dict[Breaker, list[tuple[Health, int]]] = {}
        for side in sides:
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
        known = (old.control, old.candidate, old.fallback) if old is not None else (None, None, None)
        rest = (models, variants, handles)
        control = self._side(CONTROL, route, route.control, *rest, known[0])
        candidate = fallback = None
        if route.candidate is not None:
            candidate = self._side(CANDIDATE, route, route.candidate, *rest, known[1])
        if route.fallbacks:
            fallback = self._side(CONTROL, route, _fallback_side(route), *rest, known[2])
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
            reads=self._selectors.reader(route.features) if self._selectors is not None else None,
            sampling=route.sampling,
            caching=route.caching,
        )

    def _plain(self, model: Model, handle: UpstreamHandle) -> CompiledRoute:
        old = self._previous.plain.get(model.name) if self._previous is not None else None
        if old is not None and _is_of(old.control.arms[0], model, handle):
            return old
        return _plain_route(model, handle, self._breaker)

    def _side(
        self,
        name: str,
        route: Route,
        side: Side,
        models: Mapping[str, Model],
        variants: Mapping[str, Variant],
        handles: Mapping[str, UpstreamHandle],
        before: CompiledSide | None,
    ) -> CompiledSide:
        arms = tuple(
            [
                self._arm(index, route.name, name, arm, models, variants, handles, before)
                for index, arm in enumerate(side.arms)
            ]
        )
        if before is None or len(before.arms) != len(arms) or not all(map(is_, before.arms, arms)):
            contextual = self._contextual(route, side)
            return _assemble(name, arms, side.selector, side.baseline, contextual)
        known = before.selector.selector_id == side.selector.id
        if before.ids[before.baseline] != side.baseline:
            return _assemble(name, before.arms, side.selector, side.baseline, self._contextual(route, side))
        selectors = self._selectors
        if selectors is not None and selectors.is_pending(side.selector) and self._reads_as_before(route):
            # What it drew by so far is nearer to what is meant than the mean over all requests.
            return before
        contextual = self._contextual(route, side)
        if known and contextual is before.contextual:
            return before
        return replace(
            before,
            selector=TableSelector(side.selector.id, side.selector.probabilities),
            policy=side.selector.policy,
            probabilities=side.selector.probabilities,
            contextual=contextual,
            fixed_facts={},
        )

    def _reads_as_before(self, route: Route) -> bool:
        """Whether requests become the vectors that the sides in use were made for."""
        old = self._previous.routes.get(route.name) if self._previous is not None else None
        before = old.source.features if old is not None and old.source is not None else None
        return route.features is not None and route.features == before

    def _contextual(self, route: Route, side: Side) -> "ContextualSelector | None":
        if self._selectors is None or side.selector.index is None:
            return None
        return self._selectors.contextual(side.selector, route.features, len(side.arms))

    def _arm(
        self,
        index: int,
        route: str,
        side: str,
        arm: Arm,
        models: Mapping[str, Model],
        variants: Mapping[str, Variant],
        handles: Mapping[str, UpstreamHandle],
        before: CompiledSide | None,
    ) -> CompiledArm:
        model = models[arm.model]
        handle = handles[model.upstream]
        variant = variants.get(arm.variant, _DEFAULT_VARIANT)
        if before is not None and index < len(before.arms):
            old = before.arms[index]
            same = _is_of(old, model, handle) and old.variant is variant
            if same and (old.arm is arm or old.arm == arm):
                return old
        return _arm(index, route, side, arm, model, variant, handle, self._breaker)


def _kept(new: Iterable[Named], old: Iterable[Named]) -> dict[str, Named]:
    """By name; equal ones of ``old`` instead of those of ``new``, so that later a look at their identity is enough."""
    known = {entry.name: entry for entry in old}
    kept = {}
    for entry in new:
        before = known.get(entry.name)
        kept[entry.name] = before if before is not None and before == entry else entry
    return kept


def _is_of(arm: CompiledArm, model: Model, handle: UpstreamHandle) -> bool:
    """Whether the arm is one of this very model at this very upstream."""
    return arm.model is model and arm.handle is handle


def _raw_base(path: str, provider: str) -> bytes:
    """What ``/v1`` of a pass-through request becomes, as the codecs build their own paths."""
    base = path.rstrip("/")
    if provider == "anthropic" and not base.endswith("/v1"):
        base += "/v1"
    return (base or "/v1").encode("latin-1")


def _key(*parts: str) -> bytes:
    """Key of a sticky hash: rollout and bandit must not correlate, nor two routes."""
    return blake2b("\0".join(parts).encode(), digest_size=32).digest()


def _assemble(
    name: str,
    arms: tuple[CompiledArm, ...],
    selector: Selector,
    baseline_id: str,
    contextual: "ContextualSelector | None" = None,
) -> CompiledSide:
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
            endpoint: _mask(arm for arm in arms if _speaks(arm, endpoint)) for endpoint in ENDPOINTS
        },
        capability_masks={
            capability: _mask(arm for arm in arms if capability in arm.model.capabilities)
            for capability in CAPABILITIES
        }
        | {NATIVE: _mask(arm for arm in arms if MESSAGES in arm.handle.codec.native)},
        context_limits=contexts,
        smallest_context=min(known) if known else 2**62,
        same_vectors=_mask(arm for arm in arms if arm.model.model_id == vectors_of),
        upstream_masks={
            name: _mask(arm for arm in arms if arm.model.upstream == name)
            for name in {arm.model.upstream for arm in arms}
        },
        passthrough=_mask(arm for arm in arms if arm.handle.passthrough_auth),
        contextual=contextual,
    )


def _speaks(arm: CompiledArm, endpoint: str) -> bool:
    """Whoever chats answers messages as well: what its provider does not know is translated."""
    spoken = arm.model.endpoints
    return endpoint in spoken or (endpoint == MESSAGES and CHAT in spoken)


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
