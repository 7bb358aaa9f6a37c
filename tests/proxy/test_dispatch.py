"""The synchronous core: resolution, sides, eligibility, draws and their exact propensities."""

import random
import time
from collections import Counter
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.routing import (
    Arm,
    Model,
    Route,
    RoutingTable,
    Selector,
    Side,
    Sticky,
    Upstream,
    Variant,
)
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.dispatch import Decision, decide, filtered_reasons
from proxy.envelope import parse
from proxy.errors import ClientFault, ModelNotFound, Unavailable
from proxy.http1.client import Pool
from proxy.resilience.breaker import Board

ALL = frozenset(("chat", "completions", "embeddings", "responses"))


def _side(*names: str, shares: tuple[float, ...] | None = None) -> Side:
    arms = tuple(
        Arm(id=name, model=name, variant="default", model_key=name, variant_key="") for name in names
    )
    weights = shares or tuple(1 / len(arms) for _ in arms)
    return Side(
        arms=arms,
        selector=Selector(id=f"s{names}{weights}", policy="thompson", probabilities=weights),
        baseline=names[0],
    )


def _table(**changes: object) -> RoutingTable:
    capable = frozenset(("tools", "vision", "audio", "json_object", "json_schema"))
    base = RoutingTable(
        version=1,
        published_at=0.0,
        config_hash="",
        upstreams=(
            Upstream(name="one", provider="openai", base_url="http://127.0.0.1:1/v1", auth="none"),
            Upstream(name="two", provider="openai", base_url="http://127.0.0.1:2/v1", auth="none"),
        ),
        models=(
            Model("a", "one", "a-id", "a", capabilities=capable, endpoints=ALL),
            Model("b", "two", "b-id", "b", capabilities=capable, endpoints=ALL),
            Model("c", "two", "a-id", "c", capabilities=capable, endpoints=ALL),
            Model("d", "one", "d-id", "d"),
        ),
        variants=(Variant(name="default", key=""),),
        routes=(Route(name="r", control=_side("a", "b", "c", shares=(0.5, 0.3, 0.2)), salt="s"),),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


async def _compile(table: RoutingTable) -> CompiledTable:
    compiler = Compiler(
        make_pool=Pool,
        resolve_secret=lambda name: None,
        retire=lambda pool: pool.close(),
        unit_secret=b"s" * 32,
        board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
    )
    return compiler.compile(table)


def _chat(model: str = "r", **fields: object) -> bytes:
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields})


def _go(
    table: CompiledTable,
    raw: bytes | None = None,
    *,
    endpoint: str = "chat",
    headers: dict[bytes, bytes] | None = None,
    u: float = 0.0,
    guarded: bool = True,
) -> Decision:
    return decide(table, parse(endpoint, raw or _chat()), headers or {}, uniform=lambda: u, guarded=guarded)


async def test_the_draw_decides_and_the_propensity_is_the_tables():
    """Each third of [0, 1) belongs to the arm whose probability it is."""
    table = await _compile(_table())

    assert [(_go(table, u=u).arm.id, _go(table, u=u).propensity) for u in (0.0, 0.49, 0.5, 0.79, 0.8, 0.99)] == [
        ("a", 0.5), ("a", 0.5), ("b", 0.3), ("b", 0.3), ("c", 0.2), ("c", 0.2),
    ]  # fmt: skip


async def test_resolution_prefers_route_then_pattern_then_model():
    """An exact route wins over a pattern, a pattern over a plain model, and nothing else resolves."""
    routes = (
        Route(name="r", control=_side("a")),
        Route(name="gpt-special", control=_side("b")),
        Route(name="any", match=("gpt-*", "d"), control=_side("a", "b")),
    )
    table = await _compile(_table(routes=routes))

    assert table.resolve("gpt-special").name == "gpt-special"
    assert table.resolve("gpt-4").name == "any"
    assert table.resolve("d").name == "any"
    assert table.resolve("b").plain
    assert table.resolve("zzz") is None
    with pytest.raises(ModelNotFound):
        _go(table, _chat("zzz"))


