"""Effective route = file + overlays: which records change which route, and whether the file still allows it.

Pure. The file is the operator's word: an overlay lives only as long as the file's values under it are what they were
when it was made, and it names only arms that the file gives to the route.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import orjson

from optimizer.rollouts.codec import to_plain
from optimizer.rollouts.records import OVERLAYING, SPLITTING, Candidate, Optimization, Status
from optimizer.routing import Guarding
from optimizer.settings import RouteSettings, Settings

FIELDS: Final = tuple(field.name for field in fields(Candidate))
FILE_CHANGED: Final = "file_changed"
ARM_VANISHED: Final = "arm_vanished"
ROUTE_VANISHED: Final = "route_vanished"


@dataclass(frozen=True, slots=True)
class RouteOverlay:
    """One route as it is to be published. Without a rollout ``candidate`` is None and ``fraction`` 0.

    ``fraction`` 0..1 of the units get ``candidate``.
    """

    control: RouteSettings
    candidate: RouteSettings | None = None
    fraction: float = 0.0
    rollout: str | None = None
    guarding: Guarding | None = None


def named(candidate: Candidate) -> tuple[str, ...]:
    """The fields that a candidate changes."""
    return tuple(name for name in FIELDS if getattr(candidate, name) is not None)


def digests(route: RouteSettings, names: Iterable[str]) -> dict[str, str]:
    """A digest of the file's value per field; arms count with their content, so an edited prompt is a change."""
    return {name: _digest(getattr(route, name)) for name in names}


def apply(route: RouteSettings, candidate: Candidate, *, file: RouteSettings | None = None) -> RouteSettings:
    """``route`` with the candidate's fields. Arms are looked up in ``file``, which may have more of them.

    Raises:
        ValueError: If it names arms that the route does not have, or its baseline is none of its arms.
    """
    own = {arm.id: arm for arm in (file or route).arms}
    changes: dict[str, Any] = {}
    if candidate.arms is not None:
        unknown = [arm for arm in candidate.arms if arm not in own]
        if unknown or not candidate.arms:
            raise ValueError(f"route {route.name}: no arm {', '.join(map(repr, unknown)) or 'at all'}")
        changes["arms"] = tuple(own[arm] for arm in candidate.arms)
    for name in ("baseline", "policy", "objectives", "constraints"):
        value = getattr(candidate, name)
        if value is not None:
            changes[name] = value
    changed = replace(route, **changes)
    ids = {arm.id for arm in changed.arms}
    if changed.baseline not in ids:
        raise ValueError(f"route {route.name}: the baseline {changed.baseline!r} is none of its arms")
    missing = sorted(set(changed.policy.fixed) - ids)
    if missing:
        raise ValueError(f"route {route.name}: shares name no arm: {', '.join(missing)}")
    return changed


def obstacle(record: Optimization, settings: Settings) -> str | None:
    """Why the file no longer allows the overlay of ``record``: a stable word, None while it does."""
    if record.proposal is None or record.rollout is None:
        return None
    route = settings.route(record.route)
    if route is None:
        return ROUTE_VANISHED
    candidate = record.proposal.candidate
    try:
        apply(route, candidate)
    except ValueError:
        return ARM_VANISHED
    if digests(route, named(candidate)) != dict(record.rollout.base):
        return FILE_CHANGED
    return None


def layer(record: Optimization) -> tuple[float, str]:
    """Sort key of deployed overlays: the order in which they lie upon each other."""
    return record.deployed_at or 0.0, record.id


def stacked(route: RouteSettings, records: Iterable[Optimization]) -> RouteSettings:
    """The route under every deployed overlay, the newest last; one that does not fit is left out."""
    deployed = [
        record for record in records if record.route == route.name and record.status is Status.DEPLOYED
    ]
    file = route
    for record in sorted(deployed, key=layer):
        if record.proposal is not None:
            try:
                route = apply(route, record.proposal.candidate, file=file)
            except ValueError:
                continue
    return route


def effective(settings: Settings, records: Iterable[Optimization]) -> dict[str, RouteOverlay]:
    """Every route by name, as it is to be published.

    A record that the file no longer allows changes nothing here, whatever its status still says.
    """
    live = [r for r in records if r.status in OVERLAYING and obstacle(r, settings) is None]
    by_route: dict[str, list[Optimization]] = {}
    for record in live:
        by_route.setdefault(record.route, []).append(record)
    return {route.name: _effective(route, by_route.get(route.name, ())) for route in settings.routes}


def _effective(route: RouteSettings, records: Iterable[Optimization]) -> RouteOverlay:
    records = list(records)
    control = stacked(route, records)
    splitting = next((record for record in records if record.status in SPLITTING), None)
    if splitting is None or splitting.proposal is None or splitting.rollout is None:
        return RouteOverlay(control)
    try:
        candidate = apply(control, splitting.proposal.candidate, file=route)
    except ValueError:
        return RouteOverlay(control)
    rollout = splitting.rollout
    checks = rollout.plan.checks
    return RouteOverlay(
        control=control,
        candidate=candidate,
        fraction=splitting.candidate_percentage / 100.0,
        rollout=rollout.id,
        guarding=Guarding(
            stage=rollout.stage,
            reference_ms=rollout.reference_ms,
            threshold_ms=checks.latency_p95_ms if checks.enabled else None,
        ),
    )


def plain_overlays(records: Iterable[Optimization]) -> tuple[Mapping[str, Any], ...]:
    """Records as the published table carries them."""
    return tuple(to_plain(record) for record in records)


def _digest(value: Any) -> str:
    return hashlib.blake2b(
        orjson.dumps(to_plain(value), option=orjson.OPT_SORT_KEYS), digest_size=12
    ).hexdigest()
