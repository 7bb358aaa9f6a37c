"""The routing table on disk: three JSON lines, replaced as a whole.

The header is ``{"format": 1, "version": N, "arms_checksum": ..., "checksum": ...}``, checksums being
BLAKE2b-128 of the bytes of the next two lines. The second line is the pool of all arms; the third is the
table, whose sides name arms by their index in the pool. Probabilities move twice a second and arms only
with the configuration, so a reader that knows the pool's checksum keeps its ``Arm`` objects and reads the
small third line only. Fields that a reader does not know are ignored, fields that it misses take their
defaults; a change that needs more than that gets a new ``format``.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from optimizer.durable import Order, replace_file
from optimizer.routing import (
    Access,
    Arm,
    BreakerRules,
    CacheStore,
    Caching,
    ClientFeature,
    Features,
    Guarding,
    Limits,
    Model,
    Price,
    Quota,
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

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT: Final = 1

T = TypeVar("T", bound="DataclassInstance")
_Convert = Callable[[Any], Any]
_ARM_SLOTS: Final[tuple[Callable[[Arm, Any], None], ...]] = tuple(
    getattr(Arm, name).__set__
    for name in ("id", "model", "variant", "model_key", "variant_key", "parameters")
)
_ROUTE_SLOTS: Final[tuple[tuple[str, Callable[[Route, Any], None]], ...]] = tuple(
    (field.name, getattr(Route, field.name).__set__) for field in fields(Route)
)
_AS_IT_IS: Final[Mapping[str, _Convert]] = {}
_REQUIRED: Final = object()
_ROUTE_DEFAULTS: Final[dict[str, Any]] = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory()
    for field in fields(Route)
    if field.default is not MISSING or field.default_factory is not MISSING
}


class TableRefused(Exception):
    """Bytes that are no table; ``reason`` is ``checksum``, ``format``, ``truncated`` or ``invalid``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ArmPool:
    """The arms of one table file, in the file's order, and the checksum of the line they came from."""

    checksum: str
    arms: tuple[Arm, ...]


