"""Hashes of the words of a text: which of 4,096 buckets occur, the same on every machine and in every process.

A word is a run of ASCII letters, digits and bytes beyond ASCII; letters are lower-cased and every digit counts as 0, so
that numbers are known by their length. Characters of scripts that write no spaces are words each. The hash is a
polynomial over the bytes, computed for all words at once from one running sum.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

BUCKETS: Final = 4096
# No word is ever in this bucket: its row of a projection is what is added to every sum.
OFFSET: Final = 0
# More distinct words than this do not fit into a logged sketch; decisions and sketches then see the same subset.
MOST_BUCKETS: Final = 256
# Bytes of text that are looked at; ``prompt`` has cut it to about this before.
MOST_BYTES: Final = 3072

Buckets: TypeAlias = NDArray[np.uint16]

_SPACE: Final = 32
_MULTIPLIER: Final = 0x9E3779B1
_BASE: Final = 0x85EBCA77
_SHIFT: Final = np.uint32(32 - 12)
# First bytes of three-byte characters from U+3000 to U+D7FF: kana, ideographs, hangul.
_ALONE: Final = (0xE3, 0xED)


def _normal_bytes() -> bytes:
    table = bytearray(b" " * 256)
    for code in range(256):
        if chr(code).isascii() and chr(code).isalpha():
            table[code] = ord(chr(code).lower())
        elif chr(code).isascii() and chr(code).isdigit():
            table[code] = ord("0")
        elif code >= 0x80:
            table[code] = code
    return bytes(table)


def _powers(base: int) -> NDArray[np.uint32]:
    power, powers = 1, []
    for _ in range(MOST_BYTES + 1):
        powers.append(power)
        power = power * base % 2**32
    return np.array(powers, dtype=np.uint32)


_NORMAL: Final = _normal_bytes()
_POWERS: Final = _powers(_BASE)
# The base is odd, so it has an inverse: dividing by a word's position makes its hash the same everywhere. The
# multiplier that mixes low bits into high ones is part of it already.
_RETURNS: Final = _powers(pow(_BASE, -1, 2**32)) * np.uint32(_MULTIPLIER)


def word_buckets(text: str) -> Buckets:
    """The distinct buckets of the words of ``text``, rising; at most ``MOST_BUCKETS``, evenly left out beyond."""
    data = text.encode("utf-8", "replace")[:MOST_BYTES].translate(_NORMAL)
    size = len(data)
    codes = np.frombuffer(b" %b " % data, dtype=np.uint8)
    inside = codes != _SPACE
    if text.isascii():
        edges = (inside[1:] != inside[:-1]).nonzero()[0]
        starts, ends = edges[0::2], edges[1::2]
    else:
        starts, ends = _edges(codes, inside)
    sums = np.zeros(size + 1, dtype=np.uint32)
    np.add.accumulate(codes[1:-1] * _POWERS[:size], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * _RETURNS[starts]
    present = np.zeros(BUCKETS, dtype=np.bool_)
    present[hashes >> _SHIFT] = True
    present[OFFSET] = False
    buckets: NDArray[np.intp] = present.nonzero()[0]
    if len(buckets) > MOST_BUCKETS:
        buckets = buckets[np.arange(MOST_BUCKETS) * len(buckets) // MOST_BUCKETS]
    return buckets.astype(np.uint16)


def _edges(codes: NDArray[np.uint8], inside: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where words begin and end, when some characters are words of their own."""
    lead = (codes >= _ALONE[0]) & (codes <= _ALONE[1])
    after = np.zeros_like(lead)
    after[3:] = lead[:-3]
    begins = inside[1:] & (~inside[:-1] | lead[1:] | after[1:])
    starts = np.flatnonzero(begins)
    stops = inside[:-1] & (~inside[1:] | begins)
    return starts, np.flatnonzero(stops)


def encode_sketch(buckets: Buckets) -> bytes:
    """Little-endian uint16, as events carry it (in base64)."""
    return buckets.astype("<u2").tobytes()


def decode_sketch(data: bytes) -> Buckets:
    """The opposite of ``encode_sketch``; raises ``ValueError`` for what is no sketch."""
    if len(data) % 2 or len(data) > 2 * MOST_BUCKETS:
        raise ValueError(f"a sketch of {len(data)} bytes")
    buckets = np.frombuffer(data, dtype="<u2").astype(np.uint16)
    if len(buckets) and int(buckets.max()) >= BUCKETS:
        raise ValueError(f"a sketch with bucket {int(buckets.max())}")
    return buckets
