"""What a scrape shows of the limits: each one of a route, and of client keys only how many there are.

Routes are few and named by the configuration; keys are as many as somebody makes, so none of them is a label.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from optimizer.lease_terms import MEASURES, NANO, PERIODS, RATES
from optimizer.leases import MeterReport
from optimizer.settings import RouteSettings
from proxy.admission.lease import limits_of

_KEY: Final = "key:"
_ROUTE: Final = "route:"

Kind = tuple[str, str]
"""Measure and window of a limit: ``("usd", "day")``."""


class Standing(NamedTuple):
    """One limit in its present window, in requests, tokens or dollars."""

    limit: float
    granted: float = 0.0
    used: float = 0.0


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """The limits in their present windows. ``unstored`` counts reports of workers that could not be stored."""

    routes: Mapping[tuple[str, str, str], Standing] = field(default_factory=dict)
    keys: Mapping[Kind, int] = field(default_factory=dict)
    exhausted_keys: Mapping[Kind, int] = field(default_factory=dict)
    unstored: int = 0


def limit_facts(
    meters: Iterable[MeterReport], routes: Iterable[RouteSettings], *, unstored: int
) -> LimitFacts:
    """What is shown of ``meters``; a limit of a route that nobody has asked for yet is wholly unused."""
    standings: dict[tuple[str, str, str], Standing] = {}
    for route in routes:
        for measure, limit in limits_of(route.quota) if route.quota is not None else ():
            amount = limit if measure in RATES else limit / NANO
            standings[route.name, *kind_of(measure)] = Standing(amount)
    kinds = [kind_of(measure) for measure in MEASURES]
    keys, exhausted = Counter(dict.fromkeys(kinds, 0)), Counter(dict.fromkeys(kinds, 0))
    for meter in meters:
        kind = (meter.measure, meter.window)
        labels = (meter.subject.removeprefix(_ROUTE), *kind)
        if meter.subject.startswith(_KEY):
            keys[kind] += 1
            exhausted[kind] += meter.used >= meter.limit
        elif labels in standings:
            standings[labels] = Standing(meter.limit, meter.granted, meter.used)
    return LimitFacts(standings, keys, exhausted, unstored)


def kind_of(measure: str) -> Kind:
    """The labels ``measure`` and ``window`` of a measure of leases."""
    return (measure if measure in RATES else "usd"), PERIODS[measure]
