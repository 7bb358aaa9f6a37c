"""The synchronous core: one parsed request in, one decision with its exact propensity out.

Nothing here awaits, locks, logs or reads a clock; randomness is a function that is passed in. A request
reads one table, and what it logs suffices to replay the decision. All it leaves behind is a count, on routes with a
rollout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from optimizer.routing import EMBEDDINGS
from proxy.compiled import CompiledArm, CompiledRoute, CompiledSide, CompiledTable
from proxy.envelope import Envelope
from proxy.errors import ClientFault, ModelNotFound, ProxyError, Unavailable
from proxy.headers import PIN
from proxy.messages_body import NATIVE
from proxy.rollout_watch import Watch

if TYPE_CHECKING:
    from proxy.context import Context

_TWO_POW_64 = 2.0**64
UNIT_BYTES = 8
# Providers answer with at least a few tokens; without max_tokens this much room is asked of a context window.
_REPLY_ROOM_TOKENS = 256
_LISTED_ARMS = 32
# Why a unit of the candidate's gets control; also the names of the event's fields.
GUARD_LOST = "guard_lost"
STOPPED = "stopped"
UNSERVED = "unserved"


@dataclass(slots=True)
class Sight:
    """What a decision saw of its request, on routes that look at them.

    ``draw`` is the uniform number and ``vector`` the probability of every arm of the side, when they chose; else
    the arm was not drawn by what was seen. ``dear`` has a bit per arm that was left out for its predicted cost.
    """

    context: "Context"
    draw: float | None = None
    vector: Sequence[float] | None = None
    dear: int = 0


@dataclass(slots=True)
class Decision:
    """Where one request goes and with what probability.

    ``mask`` has a bit per eligible arm of ``side``, ``ejected`` one per arm that only its open breaker keeps out;
    ``propensity`` is P(arm | side, mask);
    ``side_probability`` P(side) for this unit; ``baseline`` the index of the arm the caller would have
    got without us. ``unit_hash`` is a keyed hash, or "" when the unit is the request. ``withheld`` says why a unit of
    the candidate's got control, else None. ``watch`` counts how it ends, None when the guards must not see it.
    ``sampled`` says that it was drawn for the judge. ``sight`` is None on routes that do not look at requests.
    """

    route: CompiledRoute
    side: CompiledSide
    arm: CompiledArm
    propensity: float
    side_probability: float
    mask: int
    reason: str
    randomised: bool
    unit: str
    unit_hash: str
    withheld: str | None
    baseline: int
    ejected: int = 0
    watch: Watch | None = None
    sampled: bool = False
    sight: Sight | None = None


def decide(
    table: CompiledTable,
    envelope: Envelope,
    headers: Mapping[bytes, bytes],
    *,
    uniform: Callable[[], float],
    guarded: bool,
) -> Decision:
    """Choose an arm.

    Raises:
        ModelNotFound: If ``model`` selects nothing.
        ClientFault: If a pin names no arm of the route, or no arm can do what is asked; with the reasons.
        Unavailable: If arms that might serve are not available now.
    """
    route = table.resolve(envelope.model)
    if route is None:
        raise ModelNotFound(envelope.model)
    unit, unit_bytes = _unit(route, envelope, headers)
    side, side_probability, withheld, watch = _draw_side(route, envelope, unit_bytes, uniform, guarded)
    sight = Sight(route.reads(envelope, headers)) if route.reads is not None else None
    if (pin := headers.get(PIN)) is not None:
        drawn, watch = side, None
        side, index, baseline = _pinned(route, side, pin, guarded, envelope)
        side_probability, withheld = (side_probability, withheld) if side is drawn else (1.0, None)
        mask, reason, propensity, ejected = 1 << index, "pinned", 1.0, 0
    else:
        baseline = _baseline(route, side, envelope)
        mask, reason = _eligible(route, side, envelope, baseline)
        if watch is not None:
            watch.assigned(side.name)
        if not mask and side is route.candidate:
            side_probability, withheld, side, baseline = _stood_in_for(route, envelope, watch)
            watch, (mask, reason) = None, _eligible(route, side, envelope, baseline)
        if not mask:
            raise _nobody(side, envelope, watch)
        if ejected := mask & side.health.down:
            mask, ejected, reason = _eject(mask, ejected, reason)
        draw = uniform() if unit_bytes is None else _hash_uniform(route.bandit_key, unit_bytes)
        if sight is None:
            index, propensity = side.selector.choose(draw, mask)
        else:
            index, propensity, mask, reason = _look(sight, side, draw, mask, reason)
    return Decision(
        route=route,
        side=side,
        arm=side.arms[index],
        propensity=propensity,
        side_probability=side_probability,
        mask=mask,
        reason=reason,
        randomised=reason == "bandit",
        unit=unit,
        unit_hash="" if unit_bytes is None else unit_digest(route.unit_key, unit_bytes),
        withheld=withheld,
        baseline=baseline,
        ejected=ejected,
        watch=watch,
        sight=sight,
    )


def _look(
    sight: Sight, side: CompiledSide, draw: float, mask: int, reason: str
) -> tuple[int, float, int, str]:
    """Choose by what the request is like: the arm, its probability, who was eligible, and the reason."""
    selector, x = side.contextual, sight.context.x
    if selector is None or not mask & (mask - 1):
        return *side.selector.choose(draw, mask), mask, reason
    if selector.capped and (dear := mask & ~selector.affordable(x, mask)):
        sight.dear = dear
        mask ^= dear
        if reason == "bandit" and mask.bit_count() == 1:
            reason = "single"
    index, vector = selector.choose(draw, mask, x)
    sight.draw, sight.vector = draw, vector
    return index, vector[index], mask, reason


def _eject(mask: int, ejected: int, reason: str) -> tuple[int, int, str]:
    """Who of ``mask`` is left, who is ejected, and the reason for a choice among the former."""
    if ejected == mask:
        return mask, 0, reason  # Somebody has to try: the last arm is never ejected.
    mask ^= ejected
    return mask, ejected, "single" if reason == "bandit" and mask.bit_count() == 1 else reason


def unit_digest(key: bytes, unit: bytes) -> str:
    """What the log keeps of a unit: a keyed hash that does not reveal the draw."""
    return blake2b(unit, digest_size=UNIT_BYTES, key=key, person=b"unit").hexdigest()


def room_tokens(envelope: Envelope) -> int:
    """How much of a context window the request will need, as far as can be told from its size."""
    return envelope.input_tokens_estimate + (envelope.max_output_tokens or _REPLY_ROOM_TOKENS)


def filtered_reasons(decision: Decision, envelope: Envelope) -> dict[str, str]:
    """Why each ineligible arm of the decided side was left out, for the log."""
    side, mask, ejected = decision.side, decision.mask, decision.ejected
    dear = decision.sight.dear if decision.sight is not None else 0
    return {
        arm.id: "breaker open"
        if ejected >> arm.index & 1
        else "predicted to cost more than a request may"
        if dear >> arm.index & 1
        else _why_not(side, arm, envelope, decision.reason)
        for arm in side.arms
        if not mask >> arm.index & 1
    }


def _unit(
    route: CompiledRoute, envelope: Envelope, headers: Mapping[bytes, bytes]
) -> tuple[str, bytes | None]:
    """What must keep its arm across requests; None when every request is drawn anew."""
    sticky = route.sticky
    if sticky is None:
        return "request", None
    if sticky.by == "header":
        value = headers.get(sticky.header.encode("latin-1"))
        if value:
            return "header", value
    if envelope.user is not None:
        return "user", envelope.user.encode()
    return "request", None


def _hash_uniform(key: bytes, unit: bytes) -> float:
    """A uniform number in [0, 1) that every worker computes alike for this unit."""
    digest = blake2b(unit, digest_size=8, key=key, person=b"draw").digest()
    # 2**64 - 1 rounds up to 1.0 as a float; keep the interval half open.
    return min(int.from_bytes(digest, "big") / _TWO_POW_64, 1.0 - 2**-53)


def _baseline(route: CompiledRoute, side: CompiledSide, envelope: Envelope) -> int:
    """Index of the arm that the caller asked for by name, else of the side's own baseline."""
    wanted = side.index_of(envelope.model) if envelope.model != route.name else None
    return side.baseline if wanted is None else wanted