async def test_what_the_caller_asked_for_is_the_baseline():
    """A matched model that is an arm's model becomes the baseline; otherwise the route's own."""
    routes = (Route(name="r", match=("b", "x"), control=_side("a", "b")),)
    table = await _compile(_table(routes=routes))

    assert _go(table, _chat("b")).baseline == 1
    assert _go(table, _chat("x")).baseline == 0
    assert _go(table, _chat("r")).baseline == 0


async def test_candidate_side_gets_its_fraction_and_its_own_selector():
    """Units below the fraction see the candidate, with P(side) beside P(arm | side)."""
    route = Route(
        name="r", control=_side("a"), candidate=_side("b"), candidate_fraction=0.25, rollout="ro", salt="s"
    )
    table = await _compile(_table(routes=(route,)))
    low, high = _go(table, u=0.2), _go(table, u=0.3)

    assert (low.side.name, low.arm.id, low.side_probability) == ("candidate", "b", 0.25)
    assert (high.side.name, high.arm.id, high.side_probability) == ("control", "a", 0.75)


async def test_nobody_guards_so_nobody_gets_the_candidate():
    """With the guard gone, candidate draws go to control and are marked."""
    route = Route(
        name="r", control=_side("a"), candidate=_side("b"), candidate_fraction=1.0, rollout="ro", salt="s"
    )
    table = await _compile(_table(routes=(route,)))
    decision = _go(table, guarded=False)

    assert (decision.side.name, decision.withheld, decision.side_probability) == (
        "control",
        "guard_lost",
        1.0,
    )


@settings(max_examples=50, deadline=None)
@given(first=st.floats(0.01, 0.5), growth=st.floats(0.0, 0.49), unit=st.text(min_size=1, max_size=20))
async def test_a_unit_never_leaves_the_candidate_while_the_fraction_grows(first, growth, unit):
    """Sticky assignment is monotone: whoever is in at 10 % is in at 50 %."""
    headers = {b"x-session-id": unit.encode()}

    async def side_at(fraction: float) -> str:
        route = Route(
            name="r", control=_side("a"), candidate=_side("b"), candidate_fraction=fraction,
            rollout="ro", salt="s", sticky=Sticky("header", "x-session-id"),
        )  # fmt: skip
        return _go(await _compile(_table(routes=(route,))), headers=headers).side.name

    if await side_at(first) == "candidate":
        assert await side_at(first + growth) == "candidate"


async def test_rollout_and_bandit_draws_of_a_unit_do_not_correlate():
    """Among units inside the candidate the arms keep their shares (5 sigma)."""
    route = Route(
        name="r", control=_side("a"), candidate=_side("a", "b"), candidate_fraction=0.3, rollout="ro",
        salt="s", sticky=Sticky("user"),
    )  # fmt: skip
    table = await _compile(_table(routes=(route,)))
    arms = Counter(
        decision.arm.id
        for number in range(4000)
        if (decision := _go(table, _chat(user=f"u{number}"))).side.name == "candidate"
    )

    total = arms.total()
    assert abs(total - 1200) < 5 * (4000 * 0.3 * 0.7) ** 0.5
    assert abs(arms["a"] - total / 2) < 5 * (total / 4) ** 0.5


async def test_stateful_requests_stay_at_home():
    """Provider-held state goes to the home upstream's arms only; alone there, it is not randomised."""
    table = await _compile(_table())
    raw = orjson.dumps({"model": "r", "input": "hi", "previous_response_id": "resp_1", "store": True})
    at_home = _go(table, raw, endpoint="responses", u=0.9)
    elsewhere = await _compile(_table(routes=(replace(_table().routes[0], home="two"),)))
    spread = _go(elsewhere, raw, endpoint="responses", u=0.0)

    assert (at_home.arm.id, at_home.reason, at_home.randomised) == ("a", "home", False)
    assert (spread.arm.id, spread.randomised) == ("b", True)
    assert spread.propensity == pytest.approx(0.6)


async def test_embeddings_spread_only_over_upstreams_of_the_same_model():
    """The model id never changes; the upstream may."""
    table = await _compile(_table())
    raw = orjson.dumps({"model": "r", "input": "hi"})
    arms = {_go(table, raw, endpoint="embeddings", u=u / 10).arm.id for u in range(10)}

    assert arms == {"a", "c"}


