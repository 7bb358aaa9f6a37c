"""The bytes that nodes of different programs exchange: what is new is ignored, what is wrong is left out."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.cluster.types import NodeState, SharedTable, Version
from optimizer.cluster.wire import (
    BLOB_BYTES,
    LARGEST_NUMBER,
    TABLE_BYTES,
    decode_node,
    decode_table,
    decode_version,
    encode_node,
    encode_table,
    encode_version,
    is_blob_name,
)

counts = st.integers(0, LARGEST_NUMBER)
shards = st.integers(0, 10_000)
versions = st.builds(Version, counts, counts)
names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", fullmatch=True)
tables = st.builds(SharedTable, shards, versions, st.binary(), st.lists(names, max_size=4).map(tuple))
nodes = st.builds(
    NodeState,
    node=st.integers(0, 2**32 - 1),
    address=st.text(st.characters(codec="utf-8"), max_size=100),
    at=st.floats(0, 4e9),
    owns=st.dictionaries(shards, counts),
    runs=st.dictionaries(shards, versions),
    guards=st.frozensets(shards),
    program=st.text(st.characters(codec="utf-8"), max_size=50),
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats()
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)


@given(versions, counts)
def test_versions(version, size):
    data = encode_version(version, size)
    assert decode_version(data) == (version, size)
    assert decode_version(data + b":what a newer program adds") == (version, size)


@pytest.mark.parametrize("data", [b"", b"1", b":", b"1:", b"a:b", b"1:2x", b"-1:2", b"9" * 30 + b":1"])
def test_what_is_no_version(data):
    assert decode_version(data) is None


@pytest.mark.parametrize("version", [Version(-1, 0), Version(0, -1), Version(2**53, 0), Version(0, 2**53)])
def test_a_version_that_lua_cannot_compare(version):
    with pytest.raises(ValueError, match="version"):
        encode_version(version, 0)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_tables(table):
    assert decode_table(encode_table(table)) == table


@settings(max_examples=40, deadline=None)
@given(tables, st.data())
def test_a_table_that_is_cut_or_longer_is_none(table, data):
    whole = encode_table(table)
    assert decode_table(whole + b"x") is None
    assert decode_table(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["shard", "generation", "number", "blobs", "size"]), anything),
    st.binary(),
)
def test_no_head_of_a_table_raises(head, body):
    table = decode_table(orjson.dumps(head) + b"\n" + body)
    assert table is None or all(map(is_blob_name, table.blobs))


def test_a_newer_programs_table_is_read():
    head = {"shard": 3, "generation": 2, "number": 9, "size": 2, "blobs": [], "codec": {"new": [1]}}
    assert decode_table(orjson.dumps(head) + b"\n{}") == SharedTable(3, Version(2, 9), b"{}")
    del head["blobs"]
    assert decode_table(orjson.dumps(head) + b"\n{}") == SharedTable(3, Version(2, 9), b"{}")


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc/passwd", "", ".", "..", ".hidden", "a\0b", "x" * 129, "a b", "ü", "a\n"]
)
def test_a_blobs_name_leads_nowhere(name):
    assert not is_blob_name(name)
    with pytest.raises(ValueError, match="blobs"):
        encode_table(SharedTable(1, Version(1, 1), b"", (name,)))
    head = {"shard": 3, "generation": 2, "number": 9, "size": 0, "blobs": [name]}
    assert decode_table(orjson.dumps(head) + b"\n") is None


def test_names_of_selectors_are_names():
    assert is_blob_name("sel-" + "0123456789abcdef" * 2)
    assert is_blob_name("prj-a.bin")


def test_sizes():
    assert TABLE_BYTES == 32 * 2**20
    assert BLOB_BYTES == 64 * 2**20
    with pytest.raises(ValueError, match="limit"):
        encode_table(SharedTable(1, Version(1, 1), bytes(TABLE_BYTES + 1)))


@given(nodes)
def test_nodes(state):
    assert decode_node(encode_node(state)) == state


@settings(max_examples=40, deadline=None)
@given(nodes, st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=8), anything))
def test_a_newer_programs_node_is_read(state, more):
    raw = orjson.loads(encode_node(state))
    assert decode_node(orjson.dumps({**more, **raw})) == state


@settings(max_examples=40, deadline=None)
@given(
    nodes,
    st.dictionaries(
        st.sampled_from(["node", "address", "at", "owns", "runs", "guards", "program"]), anything
    ),
)
def test_no_node_raises(state, wrong):
    read = decode_node(orjson.dumps({**orjson.loads(encode_node(state)), **wrong}))
    if read is not None:
        assert decode_node(encode_node(read)) == read


@given(st.binary())
def test_no_bytes_raise(data):
    decode_node(data)
    decode_table(data)
    decode_version(data)


def test_a_node_says_where_prompts_are_tested():
    state = NodeState(5, "a:1", 7.0, tests=frozenset(("chat", "code")))

    assert decode_node(encode_node(state)) == state
    assert decode_node(b'{"node": 5, "address": "a:1", "at": 7, "tests": [1, "chat", ["x"]]}') == NodeState(
        5, "a:1", 7.0, tests=frozenset(("chat",))
    )


def test_an_older_programs_node_is_read():
    assert decode_node(b'{"node": 5, "address": "a:1", "at": 7}') == NodeState(5, "a:1", 7.0)
    assert decode_node(b'{"node": 5, "address": "a:1"}') is None
    assert decode_node(
        b'{"node": 5, "address": "a:1", "at": 7, "owns": {"x": 1, "2": 3, "4": "5"}, "runs": {"1": [2]}}'
    ) == (NodeState(5, "a:1", 7.0, owns={2: 3}))
