"""Who gets a rollout's candidate: sticky and monotone over its stages, exact shares, nobody at 0, and no correlations.

Units are fixed strings and draws are keyed hashes, so every statistical test here is one fixed draw; a fair one exceeds
the bounds with the stated probability.
"""

import random
import time
from collections import Counter
from statistics import NormalDist
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.routing import Arm, Guarding, Model, Route, RoutingTable, Selector, Side, Sticky, Upstream
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.dispatch import STOPPED, Decision, decide
from proxy.envelope import parse
from proxy.errors import ClientFault
from proxy.headers import PIN
from proxy.http1.client import Pool
from proxy.resilience.breaker import Board
from proxy.rollout_watch import Watches

ENVELOPE = parse("chat", orjson.dumps({"model": "r", "messages": [{"role": "user", "content": "hi"}]}))
# Chance of a false alarm per comparison.
ALPHA = 1e-6
Z = NormalDist().inv_cdf(1 - ALPHA / 2)
UNITS = 40_000


def _side(*names: str) -> Side:
    arms = tuple(Arm(name, name, "default", name, "") for name in names)
    return Side(arms, Selector(f"s{names}", "fixed", tuple(1 / len(arms) for _ in arms)), names[0])


def _table(**route: Any) -> RoutingTable:
    fields = {
        "candidate": _side("c", "d"),
        "candidate_fraction": 0.25,
        "rollout": "ro-1",
        "salt": "salt",
        "sticky": Sticky("header", "x-session-id"),
    } | route
    if fields["candidate"] is None:
        fields |= {"candidate_fraction": 0.0, "rollout": None}
    return RoutingTable(
        version=1,
        published_at=0.0,
        config_hash="",
        upstreams=(Upstream(name="up", provider="openai", base_url="http://127.0.0.1:1/v1", auth="none"),),
        models=tuple(Model(name, "up", f"{name}-id", name) for name in "abcd"),
        variants=(),
        routes=(Route(name="r", control=_side("a", "b"), **fields),),  # type: ignore[arg-type]
    )


class Tables:
    """One worker's compiler, given one table after the other."""

    def __init__(self) -> None:
        self.watches = Watches()
        self._compiler = Compiler(
            make_pool=Pool,
            resolve_secret=lambda name: None,
            retire=lambda pool: pool.close(),
            unit_secret=b"s" * 32,
            board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
            watches=self.watches,
        )

    def use(self, **route: Any) -> CompiledTable:
        return self._compiler.compile(_table(**route))


def _go(table: CompiledTable, unit: str | None = None, u: float = 0.0, *, guarded: bool = True) -> Decision:
    headers = {b"x-session-id": unit.encode()} if unit is not None else {}
    return decide(table, ENVELOPE, headers, uniform=lambda: u, guarded=guarded)


def _is_candidate(table: CompiledTable, unit: str | None = None, u: float = 0.0) -> bool:
    return _go(table, unit, u).side.name == "candidate"


@settings(max_examples=60, deadline=None)
@given(
    fractions=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6),
    units=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=30),
)
async def test_people_never_bounce_back_while_the_stages_rise(fractions, units):
    """One rollout id, rising shares, a new table for each stage: who is in stays in, on one arm."""
    tables = Tables()
    inside: dict[str, str] = {}
    for stage, fraction in enumerate(sorted(fractions)):
        table = tables.use(candidate_fraction=fraction, guarding=Guarding(stage=stage))
        for unit in units:
            decision = _go(table, unit)
            if unit in inside:
                assert (decision.side.name, decision.arm.id) == ("candidate", inside[unit])
            elif decision.side.name == "candidate":
                inside[unit] = decision.arm.id


@settings(max_examples=40, deadline=None)
@given(
    units=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=50),
    u=st.floats(0, 1, exclude_max=True),
)
async def test_nobody_gets_a_candidate_with_a_share_of_0(units, u):
    """At 0, after a rollback, or without a guard: sticky or not, no draw reaches it, and control is certain."""
    tables = Tables()
    for route in ({"candidate_fraction": 0.0}, {"candidate": None}):
        for sticky in (Sticky("header", "x-session-id"), None):
            table = tables.use(sticky=sticky, **route)
            decisions = [_go(table, unit, u) for unit in units]
            assert {(d.side.name, d.side_probability) for d in decisions} == {("control", 1.0)}
    unguarded = [_go(tables.use(candidate_fraction=1.0), unit, u, guarded=False) for unit in units]
    assert {d.side.name for d in unguarded} == {"control"}


@settings(max_examples=40, deadline=None)
@given(units=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=50))
async def test_everybody_gets_a_candidate_with_a_share_of_1(units):
    """The last stage leaves nobody behind."""
    table = Tables().use(candidate_fraction=1.0)

    assert all(_is_candidate(table, unit) for unit in units)


@given(fraction=st.floats(0.0, 1.0), u=st.floats(0.0, 1.0, exclude_max=True))
async def test_without_stickiness_the_share_is_the_interval_below_it(fraction, u):
    """A request of its own is in exactly when its draw is below the share, so the probability is the share."""
    decision = _go(_TABLES.use(candidate_fraction=fraction, sticky=None), None, u)

    assert (decision.side.name == "candidate") == (u < fraction)
    assert decision.side_probability == (
        fraction if u < fraction else 1.0 if fraction <= 0.0 else 1.0 - fraction
    )


_TABLES = Tables()