async def test_endpoints_that_an_arm_does_not_speak_make_it_ineligible():
    """A model without an endpoint is left out, and the log says why."""
    table = await _compile(_table(routes=(Route(name="r", control=_side("a", "d")),)))
    raw = orjson.dumps({"model": "r", "prompt": "x"})
    decision = _go(table, raw, endpoint="completions", u=0.99)

    assert decision.arm.id == "a"
    assert filtered_reasons(decision, parse("completions", raw)) == {"d": "does not speak completions"}
    with pytest.raises(ClientFault, match="does not speak responses"):
        _go(table, orjson.dumps({"model": "d", "input": "x"}), endpoint="responses")


async def test_pins_name_arms_or_models_and_nothing_else():
    """A pin is an arm id of the route; a pin beyond the route is the caller's mistake."""
    table = await _compile(_table())

    assert _go(table, headers={b"x-llm-optimizer-pin": b"c"}).arm.id == "c"
    with pytest.raises(ClientFault) as caught:
        _go(table, headers={b"x-llm-optimizer-pin": b"\xff../../etc"})
    assert caught.value.code == "unknown_arm"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), weights=st.lists(st.floats(0.05, 1.0), min_size=2, max_size=5))
async def test_logged_vector_and_propensity_agree(seed, weights):
    """Whatever is eligible, the propensity is the vector's entry and the vector sums to 1."""
    total = sum(weights)
    shares = tuple(weight / total for weight in weights)
    names = tuple(f"m{index}" for index in range(len(weights)))
    models = tuple(
        Model(name, "one", name, name, context_tokens=10 if index and seed >> index & 1 else None)
        for index, name in enumerate(names)
    )
    route = Route(name="r", control=_side(*names, shares=shares))
    table = await _compile(_table(models=models, routes=(route,)))
    decision = _go(table, u=random.Random(seed).random())
    vector = decision.side.selector.vector(decision.mask)

    assert sum(vector) == pytest.approx(1.0)
    assert vector[decision.arm.index] == decision.propensity > 0
    assert all(p == 0 for index, p in enumerate(vector) if not decision.mask >> index & 1)


async def test_pools_survive_a_new_table_and_are_retired_when_their_upstream_goes():
    """A reload keeps connections of unchanged upstreams and closes those of removed ones."""
    retired: list[Pool] = []
    compiler = Compiler(
        make_pool=Pool,
        resolve_secret=lambda name: None,
        retire=retired.append,
        unit_secret=b"s",
        board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
    )
    first = compiler.compile(_table())
    second = compiler.compile(_table(version=2))
    third = compiler.compile(
        _table(version=3, upstreams=_table().upstreams[:1], models=_table().models[:1], routes=())
    )

    assert first.handles["one"].pool is second.handles["one"].pool is third.handles["one"].pool
    assert first.routes["r"].control is second.routes["r"].control
    assert retired == [first.handles["two"].pool]


@pytest.mark.parametrize(("asked", "allowed"), [("r", {"a"}), ("b", {"b", "c"})])
async def test_the_callers_own_credential_stays_with_its_upstream(asked, allowed):
    """With a pass-through upstream, arms never mix the caller's credential with ours."""
    first = replace(_table().upstreams[0], auth="passthrough")
    route = Route(name="r", match=("b",), control=_side("a", "b", "c"), salt="s")
    table = await _compile(_table(upstreams=(first, _table().upstreams[1]), routes=(route,)))

    assert {_go(table, _chat(asked), u=u / 20).arm.id for u in range(20)} == allowed


async def test_no_request_is_refused_for_an_estimated_size():
    """Arms whose window fits win; when none seems to fit, the largest window may try."""
    models = (
        Model("a", "one", "a-id", "a", context_tokens=1_000),
        Model("b", "one", "b-id", "b", context_tokens=5_000),
        Model("c", "two", "c-id", "c", context_tokens=5_000),
    )
    table = await _compile(_table(models=models))

    def reached(size: int) -> set[str]:
        raw = orjson.dumps({"model": "r", "messages": [{"role": "user", "content": "x" * size}]})
        return {_go(table, raw, u=u / 20).arm.id for u in range(20)}

    assert reached(100) == {"a", "b", "c"}
    assert reached(8_000) == {"b", "c"}
    assert reached(80_000) == {"b", "c"}