def _draw_side(
    route: CompiledRoute,
    envelope: Envelope,
    unit: bytes | None,
    uniform: Callable[[], float],
    guarded: bool,
) -> tuple[CompiledSide, float, str | None, Watch | None]:
    """The side, its probability, why the candidate is withheld from a unit of its own, and who counts."""
    candidate = route.candidate
    if candidate is None or route.fraction <= 0.0 or _is_controls(route, candidate, envelope):
        return route.control, 1.0, None, None
    draw = uniform() if unit is None else _hash_uniform(route.rollout_key, unit)
    watch = route.watch
    if not guarded or (watch is not None and watch.stopped):
        # Everybody gets control, so that is certain for everybody; and there is nothing to compare it with.
        if draw >= route.fraction:
            return route.control, 1.0, None, None
        return route.control, 1.0, STOPPED if guarded else GUARD_LOST, None
    if draw >= route.fraction:
        return route.control, 1.0 - route.fraction, None, watch
    return candidate, route.fraction, None, watch


def _stood_in_for(
    route: CompiledRoute, envelope: Envelope, watch: Watch | None
) -> tuple[float, str, CompiledSide, int]:
    """Control and its baseline, for a request that the candidate can't serve.

    That must not cost its caller anything, but is counted.
    """
    assert route.candidate is not None
    _nobody(route.candidate, envelope, watch)
    return 1.0, UNSERVED, route.control, _baseline(route, route.control, envelope)


