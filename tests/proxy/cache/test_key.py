"""What makes two requests the same, over bodies, headers, callers and tables of any kind."""

import asyncio
import random
import time
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.keys import ClientKey
from optimizer.routing import (
    Arm,
    Caching,
    Model,
    Route,
    RoutingTable,
    Selector,
    Side,
    Sticky,
    Upstream,
    Variant,
)
from proxy.cache.key import KEY_BYTES, canonical, entry_key, is_ambiguous, meaning
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.dispatch import decide
from proxy.envelope import parse
from proxy.http1.client import Pool
from proxy.http1.messages import Request
from proxy.resilience.breaker import Board

SECRET = b"s" * 32
RULES = Caching()
TERSE = Variant(name="terse", key="terse", system="Be terse.")


def _side(*names: str, shares: tuple[float, ...] = (0.5, 0.5), **changes: Any) -> Side:
    arms = tuple(
        replace(Arm(id=name, model=name, variant="default", model_key=name, variant_key=""), **changes)
        for name in names
    )
    shares = shares if len(arms) > 1 else (1.0,)
    return Side(arms, Selector(f"{names}{shares}", "thompson", shares), names[0])


def _model(name: str) -> Model:
    return Model(name, "up", f"{name}-id", name, capabilities=frozenset(("tools",)))


def _table(**changes: Any) -> RoutingTable:
    base = RoutingTable(
        version=1,
        published_at=0.0,
        config_hash="",
        upstreams=(Upstream(name="up", provider="openai", base_url="http://127.0.0.1:1/v1", auth="none"),),
        models=(_model("a"), _model("b")),
        variants=(Variant(name="default", key=""), TERSE),
        routes=(
            Route(name="r", match=("gpt-*",), control=_side("a", "b"), salt="s", caching=RULES),
            Route(name="other", control=_side("a", "b"), salt="s", caching=RULES),
        ),
    )
    return replace(base, **changes)


def _compiled(table: RoutingTable) -> CompiledTable:
    async def make() -> CompiledTable:
        compiler = Compiler(
            make_pool=Pool,
            resolve_secret=lambda name: None,
            retire=lambda pool: pool.close(),
            unit_secret=SECRET,
            board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
        )
        return compiler.compile(table)

    return asyncio.run(make())


TABLE = _compiled(_table())


def _key(
    raw: bytes | None = None,
    *,
    table: CompiledTable = TABLE,
    headers: dict[bytes, bytes] | None = None,
    caller: str | None = None,
    rules: Caching = RULES,
    draw: float = 0.1,
    query: str = "",
    secret: bytes = SECRET,
    endpoint: str = "chat",
    **fields: Any,
) -> bytes:
    body = {"model": "r", "messages": [{"role": "user", "content": "Hi"}], **fields}
    raw = orjson.dumps(body) if raw is None else raw
    path = "/v1/chat/completions"
    request = Request("POST", path.encode(), path, query, {**(headers or {})}, 1, "127.0.0.1", 0.0)
    request.caller = None if caller is None else ClientKey(caller, caller, "", "", 0.0)
    envelope = parse(endpoint, raw)
    decision = decide(table, envelope, request.headers, uniform=lambda: draw, guarded=True)
    return entry_key(secret, decision, envelope, request, rules)


# Of numbers with more digits every byte of the body counts.
FLOATS = st.floats(-1e6, 1e6).map(lambda number: round(number, 3))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
# Members that are not read on the way, and those that are, with values they may have.
MEMBERS = st.dictionaries(
    st.sampled_from(
        ("seed", "stop", "logit_bias", "tools", "response_format", "metadata", "x", "top_p", "n")
    ),
    JSON,
)


@given(one=MEMBERS, other=MEMBERS)
def test_any_member_counts(one, other):
    """Two bodies have one key exactly when they are the same JSON."""
    same = orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)
    if not same:
        assert _key(**one) != _key(**other)
    assert _key(**one) == _key(**dict(reversed(one.items())))
    assert len(_key(**one)) == KEY_BYTES