async def test_arms_that_are_away_are_worth_another_try():
    """An arm without its key is a 503; capabilities that nobody has are a 400."""
    upstreams = (replace(_table().upstreams[0], auth="key", secret="env:X"), _table().upstreams[1])
    route = Route(name="r", control=_side("a"), salt="s")

    with pytest.raises(Unavailable, match="env:X"):
        _go(await _compile(_table(upstreams=upstreams, routes=(route,))))


async def test_a_pin_does_not_reach_an_unguarded_candidate():
    """No guard, no canary, not even by name."""
    route = Route(
        name="r", control=_side("a"), candidate=_side("b"), candidate_fraction=0.5, rollout="ro", salt="s"
    )
    table = await _compile(_table(routes=(route,)))
    pin = {b"x-llm-optimizer-pin": b"b"}

    assert _go(table, headers=pin, u=0.9).arm.id == "b"
    with pytest.raises(ClientFault, match="no arm of route"):
        _go(table, headers=pin, u=0.9, guarded=False)


def _rollout(control: Side, candidate: Side, **changes: object) -> RoutingTable:
    route = Route(
        name="r", control=control, candidate=candidate, candidate_fraction=0.5, rollout="ro", salt="s"
    )
    return _table(routes=(replace(route, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidate", "reached"),
    [
        (("b", "c"), ("candidate", "c")),  # c serves control's model, though b is the candidate's baseline
        (("b",), ("control", "a")),
    ],
)
async def test_a_rollout_never_moves_vectors_to_another_model(candidate, reached):
    """Vectors of control's model are what the caller has stored."""
    table = await _compile(_rollout(_side("a"), _side(*candidate)))
    decisions = [
        _go(table, orjson.dumps({"model": "r", "input": "hi"}), endpoint="embeddings", u=u)
        for u in (0.1, 0.4, 0.9)
    ]

    assert {(one.side.name, one.arm.id) for one in decisions} == {("control", "a"), reached}
    assert {one.arm.model.model_id for one in decisions} == {"a-id"}


@pytest.mark.parametrize(
    ("candidate", "home", "reached"),
    [
        (("b", "d"), None, "control"),  # d is at home, but speaks no responses: that is the candidate's doing
        (("b",), None, "control"),
        (("b",), "two", "candidate"),
    ],
)
async def test_a_rollout_never_moves_state_that_a_provider_holds(candidate, home, reached):
    """A conversation that was begun at control's upstream is known nowhere else."""
    control = _side("a", "c")
    table = await _compile(_rollout(control, _side(*candidate), home=home))
    raw = orjson.dumps({"model": "r", "input": "hi", "previous_response_id": "resp_1", "store": True})
    decision = _go(table, raw, endpoint="responses", u=0.1)

    assert decision.side.name == reached
    assert decision.arm.model.upstream == (home or "one")


async def test_what_a_rollout_must_not_move_is_in_neither_sides_counts():
    """One side alone would look like a broken draw."""
    table = await _compile(_rollout(_side("a"), _side("b")))
    decisions = [
        _go(table, orjson.dumps({"model": "r", "input": "hi"}), endpoint="embeddings", u=u)
        for u in (0.1, 0.9)
    ]
    watch = table.routes["r"].watch

    assert [(one.watch, one.withheld, one.side_probability) for one in decisions] == [(None, None, 1.0)] * 2
    assert watch is not None
    assert not watch.stopped


@pytest.mark.parametrize(
    ("own", "candidate", "reached"),
    [
        ("one", ("b",), {"a"}),  # the caller's credential would be lost, and ours stand in for it
        ("one", ("b", "d"), {"a", "d"}),
        ("two", ("b",), {"a"}),  # and here it would be given to somebody it was not meant for
        ("two", ("b", "d"), {"a", "d"}),
    ],
)
async def test_a_rollout_leaves_the_callers_own_credential_where_it_was(own, candidate, reached):
    """``auth: passthrough`` of either side keeps the request with whom the caller's key is for."""
    upstreams = tuple(
        replace(one, auth="passthrough") if one.name == own else one for one in _table().upstreams
    )
    table = await _compile(replace(_rollout(_side("a"), _side(*candidate)), upstreams=upstreams))

    assert {_go(table, u=u / 10).arm.id for u in range(10)} == reached
