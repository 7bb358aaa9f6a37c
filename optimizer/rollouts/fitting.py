"""Whether a change still fits the route it was made for, and whether two changes are the same one. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from optimizer.rollouts.overlays import (
    ARM_VANISHED,
    ROUTE_VANISHED,
    apply,
    effective,
    layer,
    named,
    obstacle,
    stacked,
)
from optimizer.rollouts.records import SPLITTING, Candidate, Optimization, Status
from optimizer.settings import PolicySettings, Settings

KEPT_COVERED: Final = 4

SAME_SHARES: Final = 0.1
"""Two mixtures are one change when less than this share of traffic would go elsewhere."""


def unfit(record: Optimization, settings: Settings) -> str | None:
    """Why the file no longer allows ``record``: a stable word, None while it does."""
    route = settings.route(record.route)
    if route is None:
        # Without any route there is nothing to tell which one was meant; the first that comes will.
        waits = not settings.routes and record.status is Status.COLLECTING
        return None if waits else ROUTE_VANISHED
    if record.status is Status.COLLECTING or record.proposal is None:
        return None
    if record.status is not Status.PROPOSED:
        return obstacle(record, settings)
    try:
        apply(route, record.proposal.candidate)
    except ValueError:
        return ARM_VANISHED
    return None


def ill_fitting(record: Optimization, others: Iterable[Optimization], settings: Settings) -> str | None:
    """Why ``record`` can not lie upon what ``others`` make of its route; a sentence, None when it can."""
    route = settings.route(record.route)
    if route is None or record.proposal is None:
        return f"there is no route {record.route!r} any more" if route is None else "there is no proposal"
    below = [other for other in others if other.id != record.id]
    if record.status in SPLITTING:
        overlay = effective(settings, [*below, record]).get(record.route)
        if overlay is not None and overlay.candidate is not None:
            return None
    try:
        apply(stacked(route, below), record.proposal.candidate, file=route)
    except ValueError as error:
        return str(error)
    why = obstacle(record, settings)
    return None if why is None else f"the configuration does not allow it: {why.replace('_', ' ')}"


def covered(records: Iterable[Optimization], *, keep: int = KEPT_COVERED) -> list[Optimization]:
    """Deployed overlays that newer ones of their route hide altogether, without the newest ``keep`` of each route.

    The kept ones are what a rollback of the newest leads back to.
    """
    hidden: list[Optimization] = []
    above: dict[str, list[frozenset[str]]] = {}
    kept: dict[str, int] = {}
    deployed = [
        record for record in records if record.status is Status.DEPLOYED and record.proposal is not None
    ]
    for record in sorted(deployed, key=layer, reverse=True):
        assert record.proposal is not None
        fields = frozenset(named(record.proposal.candidate))
        newer = above.setdefault(record.route, [])
        if any(fields <= other for other in newer):
            kept[record.route] = kept.get(record.route, 0) + 1
            if kept[record.route] > keep:
                hidden.append(record)
        newer.append(fields)
    return hidden


def overtaken(record: Optimization, others: Iterable[Optimization]) -> bool:
    """Whether its route may be served otherwise than when ``record`` was proposed, so that its evidence is about
    something else: the rollout of another one ended since then."""
    if record.proposal is None:
        return False
    return any(
        other.route == record.route
        and other.id != record.id
        and other.rollout is not None
        and other.status not in SPLITTING
        and other.updated_at > record.proposal.made_at
        for other in others
    )


def alike(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates are the same change; shares may differ a little, as they move with every sample."""
    return (
        one.arms == other.arms
        and one.baseline == other.baseline
        and one.objectives == other.objectives
        and one.constraints == other.constraints
        and _alike(one.policy, other.policy)
    )


def tried(
    records: Iterable[Optimization], route: str, candidate: Candidate, config_hash: str
) -> Optimization | None:
    """The first of ``records`` that made the same change of ``route`` under a configuration and was taken back."""
    for record in records:
        if (
            record.status in (Status.ROLLED_BACK, Status.ABORTED)
            and record.route == route
            and record.config_hash == config_hash
            and record.proposal is not None
            and alike(record.proposal.candidate, candidate)
        ):
            return record
    return None


def _alike(one: PolicySettings | None, other: PolicySettings | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.name == other.name and _moved(one.fixed, other.fixed) < SAME_SHARES


def _moved(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    arms = set(one) | set(other)
    return 0.5 * sum(abs(one.get(arm, 0.0) - other.get(arm, 0.0)) for arm in arms)
