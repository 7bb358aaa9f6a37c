"""Who may take over from an arm that failed, with and without a rollout."""

import random
import time
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.routing import Arm, Model, Route, RoutingTable, Selector, Side, Upstream
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.context import Context
from proxy.dispatch import Decision, Sight, decide
from proxy.envelope import Envelope, parse
from proxy.fallbacks import alternatives, that_continue, with_larger_context
from proxy.headers import PIN
from proxy.http1.client import Pool
from proxy.resilience.breaker import Board

EVERY = frozenset(("chat", "completions", "embeddings", "responses"))
NAMES = "abcdef"


def _side(*names: str, shares: tuple[float, ...] | None = None) -> Side:
    arms = tuple(Arm(name, name, "default", name, "") for name in names)
    weights = shares or tuple(1 / len(arms) for _ in arms)
    return Side(arms, Selector(f"s{names}{weights}", "fixed", weights), names[0])


def _table(passthrough: str | None = None, **route: Any) -> CompiledTable:
    """``a``, ``b`` at one, ``c``, ``d`` at two, ``e``, ``f`` at three; ``a``, ``c`` and ``e`` are the same model."""
    upstreams = tuple(
        Upstream(
            name=name,
            provider="openai",
            base_url="http://127.0.0.1:1/v1",
            auth="passthrough" if name == passthrough else "none",
        )
        for name in ("one", "two", "three")
    )
    model_ids = {"a": "same", "c": "same", "e": "same"}
    models = tuple(
        Model(
            name,
            upstreams[number // 2].name,
            model_ids.get(name, name),
            name,
            endpoints=EVERY,
            context_tokens=1_000 * (number + 1),
            capabilities=frozenset(("tools", "prefill")) if name in "acf" else frozenset(),
        )
        for number, name in enumerate(NAMES)
    )
    compiler = Compiler(
        make_pool=Pool,
        resolve_secret=lambda name: None,
        retire=lambda pool: pool.close(),
        unit_secret=b"s" * 32,
        board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
    )
    return compiler.compile(
        RoutingTable(
            version=1,
            published_at=0.0,
            config_hash="",
            upstreams=upstreams,
            models=models,
            variants=(),
            routes=(Route(name="r", salt="s", **route),),
        )
    )


def _rollout(**changes: Any) -> CompiledTable:
    return _table(
        **{"control": _side("a", "b"), "candidate": _side("e"), "candidate_fraction": 0.5, "rollout": "ro"}
        | changes
    )


def _ask(
    table: CompiledTable, u: float = 0.0, *, endpoint: str = "chat", pin: str | None = None, **fields: Any
) -> tuple[Decision, Envelope]:
    content: dict[str, Any] = {"input": "hi"}
    if endpoint == "chat":
        content = {"messages": [{"role": "user", "content": "hi"}]}
    envelope = parse(endpoint, orjson.dumps({"model": "r", **content, **fields}))
    headers = {PIN: pin.encode()} if pin is not None else {}
    return decide(table, envelope, headers, uniform=lambda: u, guarded=True), envelope


def _others(asked: tuple[Decision, Envelope], *tried: str) -> list[str]:
    decision, envelope = asked
    found = alternatives(decision, envelope, {decision.arm.id, *tried}, failed=decision.arm)
    return [arm.id for arm in found]


async def test_a_route_prefers_other_upstreams_and_then_what_is_likelier():
    """The upstream that just failed comes last, however likely its arms are."""
    asked = _ask(_table(control=_side("a", "b", "c", "d", shares=(0.1, 0.6, 0.1, 0.2))))

    assert asked[0].arm.id == "a"
    assert _others(asked) == ["d", "c", "b"]
    assert _others(asked, "d", "b") == ["c"]


async def test_an_arm_beyond_the_cap_of_a_request_takes_over_last():
    """Predicted to cost more than a request may, it is asked only when nobody else can be, whatever its upstream."""
    decision, envelope = _ask(_table(control=_side("a", "b", "c", "d", shares=(0.1, 0.1, 0.2, 0.6))))
    decision.sight = Sight(Context(np.ones(1, dtype=np.float32)), dear=0b1000)

    assert _others((decision, envelope)) == ["c", "b", "d"]
    decision.route.control.arms[2].breaker.down = True
    assert _others((decision, envelope)) == ["b", "d"]
    assert _others((decision, envelope), "b") == ["d"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_candidate_turns_to_its_own_side_and_then_to_control(stream):
    """What only the candidate breaks must not cost its callers an answer, streamed or not."""
    asked = _ask(_rollout(candidate=_side("e", "f")), stream=stream)

    assert asked[0].side.name == "candidate"
    assert _others(asked) == ["f", "a", "b"]
    assert _others(asked, "f", "a") == ["b"]
    assert _others(asked, "f", "a", "b") == []


async def test_an_arm_of_both_sides_is_asked_once():
    """It is the same arm, whichever side names it."""
    assert _others(_ask(_rollout(candidate=_side("e", "a")))) == ["a", "b"]


async def test_control_never_turns_to_the_candidate():
    """Its failures must not become the candidate's traffic."""
    asked = _ask(_rollout(), 0.7)

    assert asked[0].side.name == "control"
    assert _others(asked) == ["a"]


async def test_a_candidate_has_control_behind_the_routes_own_fallbacks():
    """An operator's fallbacks come first; when they fail as well, control still answers."""
    table = _rollout(fallbacks=_side("d", "b").arms)

    assert _others(_ask(table)) == ["d", "b", "a"]
    assert _others(_ask(table), "d", "b") == ["a"]
    assert _others(_ask(table, 0.7)) == ["d"]  # control has these only


async def test_open_breakers_come_only_when_there_is_nobody_else():
    """Also over the border of the sides."""
    table = _rollout(candidate=_side("e", "f"))
    asked = _ask(table)
    arms = {arm.id: arm for side in table.routes["r"].sides for arm in side.arms}

    def fail(name: str) -> None:
        breaker = arms[name].breaker
        while not breaker.down:
            breaker.failed(0.0, breaker.started())

    fail("f")
    assert _others(asked) == ["a", "b"]
    fail("a")
    fail("b")
    assert _others(asked) == ["f", "a", "b"]


async def test_a_pin_and_a_plain_model_have_nobody_to_turn_to():
    """Whoever names an arm wants that one, of either side."""
    table = _rollout()

    assert _others(_ask(table, pin="e")) == []
    assert _others(_ask(table, pin="a")) == []
    assert _others(_ask(table, model="d")) == []


async def test_the_callers_own_credential_goes_to_no_other_upstream():
    """Nor does ours stand in for it: not on the candidate's side, not on control's."""
    sides = {"control": _side("a", "b", "c"), "candidate": _side("b", "d", "e")}
    asked = _ask(_rollout(passthrough="one", **sides))

    assert asked[0].arm.id == "b"
    assert _others(asked) == ["a"]
    assert _others(_ask(_rollout(passthrough="three", **sides), 0.1)) == ["d", "c", "a"]


async def test_vectors_and_state_stay_where_they_are():
    """Embeddings keep their model over both sides, provider-held state its upstream."""
    sides = {"control": _side("a", "b", "c"), "candidate": _side("e", "f", "d", "a")}
    table = _rollout(**sides)
    state = _ask(table, endpoint="responses", previous_response_id="resp_1", store=True)

    vectors = _ask(table, endpoint="embeddings")
    assert (vectors[0].side.name, vectors[0].arm.id) == ("candidate", "e")
    assert _others(vectors) == ["a", "c"]
    assert (state[0].side.name, state[0].arm.id) == ("candidate", "a")
    assert _others(state) == ["b"]


async def test_who_takes_over_can_do_what_is_asked():
    """Capabilities hold for control's arms as for the candidate's."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    asked = _ask(_rollout(candidate=_side("e", "f")), tools=tools)

    assert asked[0].arm.id == "f"
    assert _others(asked) == ["a"]


async def test_larger_contexts_and_those_that_continue_may_be_controls():
    """A candidate that is too small, and a candidate's stream that was cut, have control behind them."""
    decision, envelope = _ask(_rollout(candidate=_side("b", "d"), control=_side("a", "c", "e", "f")))
    others = alternatives(decision, envelope, {"b"}, failed=decision.arm)

    assert [arm.id for arm in others] == ["d", "c", "e", "f", "a"]
    assert [arm.id for arm in with_larger_context(others, decision.arm)] == ["f", "e", "d", "c"]
    assert [arm.id for arm in that_continue(others)] == ["c", "f", "a"]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
async def test_following_up_ends_and_meets_nobody_twice(data):
    """From any side of any route, with any of the special cases: each arm at most once, all of them known ones."""
    control = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    candidate = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    fallbacks = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
    table = _rollout(
        control=_side(*control),
        candidate=_side(*candidate),
        fallbacks=_side(*fallbacks).arms if fallbacks else (),
        passthrough=data.draw(st.sampled_from((None, "one", "three"))),
    )
    decision, envelope = _ask(
        table,
        data.draw(st.sampled_from((0.0, 0.4, 0.6, 0.99))),
        endpoint=data.draw(st.sampled_from(("chat", "embeddings"))),
    )
    met = [failed := decision.arm]
    while others := alternatives(decision, envelope, {arm.id for arm in met}, failed=failed):
        met.append(failed := others[0])

    assert len({arm.id for arm in met}) == len(met)
    behind = {*decision.side.ids, *fallbacks, *(control if decision.side.name == "candidate" else ())}
    assert {arm.id for arm in met} <= behind
    passing = {arm.handle.upstream.name for arm in met if arm.handle.passthrough_auth}
    assert not passing or {arm.handle.upstream.name for arm in met} == passing
    if envelope.endpoint == "embeddings":
        assert len({arm.model.model_id for arm in met}) == 1