def _is_controls(route: CompiledRoute, candidate: CompiledSide, envelope: Envelope) -> bool:
    """Whether the rollout must not move this request, whichever side its unit would draw.

    Vectors, state that a provider holds and the caller's own credential belong to where control has them. When the
    candidate has nobody there, that is no failure of its own, so nobody counts it.
    """
    belongs = envelope.endpoint == EMBEDDINGS or envelope.stateful
    if not belongs and not candidate.passthrough and not route.control.passthrough:
        return False
    home = _controls_arm(route, candidate, envelope, candidate.baseline)
    there = candidate.available
    if candidate.passthrough or route.control.passthrough:
        own = candidate.upstream_masks.get(home.model.upstream, 0)
        there &= own if home.handle.passthrough_auth else ~candidate.passthrough
    if envelope.endpoint == EMBEDDINGS:
        there &= _of_model(candidate, home)
    elif envelope.stateful:
        there &= candidate.upstream_masks.get(_home(route, envelope), 0)
    return not there


def _home(route: CompiledRoute, envelope: Envelope) -> str:
    """The upstream that holds the route's state: a candidate's own baseline must not move it.

    State that only a Messages API can hold is at the first upstream with one, unless the home itself has one.
    """
    control = route.control
    home = route.home or control.arms[control.baseline].model.upstream
    if NATIVE in envelope.needs:
        native = control.capability_masks[NATIVE]
        if not native & control.upstream_masks.get(home, 0):
            return next((arm.model.upstream for arm in control.arms if native >> arm.index & 1), home)
    return home


def _of_model(side: CompiledSide, home: CompiledArm) -> int:
    """The arms of ``side`` whose vectors can be compared with those of ``home``."""
    return sum(1 << arm.index for arm in side.arms if arm.model.model_id == home.model.model_id)


def _pinned(
    route: CompiledRoute, side: CompiledSide, pin: bytes, guarded: bool, envelope: Envelope
) -> tuple[CompiledSide, int, int]:
    """Where the arm of that name is, and the baseline there; nobody stands in for one that is not available."""
    name = pin.decode("latin-1")
    reachable = guarded and (route.watch is None or not route.watch.stopped)
    for choice in (side, route.control, route.candidate if reachable else None):
        if choice is not None:
            index = choice.index_of(name)
            if index is not None:
                if not (choice.available & choice.endpoint_masks[envelope.endpoint] & 1 << index):
                    raise _unavailable(choice, envelope, 1 << index)
                return choice, index, _baseline(route, choice, envelope)
    raise ClientFault(
        f"x-llm-optimizer-pin names {name[:200]!r}, which is no arm of route {route.name!r}. "
        f"Its arms: {', '.join(side.ids[:_LISTED_ARMS])}{' ...' if len(side.ids) > _LISTED_ARMS else ''}.",
        param="x-llm-optimizer-pin",
        code="unknown_arm",
    )


