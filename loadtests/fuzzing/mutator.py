"""Changes inputs at random: bits, bytes, pieces, words of the format, other inputs. One seed gives one sequence."""

import re
from collections.abc import Callable, Sequence
from random import Random

LARGEST = 16 * 1024
_BYTES = (
    0x00,
    0x09,
    0x0A,
    0x0D,
    0x20,
    0x22,
    0x2C,
    0x3A,
    0x5B,
    0x5C,
    0x5D,
    0x7B,
    0x7D,
    0x7F,
    0x80,
    0xC0,
    0xED,
    0xFF,
)
_NUMBERS = (
    b"0",
    b"-1",
    b"-0",
    b"1e400",
    b"1e-400",
    b"0.1",
    b"9007199254740993",
    b"18446744073709551616",
    b"1" * 400,
)
_VALUES = (b"null", b"true", b"{}", b"[]", b'""', b"[[]]", b'"\\ud800"', b"NaN", b'{"a":null}', b'"\\u0000"')
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_VALUE = re.compile(rb"null|true|false|-?\d+(?:\.\d+)?|\"[^\"\\\n]*\"|\{\}|\[\]")

Change = Callable[[bytearray], None]


class Mutator:
    """Makes inputs from a corpus. ``tokens`` are words that the format knows."""

    def __init__(self, seed: int, tokens: Sequence[bytes]) -> None:
        self._random = Random(seed)
        self._tokens = tuple(tokens)
        self._changes: tuple[Change, ...] = (
            self._flip, self._set, self._insert, self._delete, self._repeat, self._token, self._number, self._value,
            self._value, self._nest, self._truncate, self._swap,
        )  # fmt: skip

    def make(self, corpus: Sequence[bytes]) -> bytes:
        """A new input: one of the corpus, changed one to eight times, sometimes joined with another."""
        random = self._random
        data = bytearray(random.choice(corpus))
        if random.random() < 0.15:
            other = random.choice(corpus)
            data[random.randint(0, len(data)) :] = other[random.randint(0, len(other)) :]
        for _ in range(1 << random.randrange(4)):
            random.choice(self._changes)(data)
        return bytes(data[:LARGEST])

    def _range(self, data: bytearray) -> tuple[int, int]:
        start = self._random.randint(0, len(data))
        return start, min(len(data), start + (1 << self._random.randrange(9)))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] = self._random.choice(_BYTES)

    def _insert(self, data: bytearray) -> None:
        at = self._random.randint(0, len(data))
        data[at:at] = bytes([self._random.choice(_BYTES)]) * (1 << self._random.randrange(5))

    def _delete(self, data: bytearray) -> None:
        start, end = self._range(data)
        del data[start:end]

    def _repeat(self, data: bytearray) -> None:
        start, end = self._range(data)
        data[end:end] = data[start:end] * self._random.randint(1, 8)

    def _token(self, data: bytearray) -> None:
        if self._tokens:
            start, end = self._range(data)
            data[start : end if self._random.random() < 0.3 else start] = self._random.choice(self._tokens)

    def _number(self, data: bytearray) -> None:
        self._replace(data, _NUMBER, _NUMBERS)

    def _value(self, data: bytearray) -> None:
        self._replace(data, _VALUE, (*_VALUES, *_NUMBERS))

    def _replace(self, data: bytearray, pattern: re.Pattern[bytes], by: Sequence[bytes]) -> None:
        found = list(pattern.finditer(data))
        if found:
            match = self._random.choice(found)
            start, end = match.span()
            data[start:end] = self._random.choice(by)

    def _nest(self, data: bytearray) -> None:
        at = self._random.randint(0, len(data))
        depth = 1 << self._random.randrange(11)
        data[at:at] = self._random.choice((b"[", b'{"a":', b"- ", b"{a: ")) * depth

    def _truncate(self, data: bytearray) -> None:
        del data[self._random.randint(0, len(data)) :]

    def _swap(self, data: bytearray) -> None:
        lines = bytes(data).split(b"\n")
        first, second = self._random.randrange(len(lines)), self._random.randrange(len(lines))
        lines[first], lines[second] = lines[second], lines[first]
        data[:] = b"\n".join(lines)