@given(members=MEMBERS, seed=st.randoms(use_true_random=False), indent=st.booleans())
def test_order_and_whitespace_do_not_count(members, seed, indent):
    message = {"role": "user", "content": "Hi", "name": "somebody"}
    plain = _key(messages=[message], **members)
    body = {"model": "r", "messages": [dict(reversed(message.items()))], **members}
    names = list(body)
    seed.shuffle(names)
    option = orjson.OPT_INDENT_2 if indent else None
    assert _key(orjson.dumps({name: body[name] for name in names}, option=option)) == plain


@given(one=JSON, other=JSON)
def test_messages_count(one, other):
    content = {"one": one, "other": other}
    keys = {
        name: _key(messages=[{"role": "user", "content": "x", "extra": v}]) for name, v in content.items()
    }
    same = orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)
    assert (keys["one"] == keys["other"]) == same


def test_order_inside_a_schema_counts():
    """A model writes its answer in the order of the schema."""
    one = {"type": "json_schema", "json_schema": {"properties": {"a": {}, "b": {}}}}
    other = {"type": "json_schema", "json_schema": {"properties": {"b": {}, "a": {}}}}
    assert _key(user="u") != _key(user="v")
    assert canonical({"response_format": one}) != canonical({"response_format": other})
    assert canonical({"tools": [one]}) != canonical({"tools": [other]})


@given(one=st.none() | st.text(max_size=12), other=st.none() | st.text(max_size=12), shared=st.booleans())
def test_callers_never_meet_unless_they_may(one, other, shared):
    rules = replace(RULES, shared=shared)
    keys = [_key(caller=caller, rules=rules) for caller in (one, other)]
    assert (keys[0] == keys[1]) == (shared or one == other)


@given(
    one=st.dictionaries(st.sampled_from((b"authorization", b"x-api-key", b"api-key")), st.binary(max_size=6)),
    other=st.dictionaries(
        st.sampled_from((b"authorization", b"x-api-key", b"api-key")), st.binary(max_size=6)
    ),
)
def test_without_client_keys_credentials_tell_callers_apart(one, other):
    assert (_key(headers=one) == _key(headers=other)) == (one == other)
    shared = replace(RULES, shared=True)
    assert _key(headers=one, rules=shared) == _key(headers=other, rules=shared)


def test_a_callers_own_credential_is_never_shared():
    """What it opened at its provider is nobody else's, whatever the route says."""
    upstream = replace(_table().upstreams[0], auth="passthrough")
    table = _compiled(_table(upstreams=(upstream,)))
    shared = replace(RULES, shared=True)
    keys = {
        _key(table=table, rules=shared, caller=caller, headers={b"authorization": value})
        for value in (b"Bearer one", b"Bearer other")
        for caller in ("k1", "k2")
    }
    assert len(keys) == 2


def test_headers_that_reach_the_upstream_count():
    base = _key()
    for name in (b"openai-beta", b"anthropic-beta", b"anthropic-version"):
        assert _key(headers={name: b"x"}) != base
        assert _key(headers={name: b""}) != base
    for name in (b"idempotency-key", b"traceparent", b"x-anything", b"cache-control"):
        assert _key(headers={name: b"x"}) == base
    assert _key(query="beta=true") != base


def test_a_pin_has_answers_of_its_own():
    keys = [_key(), *(_key(headers={b"x-llm-optimizer-pin": arm}) for arm in (b"a", b"b"))]
    assert len(set(keys)) == 3


def test_the_draw_does_not_count():
    """Whichever arm was drawn, the answer is the route's."""
    assert _key(draw=0.1) == _key(draw=0.9)


