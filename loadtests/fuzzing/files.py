"""What our own processes read back from disk: event log, position index, routing table, key file.

A mutated checksum is only ever refused, so table and keys are also tried with the checksum put right.
"""

import tempfile
import zlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import orjson

from loadtests.fuzzing.target import Target, demand
from optimizer import keys as client_keys
from optimizer import table_file
from optimizer.ids import RequestId
from optimizer.log.position_index import PositionIndex
from optimizer.log.reader import LogReader
from optimizer.log.segment import INDEX, PACKED, PLAIN, EventReader, MemberIndex, Position, segment_path
from optimizer.routing import Arm, Model, Quota, Route, RoutingTable, Selector, Side, Upstream, Variant

_SOURCE = "000000a1-00000001-worker"
_MOST_POLLS = 2000


def _table() -> RoutingTable:
    arms = (Arm("a", "m", "default", "mk", "vk"), Arm("b", "m", "v", "mk", "vk2", {"temperature": 0.5}))
    side = Side(arms, Selector("s", "thompson", (0.25, 0.75)), "a")
    return RoutingTable(
        version=3,
        published_at=1.5,
        config_hash="h",
        upstreams=(Upstream("u", "openai", "http://h/v1", paths={"chat": "/c"}, headers=(("x-a", "b"),)),),
        models=(Model("m", "u", "id", "k", capabilities=frozenset(("tools",))),),
        variants=(Variant("default", ""), Variant("v", "k", system="s")),
        routes=(Route("r", side, match=("x*",), candidate=side, candidate_fraction=0.1, quota=Quota(5)),),
        passthrough=(("/v1/", "u"),),
    )


def _key_file() -> bytes:
    made = [
        client_keys.ClientKey(
            id=f"key_{number}",
            name="n",
            digest=f"{number:064x}",
            last4="abcd",
            created_at=1.0,
            expires_at=2.0,
            quota=Quota(requests_per_minute=5),
        )
        for number in (1, 2)
    ]
    return client_keys.encode_keys(made)


def _decode_table(data: bytes) -> Hashable:
    try:
        decoded, _ = table_file.decode(data)
    except table_file.TableRefused as refused:
        return refused.reason
    return len(decoded.routes)


def _decode_keys(data: bytes) -> Hashable:
    try:
        found = client_keys.decode_keys(data)
    except client_keys.KeyFileRefused as refused:
        demand(refused.__cause__ is None, "the refusal quotes what it stumbled over")
        return refused.reason
    return len(found)


def _signed_table(data: bytes) -> Hashable:
    lines = data.split(b"\n")
    header = orjson.loads(table_file.encode(_table()).split(b"\n")[0])
    sums = [table_file.checksum(line) for line in (*lines, b"", b"")[:2]]
    for name, value in header.items():
        if isinstance(value, str):
            header[name] = sums.pop(0)
    return _decode_table(b"\n".join((orjson.dumps(header), *lines)))


def _signed_keys(data: bytes) -> Hashable:
    line = data.partition(b"\n")[0]
    header = orjson.loads(_key_file().split(b"\n")[0]) | {"checksum": table_file.checksum(line)}
    return _decode_keys(orjson.dumps(header) + b"\n" + line + b"\n")