def encode(table: RoutingTable) -> bytes:
    """The file's bytes for ``table``.

    Raises:
        TypeError: If an arm's parameters hold what JSON cannot.
    """
    pool = _PoolBuilder()
    body = _plain(table)
    body["routes"] = [_plain_route(route, pool) for route in table.routes]
    text = orjson.dumps(body, default=_as_json, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    arms = orjson.dumps(pool.rows)
    header = {
        "format": FORMAT,
        "version": table.version,
        "arms_checksum": checksum(arms),
        "checksum": checksum(text),
    }
    return b"%b\n%b\n%b\n" % (orjson.dumps(header), arms, text)


def checksum(line: bytes) -> str:
    """BLAKE2b-128 of a line, without its newline, as hex."""
    return blake2b(line, digest_size=16).hexdigest()


def decode(data: bytes, known: ArmPool | None = None) -> tuple[RoutingTable, ArmPool]:
    """Read a table back, with the pool to hand in when the next one is read.

    Args:
        data: The file's bytes.
        known: The pool of an earlier table; its arms are used again when the file has the same.

    Raises:
        TableRefused: If anything at all is wrong with the bytes.
    """
    lines = data.split(b"\n")
    if len(lines) != 4 or lines[3]:
        raise TableRefused("truncated", f"{len(data)} bytes that are not three complete lines")
    header_line, arms_line, body_line, _ = lines
    try:
        header = orjson.loads(header_line)
        stated_format, sums = header["format"], (header["arms_checksum"], header["checksum"])
    except (ValueError, KeyError, TypeError) as error:
        raise TableRefused("format", f"no header: {error!r}") from error
    if stated_format != FORMAT:
        raise TableRefused("format", f"format {stated_format!r}, this version reads {FORMAT}")
    if sums != (checksum(arms_line), checksum(body_line)):
        raise TableRefused("checksum", "the bytes are not what was written")
    try:
        if known is None or known.checksum != sums[0]:
            known = ArmPool(sums[0], _arms(orjson.loads(arms_line)))
        return _table(orjson.loads(body_line), known.arms), known
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise TableRefused("invalid", repr(error)) from error


def write_table(path: Path, table: RoutingTable, *, order: Order = "fsync_first") -> str:
    """Publish ``table`` at ``path`` and return its checksum.

    ``fsync_first`` is for giving traffic: nobody sees a table that a power loss could take back.
    ``rename_first`` is for taking traffic away: workers see it before the disk has confirmed it.

    Raises:
        OSError: When the disk refuses; see ``optimizer.durable.replace_file``.
    """
    data = encode(table)
    replace_file(path, data, order=order)
    return str(orjson.loads(data[: data.index(b"\n")])["checksum"])


class TableReader:
    """Follows a table file: cheap to poll, and a bad file changes nothing but a counter."""

    def __init__(self, path: Path) -> None:
        self.refused: Counter[str] = Counter()
        self.last_refusal: str | None = None
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._pool: ArmPool | None = None

    def poll(self) -> RoutingTable | None:
        """The table, if the file has changed since the last call and is good; else None.

        Costs one ``stat`` when nothing changed. A refused file is counted in ``refused`` by reason, once.
        """
        try:
            facts = os.stat(self._path)
            seen = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
            if seen == self._seen:
                return None
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._refuse("unreadable", str(error))
            return None
        self._seen = seen
        try:
            table, self._pool = decode(data, self._pool)
        except TableRefused as error:
            self._refuse(error.reason, str(error))
            return None
        return table

    def _refuse(self, reason: str, detail: str) -> None:
        self.refused[reason] += 1
        self.last_refusal = detail


def _arms(rows: list[list[Any]]) -> tuple[Arm, ...]:
    """One arm for every row. Their slots are set a column at a time: half the time of calling the class."""
    arms = tuple(map(object.__new__, repeat(Arm, len(rows))))
    columns = list(zip(*rows, strict=False)) if rows else [()] * len(_ARM_SLOTS)
    if len(columns) < len(_ARM_SLOTS):
        raise ValueError(f"arms of {len(columns)} fields")
    for slot, column in zip(_ARM_SLOTS, columns, strict=False):
        deque(map(slot, arms, column), maxlen=0)
    return arms


class _PoolBuilder:
    """Arms as JSON rows, each content once, in the order of first use."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self._index: dict[tuple[str, str, str, str, str, bytes], int] = {}

    def index(self, arm: Arm) -> int:
        parameters = dict(arm.parameters)
        names = (arm.id, arm.model, arm.variant, arm.model_key, arm.variant_key)
        key = (*names, orjson.dumps(parameters) if parameters else b"")
        index = self._index.get(key)
        if index is None:
            index = self._index[key] = len(self.rows)
            self.rows.append([*names, parameters])
        return index


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass's own fields, shallow; nested ones become dicts when JSON is written."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _as_json(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return _plain(value)


def _plain_route(route: Route, pool: _PoolBuilder) -> dict[str, Any]:
    # There may be many, mostly alike: what a reader would assume anyway is left out.
    plain = {
        name: value for name, value in _plain(route).items() if value != _ROUTE_DEFAULTS.get(name, _REQUIRED)
    }
    plain["control"] = _plain_side(route.control, pool)
    if route.candidate is not None:
        plain["candidate"] = _plain_side(route.candidate, pool)
    if route.fallbacks:
        plain["fallbacks"] = [pool.index(arm) for arm in route.fallbacks]
    return plain


def _plain_side(side: Side, pool: _PoolBuilder) -> dict[str, Any]:
    plain = _plain(side)
    plain["arms"] = [pool.index(arm) for arm in side.arms]
    return plain


def _build(cls: type[T], raw: Mapping[str, Any], convert: Mapping[str, _Convert] = _AS_IT_IS) -> T:
    """An instance of dataclass ``cls`` from the fields of ``raw`` that it knows."""
    names = cls.__dataclass_fields__
    known = {name: value for name, value in raw.items() if name in names}
    for name, function in convert.items():
        if known.get(name) is not None:
            known[name] = function(known[name])
    return cls(**known)


def _pairs(raw: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in raw)


def _table(raw: dict[str, Any], pool: tuple[Arm, ...]) -> RoutingTable:
    table: dict[str, _Convert] = {"routes": lambda rows: _routes(rows, pool), **_TABLE_PARTS}
    return _build(RoutingTable, raw, table)


def _routes(rows: list[dict[str, Any]], pool: tuple[Arm, ...]) -> tuple[Route, ...]:
    """There may be many, so their slots are set without calling the class, and parts that are alike are built once."""
    convert: dict[str, _Convert] = {
        "control": lambda row: _side(row, pool),
        "candidate": lambda row: _side(row, pool),
        "fallbacks": lambda indices: tuple([pool[index] for index in indices]),
        **{name: _same_as_last(build) for name, build in _ROUTE_PARTS.items()},
    }
    routes = []
    for row in rows:
        values = _ROUTE_DEFAULTS | row
        for name in row.keys() & convert.keys():
            if row[name] is not None:
                values[name] = convert[name](row[name])
        route = object.__new__(Route)
        for name, slot in _ROUTE_SLOTS:
            slot(route, values[name])
        routes.append(route)
    return tuple(routes)


def _same_as_last(build: _Convert) -> _Convert:
    """``build``, which gives the same object again for what equals the last it was given."""
    given: Any = None
    built: Any = None

    def made(raw: Any) -> Any:
        nonlocal given, built
        if raw != given:
            built = build(raw)
            given = raw
        return built

    return made


def _of(cls: type[T], **convert: _Convert) -> Callable[[Any], T]:
    """What builds a ``cls`` from its fields."""
    return lambda row: _build(cls, row, convert)


def _each(build: Callable[[Any], T]) -> _Convert:
    return lambda rows: tuple([build(row) for row in rows])


def _side(raw: dict[str, Any], pool: tuple[Arm, ...]) -> Side:
    selector = raw["selector"]
    return Side(
        arms=tuple([pool[index] for index in raw["arms"]]),
        selector=Selector(
            selector["id"], selector["policy"], tuple(selector["probabilities"]), selector.get("index")
        ),
        baseline=raw["baseline"],
    )


_TABLE_PARTS: Final[Mapping[str, _Convert]] = {
    "upstreams": _each(_of(Upstream, headers=_pairs, breaker=_of(BreakerRules))),
    "models": _each(_of(Model, price=_of(Price), capabilities=frozenset, endpoints=frozenset)),
    "variants": _each(_of(Variant)),
    "passthrough": _pairs,
    "limits": _of(Limits),
    "access": _of(Access),
    "overlays": tuple,
    "cache_store": _of(CacheStore),
}
_ROUTE_PARTS: Final[Mapping[str, _Convert]] = {
    "match": tuple,
    "sticky": _of(Sticky),
    "resilience": _of(Resilience),
    "quota": _of(Quota),
    "guarding": _of(Guarding),
    "features": _of(Features, client=_each(_of(ClientFeature, values=tuple))),
    "sampling": _of(Sampling),
    "caching": _of(Caching),
}
