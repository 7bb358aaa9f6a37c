"""Reads recorded outcomes in the long format of ``llm-optimizer simulate``: CSV or JSON lines, a row per query and arm.

The format is documented in ``docs/learning.md``. Invariant: a problem of the file is said with its line; a row is never
dropped silently.
"""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import orjson

QUERY: Final = ("query", "query_id", "id")
QUALITY: Final = ("quality", "reward")
COST: Final = ("cost_usd", "cost")
LATENCY: Final = ("latency_s", "latency")
FEATURE: Final = "feature."
_ARM: Final = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._:/@+#~-]{0,127}")
# A prompt may be as long as any context; the csv module's own bound is 128 KiB.
_LONGEST_FIELD: Final = 64 * 1024 * 1024
_MOST_SHOWN: Final = 80


class BadRecording(ValueError):
    """The file is not in the format; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one arm did with one query: quality 0..1, USD, seconds or None."""

    quality: float
    cost_usd: float
    latency_s: float | None


@dataclass(slots=True)
class Query:
    """One query. ``features`` are the caller's own, numbers or words."""

    id: str
    text: str | None = None
    category: str | None = None
    features: dict[str, float | str] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recording:
    """Queries in the order of the file; ``arms`` in the order in which they first appear."""

    queries: tuple[Query, ...]
    arms: tuple[str, ...]


def read(path: Path, *, category: str | None = None) -> Recording:
    """Read a recording; ``.gz`` is unpacked, ``.csv`` is CSV and everything else JSON lines.

    Args:
        path: The file.
        category: The column (or JSON member) that holds a query's category; None: ``category``, if there is one.

    Raises:
        BadRecording: The file is not in the format.
        OSError: The file can not be read.
    """
    queries: dict[str, Query] = {}
    arms: dict[str, None] = {}
    column = category or "category"
    seen_category = False
    for line, row in _rows(path):
        arm = _arm(row, line)
        key = _text(row, QUERY, line)
        query = queries.setdefault(key, Query(key))
        if arm in query.cells:
            raise BadRecording(f"line {line}: query {key!r} has a second row of arm {arm!r}.")
        arms.setdefault(arm)
        query.cells[arm] = _cell(row, line)
        _describe(query, row, column)
        seen_category = seen_category or query.category is not None
    if not queries:
        raise BadRecording("there is no row in it.")
    if category is not None and not seen_category:
        raise BadRecording(f"no row has a value for {category!r}.")
    return Recording(tuple(queries.values()), tuple(arms))


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    is_csv = path.name.lower().removesuffix(".gz").endswith(".csv")
    try:
        # newline="": prompts hold line breaks and Unicode separators, which end neither a CSV field nor a JSON line.
        with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
            yield from _csv_rows(text) if is_csv else _json_rows(text)
    except UnicodeDecodeError as error:
        raise BadRecording(f"it is not UTF-8 text (byte {error.start}).") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadRecording(f"it can not be unpacked: {error}.") from error


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _csv_rows(text: io.TextIOWrapper) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.DictReader(text, strict=True)
    try:
        reader.fieldnames = _names(reader.fieldnames or ())
        for row in reader:
            if None in row:
                raise BadRecording(f"line {reader.line_num}: more fields than the first line has names.")
            yield reader.line_num, {name: value for name, value in row.items() if value not in (None, "")}
    except csv.Error as error:
        raise BadRecording(f"line {reader.line_num}: {error}.") from error


def _names(names: Sequence[str]) -> list[str]:
    """The names of the first line, without the blanks around them.

    Raises:
        BadRecording: One stands there twice, or none is one of ours: another separator, or no line of names at all.
    """
    found = [name.strip() for name in names]
    twice = sorted({name for name in found if name and found.count(name) > 1})
    if twice:
        raise BadRecording(f"line 1: the column {twice[0]!r} stands there twice.")
    if found and "arm" not in found:
        shown = ", ".join(found)[:_MOST_SHOWN]
        raise BadRecording(f"line 1: no column is called `arm`; between commas there is: {shown}.")
    return found


def _json_rows(text: io.TextIOWrapper) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, content in enumerate(text, start=1):
        if not content.strip():
            continue
        try:
            row = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            hint = " CSV is read from files called .csv or .csv.gz." if line == 1 else ""
            raise BadRecording(f"line {line}: not JSON: {error}.{hint}") from error
        if not isinstance(row, dict):
            raise BadRecording(f"line {line}: not a JSON object.")
        features = row.pop("features", None) or {}
        if not isinstance(features, dict):
            raise BadRecording(f"line {line}: `features` is not a JSON object.")
        flat = {FEATURE + str(name): value for name, value in features.items()}
        yield line, {name: value for name, value in {**row, **flat}.items() if value is not None}


def _describe(query: Query, row: Mapping[str, Any], category: str) -> None:
    """Text, category and features may stand on any row of a query; the first one counts."""
    if query.text is None and "text" in row:
        query.text = str(row["text"])
    if query.category is None and category in row:
        query.category = str(row[category])
    for name, value in row.items():
        if name.startswith(FEATURE):
            query.features.setdefault(name.removeprefix(FEATURE), _feature(value))


def _feature(value: Any) -> float | str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(value)


def _cell(row: Mapping[str, Any], line: int) -> Cell:
    quality = _number(row, QUALITY, line)
    cost = _number(row, COST, line)
    latency = _number(row, LATENCY, line, optional=True)
    if quality is None or not 0.0 <= quality <= 1.0:
        raise BadRecording(f"line {line}: `quality` is {quality}; it must lie between 0 and 1.")
    if cost is None or cost < 0.0:
        raise BadRecording(f"line {line}: `cost_usd` is {cost}; it must not be negative.")
    if latency is not None and latency < 0.0:
        raise BadRecording(f"line {line}: `latency_s` is {latency}; it must not be negative.")
    return Cell(quality, cost, latency)


def _arm(row: Mapping[str, Any], line: int) -> str:
    arm = _text(row, ("arm",), line)
    if not _ARM.fullmatch(arm):
        raise BadRecording(
            f"line {line}: {arm[:_MOST_SHOWN]!r} can not be the name of an arm: up to 128 letters, digits and any of "
            ". _ : / @ + # ~ -"
        )
    return arm


def _text(row: Mapping[str, Any], names: tuple[str, ...], line: int) -> str:
    found = next((row[name] for name in names if name in row), None)
    if found is None:
        raise BadRecording(f"line {line}: `{names[0]}` is missing.")
    if not isinstance(found, (str, int, float)):
        raise BadRecording(f"line {line}: `{names[0]}` is neither a text nor a number.")
    return str(found).strip()


def _number(
    row: Mapping[str, Any], names: tuple[str, ...], line: int, *, optional: bool = False
) -> float | None:
    name = next((name for name in names if name in row), None)
    if name is None:
        if optional:
            return None
        raise BadRecording(f"line {line}: `{names[0]}` is missing.")
    try:
        number = float(row[name])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRecording(f"line {line}: `{name}` is {row[name]!r}, which is no number.")
    return number
