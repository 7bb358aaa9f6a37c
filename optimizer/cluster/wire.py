"""What nodes of different programs send each other, as bytes: versions, tables and node states.

Only ever added to: a reader ignores what it does not know and takes a default for what it misses, so that an older
node of a rolling upgrade and a newer one read each other. What cannot be read at all is None, never an error.
"""

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, TypeGuard

import orjson

from optimizer.cluster.types import NodeState, SharedTable, Version

TABLE_BYTES: Final = 32 * 1024**2
BLOB_BYTES: Final = 64 * 1024**2
# Lua counts in doubles; beyond this two numbers may be taken for the same.
LARGEST_NUMBER: Final = 2**53 - 1

_LOW_32: Final = 0xFFFF_FFFF
_MOST_BLOBS: Final = 4096
_LONGEST_TEXT: Final = 512
_MOST_TESTS: Final = 100
"""A beat is read by every node every second."""
_BLOB_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(rb"(\d{1,16}):(\d{1,16})(?::(\d{1,16}))?(?::|$)")


def is_blob_name(name: object) -> bool:
    """Whether ``name`` can be a file's name in the directory of selectors, and cannot lead out of it."""
    return isinstance(name, str) and _BLOB_NAME.fullmatch(name) is not None


def encode_version(version: Version, size: int) -> bytes:
    """A version and how many bytes its table has, as Redis' scripts read it.

    Raises:
        ValueError: If a number is negative or too large to be compared there.
    """
    for number in (version.generation, version.number):
        if not 0 <= number <= LARGEST_NUMBER:
            raise ValueError(f"{number} cannot be part of a version: it must be within 0..{LARGEST_NUMBER}")
    return b"%d:%d:%d" % (version.generation, version.number, size)


def decode_version(data: bytes) -> tuple[Version, int] | None:
    """Version and size; None for anything else."""
    match = _VERSION.match(data)
    if match is None:
        return None
    generation, number, size = match.groups()
    return Version(int(generation), int(number)), int(size or 0)


def encode_table(table: SharedTable) -> bytes:
    """One line of JSON about the table, then the table as it is.

    Raises:
        ValueError: If it is too large, or names a blob by what is no name.
    """
    if len(table.data) > TABLE_BYTES:
        raise ValueError(
            f"the table of shard {table.shard} has {len(table.data)} bytes, the limit is {TABLE_BYTES}"
        )
    bad = next((name for name in table.blobs if not is_blob_name(name)), None)
    if bad is not None or len(table.blobs) > _MOST_BLOBS:
        raise ValueError(
            f"the table of shard {table.shard} names {len(table.blobs)} blobs, one of them {bad!r}"
        )
    head = {
        "shard": table.shard,
        "generation": table.version.generation,
        "number": table.version.number,
        "blobs": list(table.blobs),
        "size": len(table.data),
    }
    return orjson.dumps(head) + b"\n" + table.data


def decode_table(data: bytes) -> SharedTable | None:
    """The table that ``encode_table`` was given; None if that was something else, or not all of it is there."""
    line, _, body = data.partition(b"\n")
    try:
        head = orjson.loads(line)
        shard, generation, number = head["shard"], head["generation"], head["number"]
        blobs, size = head.get("blobs", []), head.get("size")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not (_is_count(shard) and _is_count(generation) and _is_count(number)):
        return None
    if not isinstance(blobs, list) or len(blobs) > _MOST_BLOBS or not all(map(is_blob_name, blobs)):
        return None
    if size != len(body) or len(body) > TABLE_BYTES:
        return None
    return SharedTable(shard, Version(generation, number), body, tuple(blobs))


def encode_node(state: NodeState) -> bytes:
    """JSON; numbers of shards are texts, versions are pairs."""
    return orjson.dumps(
        {
            "node": state.node,
            "address": state.address,
            "at": state.at,
            "owns": {str(shard): generation for shard, generation in state.owns.items()},
            "runs": {str(shard): [v.generation, v.number] for shard, v in state.runs.items()},
            "guards": sorted(state.guards),
            "program": state.program,
            "tests": sorted(state.tests)[:_MOST_TESTS],
        }
    )


def decode_node(data: bytes) -> NodeState | None:
    """What ``encode_node`` was given; None for anything that says not even which node it is and where.

    What is wrong within a list is left out, as if the node had not said it.
    """
    try:
        raw = orjson.loads(data)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    node, address, at = raw.get("node"), raw.get("address"), raw.get("at")
    if not _is_count(node) or node > _LOW_32 or not isinstance(address, str) or len(address) > _LONGEST_TEXT:
        return None
    if isinstance(at, bool) or not isinstance(at, int | float) or not isfinite(at):
        return None
    program, guards = raw.get("program"), raw.get("guards")
    return NodeState(
        node=node,
        address=address,
        at=float(at),
        owns={shard: value for shard, value in _by_shard(raw.get("owns")).items() if _is_count(value)},
        runs={
            shard: Version(*value)
            for shard, value in _by_shard(raw.get("runs")).items()
            if isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))
        },
        guards=frozenset(each for each in guards if _is_count(each))
        if isinstance(guards, list)
        else frozenset(),
        program=program[:_LONGEST_TEXT] if isinstance(program, str) else "",
        tests=_names(raw.get("tests")),
    )


def _by_shard(raw: object) -> Mapping[int, Any]:
    if not isinstance(raw, dict):
        return {}
    return {
        int(shard): value
        for shard, value in raw.items()
        if shard.isascii() and shard.isdigit() and len(shard) < 10
    }


def _names(raw: object) -> frozenset[str]:
    if not isinstance(raw, list):
        return frozenset()
    names = sorted({name for name in raw if isinstance(name, str) and len(name) <= _LONGEST_TEXT})
    return frozenset(names[:_MOST_TESTS])


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_NUMBER
