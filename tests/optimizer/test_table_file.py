"""The routing table on disk: written is read, damaged is refused, unknown is ignored."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizer.routing import (
    ENDPOINTS,
    Access,
    Arm,
    ClientFeature,
    Features,
    Limits,
    Model,
    Price,
    Resilience,
    Route,
    RoutingTable,
    Sampling,
    Selector,
    Side,
    Sticky,
    Upstream,
    Variant,
)
from optimizer.table_file import TableReader, TableRefused, checksum, decode, encode, write_table

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
pairs = st.lists(st.tuples(names, names), max_size=3).map(tuple)
texts = st.dictionaries(names, names, max_size=3)
name_tuples = st.lists(names, max_size=3).map(tuple)
name_sets = st.frozensets(names, max_size=3)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


prices = st.builds(
    Price, numbers, numbers, maybe(numbers), maybe(numbers), maybe(numbers), numbers, names, names
)
upstreams = st.builds(
    Upstream,
    name=names,
    provider=names,
    base_url=names,
    secret=maybe(names),
    headers=pairs,
    paths=texts,
    unix_socket=maybe(names),
    verify_tls=st.booleans(),
    total_s=maybe(numbers),
    max_connections=st.integers(0, 10**6),
)
models = st.builds(
    Model,
    name=names,
    upstream=names,
    model_id=names,
    key=names,
    price=maybe(prices),
    context_tokens=maybe(st.integers(0, 10**7)),
    max_output_tokens=maybe(st.integers(0, 10**7)),
    capabilities=name_sets,
    endpoints=st.frozensets(st.sampled_from(ENDPOINTS)),
)
variants = st.builds(Variant, names, names, maybe(names), names, maybe(names))
arms = st.builds(Arm, names, names, names, names, names, st.dictionaries(names, json_values, max_size=3))
selectors = st.builds(Selector, names, names, st.lists(numbers, max_size=4).map(tuple), maybe(names))
client_features = st.builds(ClientFeature, names, names, names, name_tuples, numbers, numbers)
features = st.builds(
    Features,
    names,
    st.integers(1, 64),
    st.lists(client_features, max_size=2).map(tuple),
    st.booleans(),
    maybe(names),
)
sides = st.builds(Side, st.lists(arms, max_size=4).map(tuple), selectors, names)
routes = st.builds(
    Route,
    name=names,
    control=sides,
    match=name_tuples,
    candidate=maybe(sides),
    candidate_fraction=numbers,
    rollout=maybe(names),
    sticky=maybe(st.builds(Sticky, names, names)),
    home=maybe(names),
    salt=names,
    fallbacks=st.lists(arms, max_size=2).map(tuple),
    resilience=st.builds(Resilience, attempts=st.integers(1, 4)),
    features=maybe(features),
    sampling=maybe(st.builds(Sampling, numbers, st.integers(0, 2**20))),
)
tables = st.builds(
    RoutingTable,
    version=st.integers(0, 2**53),
    published_at=numbers,
    config_hash=names,
    upstreams=st.lists(upstreams, max_size=2).map(tuple),
    models=st.lists(models, max_size=2).map(tuple),
    variants=st.lists(variants, max_size=2).map(tuple),
    routes=st.lists(routes, max_size=3).map(tuple),
    passthrough=pairs,
    limits=st.builds(Limits, max_body_bytes=st.integers(0, 2**40), drain_s=numbers),
    access=st.builds(Access, st.booleans(), st.booleans()),
    guard_lease_s=numbers,
)


def simple_table(version: int = 1, probability: float = 0.25) -> RoutingTable:
    a, b = (
        Arm(f"model-{name}/default", f"model-{name}", "default", f"m{name}", "v0", {"temperature": 0.5})
        for name in "ab"
    )
    side = Side((a, b), Selector("s1", "thompson", (probability, 1 - probability)), a.id)
    return RoutingTable(
        version=version,
        published_at=1000.0,
        config_hash="c0ffee",
        upstreams=(Upstream("openai", "openai", "https://api.example", secret="env:KEY"),),
        models=(Model("model-a", "openai", "model-a", "ma", Price(1.0, 2.0)),),
        variants=(Variant("default", "v0"),),
        routes=(Route("auto", side, match=("gpt-*",)), Route("other", side)),
    )


def rewritten(data: bytes, change: Any) -> bytes:
    """The table file with ``change(header, arms, body)`` applied and its checksums made right again."""
    header, pool, body = (orjson.loads(line) for line in data.splitlines())
    change(header, pool, body)
    pool_line, body_line = orjson.dumps(pool), orjson.dumps(body)
    header["arms_checksum"], header["checksum"] = checksum(pool_line), checksum(body_line)
    return b"\n".join([orjson.dumps(header), pool_line, body_line, b""])


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60, deadline=None)
@given(table=tables)
def test_every_table_survives_the_disk(table: RoutingTable) -> None:
    """Encoding and decoding gives an equal table, with fresh arms and with known ones."""
    data = encode(table)

    fresh, pool = decode(data)
    known, _ = decode(data, pool)

    assert fresh == table
    assert known == table


def test_arms_are_the_same_objects_while_the_configuration_stays(tmp_path: Path) -> None:
    """A republication that moves probabilities only keeps the arms, so workers can compare by identity."""
    path = tmp_path / "table.json"
    reader = TableReader(path)

    write_table(path, simple_table(1, 0.25))
    first = reader.poll()
    write_table(path, simple_table(2, 0.75))
    second = reader.poll()

    assert first is not None
    assert second is not None
    assert second.routes[0].control.selector.probabilities == (0.75, 0.25)
    assert second.routes[0].control.arms[0] is first.routes[0].control.arms[0]
    assert second.routes[1].control.arms[0] is first.routes[0].control.arms[0]


def test_fields_of_a_later_version_are_ignored() -> None:
    """An older worker reads a newer optimizer's table as far as it knows the fields."""

    def add_everywhere(header: Any, pool: Any, body: Any) -> None:
        header["signed_by"] = "someone"
        pool[0].append("a seventh column")
        body["regions"] = ["eu"]
        for part in (
            body["upstreams"][0],
            body["models"][0],
            body["models"][0]["price"],
            body["variants"][0],
        ):
            part["novelty"] = 1
        for part in (
            body["routes"][0],
            body["routes"][0]["control"],
            body["routes"][0]["control"]["selector"],
        ):
            part["novelty"] = {"deep": [1]}
        body["limits"]["novelty"] = body["access"]["novelty"] = True

    table, _ = decode(rewritten(encode(simple_table()), add_everywhere))

    assert table == simple_table()