@pytest.mark.parametrize("percentage", [0.1, 0.5, 1.0, 2.5, 12.5, 33.3, 50.0, 99.9])
async def test_shares_are_exact_also_in_fractions_of_a_percent(percentage):
    """Of 40,000 units, within the two-sided 1e-6 bound of the binomial's normal approximation."""
    table = Tables().use(candidate_fraction=percentage / 100.0)
    fraction = percentage / 100.0
    found = sum(_is_candidate(table, f"unit-{number}") for number in range(UNITS))

    assert abs(found - UNITS * fraction) < Z * (UNITS * fraction * (1 - fraction)) ** 0.5


async def test_rollout_and_bandit_draws_are_independent():
    """Side against arm, for arms that both sides have: chi-square with 1 degree of freedom, false alarm 1e-6."""
    both = {"candidate": _side("a", "b"), "candidate_fraction": 0.3}
    table = Tables().use(**both)
    decisions = (_go(table, f"unit-{number}") for number in range(UNITS))
    cells = Counter((decision.side.name, decision.arm.id) for decision in decisions)

    assert _chi_square(cells) < Z**2


async def test_two_attempts_of_a_route_draw_independently():
    """A retry has another id, so it is not tried on the same people again."""
    first, second = (Tables().use(candidate_fraction=0.3, rollout=f"ro-{number}") for number in (1, 2))
    units = [f"unit-{number}" for number in range(UNITS)]
    cells = Counter((_is_candidate(first, unit), _is_candidate(second, unit)) for unit in units)

    assert _chi_square(cells) < Z**2


async def test_two_routes_draw_independently():
    """Being in one route's canary says nothing about another's, even under one rollout id."""
    first, second = (Tables().use(candidate_fraction=0.3, salt=f"salt-{number}") for number in (1, 2))
    units = [f"unit-{number}" for number in range(UNITS)]
    cells = Counter((_is_candidate(first, unit), _is_candidate(second, unit)) for unit in units)

    assert _chi_square(cells) < Z**2


async def test_all_workers_agree():
    """Another worker, another node's secret, another order of tables: the same unit, the same side and arm."""
    first, second = Tables(), Tables()
    second.use(candidate_fraction=0.9)
    tables = first.use(candidate_fraction=0.4), second.use(candidate_fraction=0.4)
    for number in range(500):
        one, other = (_go(table, f"unit-{number}") for table in tables)
        assert (one.side.name, one.arm.id) == (other.side.name, other.arm.id)


async def test_a_stopped_candidate_gets_nothing_under_the_same_rollout():
    """Its units are marked, control is certain, and no new stage, share or reload brings it back; another id does."""
    tables = Tables()
    table = tables.use(candidate_fraction=0.4)
    units = [f"unit-{number}" for number in range(200)]
    inside = {unit for unit in units if _is_candidate(table, unit)}
    watch = table.routes["r"].watch
    for _ in range(50):
        watch.completed("control", ms=None, invalid=False, cost_usd=None)
    for _ in range(20):
        watch.errored("candidate")
    for changes in ({}, {"guarding": Guarding(stage=1)}, {"candidate": _side("d", "c")}):
        table = tables.use(candidate_fraction=0.4, **changes)
        decisions = {unit: _go(table, unit) for unit in units}
        assert {unit for unit, decision in decisions.items() if decision.withheld == STOPPED} == inside
        assert {(d.side.name, d.side_probability, d.watch) for d in decisions.values()} == {
            ("control", 1.0, None)
        }
    assert all(_go(tables.use(candidate_fraction=1.0), unit).withheld == STOPPED for unit in units)

    again = tables.use(candidate_fraction=0.4, rollout="ro-2")
    assert any(_is_candidate(again, unit) for unit in units)


async def test_a_pin_does_not_reach_a_stopped_candidate():
    """Stopped is stopped, also by name."""
    tables = Tables()
    table = tables.use(candidate_fraction=0.4)
    pin = {PIN: b"c"}
    pinned = decide(table, ENVELOPE, pin, uniform=lambda: 0.9, guarded=True)
    assert (pinned.side.name, pinned.watch) == ("candidate", None)
    for _ in range(20):
        table.routes["r"].watch.errored("candidate")

    with pytest.raises(ClientFault, match="no arm of route"):
        decide(table, ENVELOPE, pin, uniform=lambda: 0.9, guarded=True)


async def test_what_was_stopped_is_forgotten_with_its_rollout():
    """A rollout that left the table and came back (it never does) would start anew: nothing is kept for ever."""
    tables = Tables()
    for _ in range(20):
        tables.use().routes["r"].watch.errored("candidate")
    assert tables.watches.take_stops() == [("r", "ro-1", "hard_stop")]
    tables.use(candidate=None)

    assert tables.watches.take_stops() == []


async def test_a_table_without_a_candidate_has_nobody_watching():
    """Neither a route without a rollout nor a plain model pays for one."""
    table = Tables().use(candidate=None)

    assert table.routes["r"].watch is None
    assert table.plain["a"].watch is None


def _chi_square(cells: Counter[Any]) -> float:
    """Of independence, for a table of two by two."""
    rows, columns = (Counter[Any](), Counter[Any]())
    for (row, column), count in cells.items():
        rows[row] += count
        columns[column] += count
    total = cells.total()
    assert len(rows) == len(columns) == 2
    return sum(
        (cells[row, column] - rows[row] * columns[column] / total) ** 2
        / (rows[row] * columns[column] / total)
        for row in rows
        for column in columns
    )