def test_a_unit_that_keeps_its_arm_sees_no_others_answer():
    route = replace(_table().routes[0], sticky=Sticky("header", "x-session"))
    table = _compiled(_table(routes=(route,)))
    keys = {_key(table=table, headers={b"x-session": unit}) for unit in (b"1", b"2", b"3")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"upstreams": (replace(_table().upstreams[0], base_url="http://127.0.0.1:2/v1"),)},
        {"upstreams": (replace(_table().upstreams[0], headers=(("x-org", "1"),)),)},
        {"models": (replace(_model("a"), model_id="a-new", key="a-new"), _model("b"))},
        {"models": (replace(_table().models[0], max_output_tokens=10), _table().models[1])},
        {"routes": (Route(name="r", control=_side("a"), salt="s", caching=RULES),)},
        {"routes": (Route(name="r", control=_side("b", "a"), salt="s", caching=RULES),)},
        {"routes": (Route(name="r", control=_side("a", "b", variant="terse", variant_key="terse")),)},
        {"routes": (Route(name="r", control=_side("a", "b", parameters={"temperature": 0})),)},
    ],
)
def test_an_edited_route_serves_nothing_old(changed):
    assert _key(table=_compiled(_table(**changed))) != _key()


def test_what_does_not_change_answers_keeps_them():
    """Shares move twice a second, and prices and patience are no part of an answer."""
    route = replace(_table().routes[0], control=_side("a", "b", shares=(0.9, 0.1)))
    upstream = replace(_table().upstreams[0], idle_s=1.0, max_connections=3)
    table = _compiled(_table(version=2, routes=(route,), upstreams=(upstream,)))
    assert _key(table=table) == _key()
    assert meaning(table.routes["r"].control) == meaning(TABLE.routes["r"].control)


def test_sides_rollouts_and_routes_are_apart():
    def of(rollout: str, fraction: float, draw: float) -> bytes:
        route = replace(
            _table().routes[0], candidate=_side("a", "b"), candidate_fraction=fraction, rollout=rollout
        )
        return _key(table=_compiled(_table(routes=(route,))), draw=draw)

    assert of("one", 0.5, 0.9) == _key()
    assert len({of("one", 0.5, 0.1), of("two", 0.5, 0.1), _key()}) == 3
    assert _key(model="other") != _key(model="r") != _key(model="gpt-x")


def test_secret_and_time_to_live_count():
    assert len({_key(), _key(secret=b"t" * 32), _key(rules=replace(RULES, ttl_s=1.0))}) == 3
    assert _key(rules=replace(RULES, max_entry_bytes=1)) == _key()


def test_a_member_that_stands_twice_is_seen():
    """Readers differ in which of two they take, and a shared answer must not depend on that."""
    assert not is_ambiguous(b'{"a": 1, "b": [{"a": 1}, {"a": 2}]}')
    assert is_ambiguous(b'{"a": 1, "a": 1}')
    assert is_ambiguous(b'{"messages": [{"content": "x", "content": "y"}]}')
    assert is_ambiguous(b"[" * 100_000)


LONG = "115792089237316195423570985008687907853269984665640564039457584007913129639935"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LONG, LONG[:-1] + "4"),
        ("18446744073709551616", "18446744073709551617"),
        ("0.30000000000000001", "0.3"),
        ("12345678.123456789", "12345678.1234567891"),
    ],
)
def test_numbers_with_more_digits_than_we_can_hold_differ(one, other):
    """Upstreams show them to the model as they stand in the body."""

    def key(number: str) -> bytes:
        call = f'{{"type": "tool_use", "input": {{"n": {number}}}}}'
        return _key(f'{{"model": "r", "messages": [{{"role": "user", "content": [{call}]}}]}}'.encode())

    assert key(one) != key(other)
    assert key(one) == key(one)


def test_order_inside_the_input_of_a_tool_counts():
    """The model reads it as it stands."""

    def key(members: str) -> bytes:
        block = f'{{"type": "tool_use", "id": "t", "name": "f", "input": {{{members}}}}}'
        messages = f'[{{"role": "assistant", "content": [{block}]}}]'
        return _key(
            f'{{"model": "r", "max_tokens": 1, "messages": {messages}}}'.encode(), endpoint="messages"
        )

    assert key('"a": 1, "b": 2') != key('"b": 2, "a": 1')