def _eligible(route: CompiledRoute, side: CompiledSide, envelope: Envelope, baseline: int) -> tuple[int, str]:
    mask = side.available & side.endpoint_masks[envelope.endpoint]
    for need in envelope.needs:
        mask &= side.capability_masks[need]
    if route.plain:
        return mask, "plain"
    if side.passthrough:
        # The caller's own credential belongs to one origin, and ours must not stand in for it elsewhere.
        home = _controls_arm(route, side, envelope, baseline)
        own = side.upstream_masks.get(home.model.upstream, 0)
        mask &= own if home.handle.passthrough_auth else ~side.passthrough
    if envelope.endpoint == EMBEDDINGS:
        # Vectors of different models can't be compared, so the model never changes.
        same = (
            side.same_vectors
            if side is route.control and baseline == side.baseline
            else _of_model(side, _controls_arm(route, side, envelope, baseline))
        )
        return _fitting(side, envelope, mask & same), "embeddings"
    if envelope.stateful:
        mask = _fitting(side, envelope, mask & side.upstream_masks.get(_home(route, envelope), 0))
        return mask, "home" if mask.bit_count() <= 1 else "bandit"
    mask = _fitting(side, envelope, mask)
    return mask, "single" if mask.bit_count() == 1 else "bandit"


def _controls_arm(route: CompiledRoute, side: CompiledSide, envelope: Envelope, baseline: int) -> CompiledArm:
    """Whom the caller would get without any rollout."""
    if side is not route.control:
        side, baseline = route.control, _baseline(route, route.control, envelope)
    return side.arms[baseline]


def _fitting(side: CompiledSide, envelope: Envelope, mask: int) -> int:
    """The arms of ``mask`` whose context window holds the request.

    The size is an estimate, so nothing is refused for it: when none seems large enough, the largest may try.
    """
    room = room_tokens(envelope)
    if room <= side.smallest_context:
        return mask
    limits = [(1 << index, limit or room) for index, limit in enumerate(side.context_limits)]
    fits = sum(bit for bit, limit in limits if limit >= room) & mask
    if fits or not mask:
        return fits
    largest = max(limit for bit, limit in limits if bit & mask)
    return sum(bit for bit, limit in limits if limit == largest) & mask


def _why_not(side: CompiledSide, arm: CompiledArm, envelope: Envelope, reason: str) -> str:
    bit = 1 << arm.index
    if not side.available & bit:
        return arm.handle.missing or "unavailable"
    if not side.endpoint_masks[envelope.endpoint] & bit:
        return f"does not speak {envelope.endpoint}"
    for need in sorted(envelope.needs):
        if not side.capability_masks[need] & bit:
            return f"has no counterpart for {envelope.own}" if need == NATIVE else f"lacks {need}"
    limit = side.context_limits[arm.index]
    room = room_tokens(envelope)
    if limit is not None and room > limit:
        return f"context of {limit} tokens is too small"
    if reason == "pinned":
        return "another arm is pinned"
    if side.passthrough and not envelope.stateful and envelope.endpoint != EMBEDDINGS:
        return "the caller's credential belongs to another upstream"
    return "embeddings keep their model" if envelope.endpoint == EMBEDDINGS else "not the home upstream"


def _nobody(side: CompiledSide, envelope: Envelope, watch: Watch | None) -> ProxyError:
    """No arm of the drawn side is eligible: to the guards that is the side's doing, whoever is told to fix it."""
    fault = _unavailable(side, envelope, side.full)
    if watch is not None:
        count = watch.rejected if isinstance(fault, ClientFault) else watch.errored
        count(side.name)
    return fault


def _unavailable(side: CompiledSide, envelope: Envelope, mask: int) -> ProxyError:
    """Whether trying again can help: not if every arm is there and none can do what is asked."""
    reasons = "; ".join(
        f"{arm.id}: {_why_not(side, arm, envelope, 'bandit')}"
        for arm in side.arms[:_LISTED_ARMS]
        if mask >> arm.index & 1
    )
    message = f"No arm of {envelope.model[:200]!r} can serve this request. {reasons}"
    if mask & side.available == mask:
        return ClientFault(message, param="model", code="unsupported_by_route")
    return Unavailable(message, param="model")
