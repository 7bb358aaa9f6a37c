"""Frozen contextual policies on disk: immutable blobs whose name is the hash of what is in them.

A blob is one JSON line, padded to 64 bytes, and float32 arrays, little endian, one after the other. Its name ends with
the hash of all its bytes, so what was read is what was written or is refused; nothing is ever changed under a name. A
reader maps the file, so the workers of a machine share one copy. ``sel-`` names an ``Index``, ``prj-`` the projection
of lexical features. numpy: workers import this module only when a table has a contextual route.
"""

import mmap
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from optimizer.durable import replace_file
from policies.contextual import Index

FORMAT: Final = 1
SELECTOR: Final = "sel"
PROJECTION: Final = "prj"
BYTES_CAP: Final = 256 * 1024**2
MAX_AGE_S: Final = 24 * 3600.0

_ALIGNMENT = 64
_DIGEST_BYTES = 12
_LARGEST_HEADER = 4096
# 32 arms of 300 features have 12 MB; what is larger is none of ours, and would only be hashed for nothing.
_LARGEST_BYTES = 64 * 1024**2
# Numbers within this stay finite in float32 whatever a decision does with them.
_LARGEST_NUMBER = 1e12
# Shares that sum to 1 before they are float32 may sum to a little more after.
_ROUNDING = 1e-5
# A blob that the next table will name must not be swept between its write and the table's.
_GRACE_S = 60.0
_SELECTOR_PARTS = ("linear", "spread", "noise", "given", "drawn")

Float32: Final = np.dtype("<f4")


