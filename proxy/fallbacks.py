"""Which arms may take over from one that failed, the best first.

Invariant: whoever takes over can do all that the request asks for, reaches no upstream that the decided arm's rules
exclude (the caller's own credential, state held by a provider, vectors of another model), and was not tried before.
A pinned request and a plain model have nobody to turn to.
"""

from collections.abc import Collection, Sequence

from optimizer.routing import EMBEDDINGS
from proxy.compiled import CompiledArm, CompiledSide
from proxy.dispatch import Decision, room_tokens
from proxy.envelope import Envelope

PREFILLS = frozenset(("prefill", "prefill_prefix", "prefill_continue"))


def alternatives(
    decision: Decision, envelope: Envelope, tried: Collection[str], *, failed: CompiledArm
) -> list[CompiledArm]:
    """Arms to go to instead of ``failed``: the route's fallbacks in their order, else the side's by probability.

    Those whose breaker is open come only if there is no other, and those beyond the request's cap on cost come last.
    Without fallbacks of its own a route prefers other upstreams than the failed one. A candidate that fails can turn
    to control last: it must not cost its callers anything, and its guards count the failure all the same.
    """
    route = decision.route
    if route.plain or decision.reason == "pinned":
        return []
    if route.fallback is not None:
        arms = _of_side(route.fallback, decision, envelope, tried)
    else:
        arms = _by_preference(decision.side, decision, envelope, tried, failed)
    if decision.side is route.candidate:
        known = {*tried, *(arm.id for arm in arms)}
        arms += _by_preference(route.control, decision, envelope, known, failed)
    return _within_cap([arm for arm in arms if not arm.breaker.down] or arms, decision)


def _within_cap(arms: list[CompiledArm], decision: Decision) -> list[CompiledArm]:
    """``arms`` with those last that are predicted to cost more than the request may."""
    sight = decision.sight
    if sight is None or not sight.dear:
        return arms
    dear = {arm_id for place, arm_id in enumerate(decision.side.ids) if sight.dear >> place & 1}
    return sorted(arms, key=lambda arm: arm.id in dear)


def with_larger_context(arms: list[CompiledArm], failed: CompiledArm) -> list[CompiledArm]:
    """Those of ``arms`` that are known to hold more than ``failed``, the largest first."""
    limit = failed.model.context_tokens or 0
    larger = [arm for arm in arms if (arm.model.context_tokens or 0) > limit]
    return sorted(larger, key=lambda arm: -(arm.model.context_tokens or 0))


def that_continue(arms: list[CompiledArm]) -> list[CompiledArm]:
    """Those of ``arms`` that can go on with an answer that was begun."""
    return [arm for arm in arms if not PREFILLS.isdisjoint(arm.model.capabilities)]


def _of_side(
    side: CompiledSide, decision: Decision, envelope: Envelope, tried: Collection[str]
) -> list[CompiledArm]:
    return [arm for arm in side.arms if arm.id not in tried and _can_serve(side, arm, decision, envelope)]


def _by_preference(
    side: CompiledSide,
    decision: Decision,
    envelope: Envelope,
    tried: Collection[str],
    failed: CompiledArm,
) -> list[CompiledArm]:
    arms = _of_side(side, decision, envelope, tried)
    shares: Sequence[float] = side.probabilities
    if decision.side is side and decision.sight is not None and decision.sight.vector is not None:
        shares = decision.sight.vector
    return sorted(arms, key=lambda arm: (_same_upstream(arm, failed), -shares[arm.index]))


def _same_upstream(arm: CompiledArm, other: CompiledArm) -> bool:
    return arm.model.upstream == other.model.upstream


def _can_serve(side: CompiledSide, arm: CompiledArm, decision: Decision, envelope: Envelope) -> bool:
    decided = decision.arm
    mask = side.available & side.endpoint_masks[envelope.endpoint]
    for need in envelope.needs:
        mask &= side.capability_masks[need]
    if not mask >> arm.index & 1:
        return False
    at_home = decided.handle.passthrough_auth or arm.handle.passthrough_auth or envelope.stateful
    if at_home and not _same_upstream(arm, decided):
        return False
    if envelope.endpoint == EMBEDDINGS:
        return arm.model.model_id == decided.model.model_id
    limit = arm.model.context_tokens
    return at_home or limit is None or room_tokens(envelope) <= limit
