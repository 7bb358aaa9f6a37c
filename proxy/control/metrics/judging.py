"""What a scrape shows of judging: how much was sampled, what came of it, what it cost, and whether a judge answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.content import LOST
from proxy.control.judge_examiner import PAIR, RESULTS, SCORE

_PREFIX: Final = "llm_optimizer_judge_"
SAMPLES: Final = ("kept", *LOST)
KINDS: Final = (SCORE, PAIR)


@dataclass(frozen=True, slots=True)
class JudgeState:
    """The judge of one route now. ``word`` says why it does not answer, None when it does. USD of today (UTC)."""

    name: str
    model: str
    version: str
    rate: float
    spent_usd: float
    usd_per_day: float
    word: str | None = None


@dataclass(frozen=True, slots=True)
class JudgeFacts:
    """``judgements`` by (route, kind, result), ``cost_usd`` and ``states`` by route, ``samples`` by their fate."""

    states: Mapping[str, JudgeState] = field(default_factory=dict)
    judgements: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    cost_usd: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0


def families(facts: JudgeFacts) -> Iterator[Metric]:
    """The families of this module; those by route have the routes with a judge."""
    samples = CounterMetricFamily(
        f"{_PREFIX}samples", "Requests drawn for a judge by what became of their content.", labels=("result",)
    )
    for result in SAMPLES:
        samples.add_metric((result,), facts.samples.get(result, 0))
    made = CounterMetricFamily(
        f"{_PREFIX}judgements", "Samples judged by what came of it.", labels=("route", "kind", "result")
    )
    cost = CounterMetricFamily(f"{_PREFIX}cost_usd", "What judging cost.", labels=("route",))
    for route in facts.states:
        for kind in KINDS:
            for result in RESULTS:
                made.add_metric((route, kind, result), facts.judgements.get((route, kind, result), 0))
        cost.add_metric((route,), facts.cost_usd.get(route, 0.0))
    yield from (samples, made, cost)
    waiting = GaugeMetricFamily(f"{_PREFIX}waiting", "Samples that wait for a judge.")
    waiting.add_metric((), facts.waiting)
    yield waiting
    yield from _by_route(facts.states)


def _by_route(states: Mapping[str, JudgeState]) -> Iterator[Metric]:
    up = GaugeMetricFamily(f"{_PREFIX}up", "Whether the judge of a route answers.", labels=("route",))
    spent = GaugeMetricFamily(
        f"{_PREFIX}spent_today_usd", "What the judge of a route spent since midnight, UTC.", labels=("route",)
    )
    limit = GaugeMetricFamily(
        f"{_PREFIX}limit_usd", "What the judge of a route may spend in a day.", labels=("route",)
    )
    for route, state in states.items():
        up.add_metric((route,), float(state.word is None))
        spent.add_metric((route,), state.spent_usd)
        limit.add_metric((route,), state.usd_per_day)
    yield from (up, spent, limit)