class BlobRefused(Exception):
    """A file that is not what its name says.

    ``reason`` is ``missing``, ``too_large``, ``checksum``, ``format`` or ``invalid``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def encode(index: Index) -> bytes:
    """The bytes of ``index``, everything in float32."""
    linear = np.concatenate([index.value[None], index.charges, index.cost[None]])
    arrays = (linear, index.spread, index.noise, index.given, index.drawn)
    cap = index.max_request_usd
    facts = {"max_request_usd": cap if np.isfinite(cap) else None}
    return _encode(SELECTOR, facts, dict(zip(_SELECTOR_PARTS, arrays, strict=True)))


def write(directory: Path, index: Index) -> str:
    """Keep ``index`` below ``directory`` and return its name; it is durable before anybody can see it.

    Raises:
        OSError: When the disk refuses.
    """
    return _write(directory, SELECTOR, encode(index))


def load(path: Path) -> Index:
    """The index of a blob, as read-only float32 arrays on the mapped file.

    Raises:
        BlobRefused: If there is none, or anything is wrong with it.
    """
    facts, arrays = _load(path, SELECTOR)
    try:
        linear, spread, noise, given, drawn = (arrays[name] for name in _SELECTOR_PARTS)
        kinds, arms, size = linear.shape
        shapes = (spread.shape, noise.shape, given.shape, drawn.shape)
        _expect(kinds >= 2 and arms > 0, f"an index of shape {linear.shape}")
        _expect(shapes == ((arms, size, size), (arms,), (arms,), (arms,)), f"shapes {linear.shape}, {shapes}")
        cap = facts["max_request_usd"]
        limit = float("inf") if cap is None else float(cap)
        _expect(limit > 0.0, f"a cap of {limit} USD")
    except (KeyError, ValueError, TypeError) as error:
        raise BlobRefused("format", f"{path.name}: {error!r}") from error
    for array in arrays.values():
        _check_numbers(path, array)
    if (given < 0.0).any() or float(given.sum(dtype=np.float64)) > 1.0 + _ROUNDING or (noise < 0.0).any():
        raise BlobRefused("invalid", f"{path.name}: shares or variances that are none")
    return Index(
        value=linear[0],
        charges=linear[1:-1],
        spread=spread,
        noise=noise,
        given=given,
        drawn=drawn != 0.0,
        cost=linear[-1],
        max_request_usd=limit,
    )


def write_projection(directory: Path, rows: NDArray[np.floating[Any]]) -> str:
    """Keep a projection, one row per bucket of words, and return its name. Errors as ``write``."""
    return _write(directory, PROJECTION, _encode(PROJECTION, {}, {"rows": rows}))


def load_projection(path: Path) -> NDArray[np.float32]:
    """The rows of a projection, read-only, on the mapped file. Errors as ``load``."""
    _, arrays = _load(path, PROJECTION)
    rows = arrays.get("rows")
    if rows is None or rows.ndim != 2:
        raise BlobRefused("format", f"{path.name}: no table of rows")
    _check_numbers(path, rows)
    return rows


def sweep(
    directory: Path,
    keep: AbstractSet[str],
    *,
    now: float,
    bytes_cap: int = BYTES_CAP,
    age_s: float = MAX_AGE_S,
) -> list[str]:
    """Delete blobs that nobody needs and return their names.

    Those of ``keep`` (the newest tables') stay. Others stay, to explain past decisions, until they are ``age_s`` old or
    all together, with those of ``keep``, pass ``bytes_cap``; the oldest go first. ``now`` is the wall clock in seconds.
    """
    held, others = 0, []
    for entry in os.scandir(directory):
        try:
            facts = entry.stat()
        except FileNotFoundError:
            continue
        held += facts.st_size
        if entry.name not in keep and now - facts.st_mtime > _GRACE_S:
            others.append((facts.st_mtime, facts.st_size, entry.name))
    removed = []
    for modified, size, name in sorted(others):
        if held <= bytes_cap and now - modified <= age_s:
            break
        (directory / name).unlink(missing_ok=True)
        held -= size
        removed.append(name)
    return removed


def _encode(kind: str, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    shapes = {name: array.shape for name, array in arrays.items()}
    header = orjson.dumps({"format": FORMAT, "kind": kind, "shapes": shapes, **facts})
    padding = -(len(header) + 1) % _ALIGNMENT
    parts = [np.ascontiguousarray(array, dtype=Float32).tobytes() for array in arrays.values()]
    return b"".join((header, b" " * padding, b"\n", *parts))


def _check_numbers(path: Path, array: NDArray[np.float32]) -> None:
    if not (np.abs(array) <= _LARGEST_NUMBER).all():
        raise BlobRefused("invalid", f"{path.name}: a number is not finite, or beyond all bounds")


def _expect(holds: bool, detail: str) -> None:
    if not holds:
        raise ValueError(detail)


def _name(kind: str, data: bytes | mmap.mmap) -> str:
    return f"{kind}-{blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()}"


def _write(directory: Path, kind: str, data: bytes) -> str:
    name = _name(kind, data)
    path = directory / name
    try:
        # What a crash or a faulty disk left under this name is no reason to leave it there.
        if path.read_bytes() == data:
            os.utime(path)  # named again: its age begins anew
            return name
    except FileNotFoundError:
        pass
    replace_file(path, data)
    return name


def _load(path: Path, kind: str) -> tuple[Mapping[str, Any], dict[str, NDArray[np.float32]]]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _LARGEST_BYTES:
                raise BlobRefused("too_large", f"{path.name}: {size} bytes")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # an empty file can not be mapped
        reason = "missing" if isinstance(error, FileNotFoundError) else "format"
        raise BlobRefused(reason, f"{path.name}: {error}") from error
    if _name(kind, data) != path.name:
        raise BlobRefused("checksum", f"{path.name}: the bytes are not what was written")
    end = data.find(b"\n", 0, _LARGEST_HEADER) + 1
    try:
        header = orjson.loads(data[:end])
        stated = (header["format"], header["kind"])
        shapes: Mapping[str, Sequence[int]] = header["shapes"]
        _expect(stated == (FORMAT, kind), f"format and kind are {stated}, not {(FORMAT, kind)}")
        arrays = {}
        for name, shape in shapes.items():
            count = prod(shape)
            arrays[name] = np.frombuffer(data, Float32, count, end).reshape(shape)
            end += count * Float32.itemsize
        _expect(end == len(data), f"{len(data)} bytes, not {end}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BlobRefused("format", f"{path.name}: {error!r}") from error
    return header, arrays