class _Disk:
    """A log directory in which one file is replaced for every input."""

    def __init__(self, path: Path) -> None:
        self.log = path / "log"
        self.directory = self.log / _SOURCE
        self.directory.mkdir(parents=True)
        self.index = path / "index"
        (self.index / _SOURCE).mkdir(parents=True)

    def clear(self) -> None:
        for path in self.directory.iterdir():
            path.unlink()

    def plain(self, data: bytes) -> Hashable:
        """A segment as a crash, a disk or a stranger left it: read to its end, every entry where it is said to be."""
        self.clear()
        segment_path(self.directory, 1, PLAIN).write_bytes(data)
        return self._read_all(data)

    def packed(self, data: bytes) -> Hashable:
        """The first byte says where the index ends and the compressed bytes begin; both may be damaged."""
        self.clear()
        at = int.from_bytes(data[:2], "big")
        segment_path(self.directory, 1, INDEX).write_bytes(data[2 : 2 + at])
        segment_path(self.directory, 1, PACKED).write_bytes(data[2 + at :])
        return self._read_all(None)

    def _read_all(self, data: bytes | None) -> Hashable:
        reader, events, cursor, polls, entries, decoded = (
            LogReader(self.log),
            EventReader(self.log),
            {},
            0,
            0,
            0,
        )
        while True:
            batch = reader.poll(cursor, 4096)
            polls += 1
            demand(polls < _MOST_POLLS, "the reader does not come to an end")
            for entry in batch.entries:
                entries += 1
                if data is not None:
                    at = entry.position.offset
                    demand(data[at : at + len(entry.line)] == entry.line, "an entry stands somewhere else")
                    demand(events.read_line(entry.position) == entry.line, "read_line gives another line")
                events.read_event(entry.position)
            decoded += sum(1 for _ in batch.events())
            if batch.cursor == cursor and not batch.entries:
                break
            cursor = batch.cursor
        for offset in (0, 1, 17, 1 << 31):
            events.read_event(Position(_SOURCE, 1, offset))
        return min(entries, 5), min(decoded, 5), bool(reader.torn), bool(reader.invalid), bool(reader.errors)

    def positions(self, data: bytes) -> Hashable:
        """An index file of any length answers with a position or None, and can be pruned."""
        path = self.index / _SOURCE / "0000.positions"
        path.write_bytes(data)
        index = PositionIndex(self.index)
        found = [
            index.find(RequestId(1, 0xA1, 1, sequence, 0))
            for sequence in (0, 1, len(data) // 8, 1 << 20, 2**32 - 1)
        ]
        demand(all(place is None or place.segment > 0 for place in found), "a position without a segment")
        index.prune(_SOURCE, 2)
        return tuple(place is None for place in found), path.exists()


def _lines() -> bytes:
    rows = [
        {
            "id": f"req_{number}",
            "type": "llm_optimizer.request.v1",
            "source": _SOURCE,
            "data": {"route": "r", "n": number},
        }
        for number in range(6)
    ]
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _packed() -> bytes:
    def member(data: bytes) -> bytes:
        packer = zlib.compressobj(wbits=31)
        return packer.compress(data) + packer.flush()

    lines = _lines()
    half = lines.index(b"\n") + 1
    first, second = member(lines[:half]), member(lines[half:])
    index = MemberIndex((0, half), (0, len(first)), len(lines)).encode()
    return len(index).to_bytes(2, "big") + index + first + second


def targets() -> list[Target]:
    """Readers of files; what they leave on disk is in one temporary directory, which goes with the targets."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    disk = _Disk(Path(folder.name))

    def on_disk(run: Callable[[bytes], Hashable]) -> Callable[[bytes], Hashable]:
        def kept(data: bytes, _folder: Any = folder) -> Hashable:
            return run(data)

        return kept

    words = (b'"', b"{", b"}", b"\n", b"null", b'"id":', b'"data":{}', b"\x00", b"\r\n")
    table, keys = table_file.encode(_table()), _key_file()
    fields = (
        b'"routes":[]',
        b'"arms":',
        b'"probabilities":[]',
        b'"name":',
        b'"digest":',
        b'"quota":{}',
        b'"limits":{}',
    )
    return [
        Target("table", _decode_table, (table,), words, ("table_file.py",)),
        Target("table-signed", _signed_table, (table.partition(b"\n")[2],), words + fields, ("table_file.py",)),
        Target("keys", _decode_keys, (keys,), words, ("optimizer/keys.py",)),
        Target("keys-signed", _signed_keys, (keys.partition(b"\n")[2],), words + fields, ("optimizer/keys.py",)),
        Target("log", on_disk(disk.plain), (_lines(), b"", b"\n\n", _lines()[:-9]), words, ("optimizer/log/",)),
        Target("log-packed", on_disk(disk.packed), (_packed(),), (b"\x1f\x8b\x08", b"\x00\x00", b"\xff\xff"),
        ("optimizer/log/",)),
        Target(
            "positions", on_disk(disk.positions), (bytes.fromhex("0000000100000000" * 4), b"", b"\x00" * 7),
            (b"\xff" * 8, b"\x00" * 8), ("position_index.py",),
        ),
    ]  # fmt: skip