def test_missing_fields_take_their_defaults() -> None:
    """A newer worker reads an older optimizer's table."""

    def remove_some(header: Any, pool: Any, body: Any) -> None:
        del body["limits"], body["access"], body["guard_lease_s"], body["passthrough"]
        del body["upstreams"][0]["keepalive_s"]

    table, _ = decode(rewritten(encode(simple_table()), remove_some))

    assert table == simple_table()


@given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_no_changed_byte_gets_through(position: int, byte: int) -> None:
    """Damage anywhere is refused, or hits a header field that decides nothing."""
    data = bytearray(encode(simple_table()))
    position %= len(data)
    data[position] = byte

    try:
        table, _ = decode(bytes(data))
    except TableRefused:
        return

    assert table == simple_table()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: b"", "truncated"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"\0" * len(data), "truncated"),
        (lambda data: b"not json\n[]\n{}\n", "format"),
        (lambda data: b"[]\n[]\n{}\n", "format"),
        (lambda data: data.replace(b'"format":1', b'"format":2'), "format"),
        (lambda data: data.replace(b"0.25", b"0.35"), "checksum"),
        (lambda data: rewritten(data, lambda header, pool, body: pool.clear()), "invalid"),
        (lambda data: rewritten(data, lambda header, pool, body: body.pop("version")), "invalid"),
        (lambda data: rewritten(data, lambda header, pool, body: body.update(routes=5)), "invalid"),
    ],
)
def test_a_bad_file_is_refused_once_and_changes_nothing(tmp_path: Path, spoil: Any, reason: str) -> None:
    """The reader counts it by reason, says why, and takes the next good one."""
    path = tmp_path / "table.json"
    path.write_bytes(spoil(encode(simple_table())))
    reader = TableReader(path)

    polled = [reader.poll() for _ in range(3)]

    assert polled == [None, None, None]
    assert dict(reader.refused) == {reason: 1}
    assert reader.last_refusal is not None
    write_table(path, simple_table(2))
    assert reader.poll() == simple_table(2)


def test_polling_says_nothing_until_something_changed(tmp_path: Path) -> None:
    """No file: None. New file: the table, once. Same file touched by nobody: None."""
    path = tmp_path / "table.json"
    reader = TableReader(path)

    assert reader.poll() is None
    stated = write_table(path, simple_table())
    assert reader.poll() == simple_table()
    assert reader.poll() is None
    assert not reader.refused
    assert orjson.loads(path.read_bytes().splitlines()[0])["checksum"] == stated


def test_both_orders_publish_the_same_file(tmp_path: Path) -> None:
    """Taking traffic away writes what giving it writes, in another order."""
    paths = [tmp_path / "given.json", tmp_path / "taken.json"]

    write_table(paths[0], simple_table())
    write_table(paths[1], simple_table(), order="rename_first")

    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["given.json", "taken.json"]
    assert paths[1].stat().st_mode & 0o777 == 0o600


def test_an_unreadable_table_is_counted_not_raised(tmp_path: Path) -> None:
    """A directory in the table's place is an operator's accident, not the worker's end."""
    path = tmp_path / "table.json"
    path.mkdir()
    reader = TableReader(path)

    assert reader.poll() is None
    assert dict(reader.refused) == {"unreadable": 1}


def test_arms_that_differ_in_parameters_only_stay_apart() -> None:
    """The pool tells arms apart by their whole content."""
    table = simple_table()
    side = table.routes[0].control
    warmer = replace(side.arms[0], parameters={"temperature": 0.9})
    table = replace(table, routes=(Route("auto", replace(side, arms=(side.arms[0], warmer))),))

    decoded, _ = decode(encode(table))

    assert [arm.parameters for arm in decoded.routes[0].control.arms] == [
        {"temperature": 0.5},
        {"temperature": 0.9},
    ]


def test_parts_that_routes_have_in_common_are_one_object() -> None:
    """And routes whose parts differ keep their own, whatever comes in between."""
    arm = Arm("a", "m", "default", "k", "d")
    route = Route("r", Side((arm,), Selector("s", "fixed", (1.0,)), "a"))
    quick, slow = Resilience(attempts=2), Resilience(attempts=4)
    rules = (quick, quick, slow, quick)
    routes = tuple(replace(route, name=f"r{n}", resilience=rule) for n, rule in enumerate(rules))

    read, _ = decode(encode(RoutingTable(1, 0.0, "", (), (), (), routes)))

    assert [route.resilience for route in read.routes] == list(rules)
    assert read.routes[0].resilience is read.routes[1].resilience
