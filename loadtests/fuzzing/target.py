"""What is fuzzed: a function over bytes, inputs to begin with, words of its format, the modules it is about.

The function returns something hashable that says what kind of outcome it was, so that inputs with a new outcome are
kept; it raises only when an invariant is broken or the code under test raised what it does not document.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from random import Random
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Target:
    """``modules`` are ends of file names, whose lines count as covered."""

    name: str
    run: Callable[[bytes], Hashable]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = ()
    modules: tuple[str, ...] = ()


class Broken(AssertionError):
    """An invariant does not hold; the message says which."""


def demand(holds: object, what: str) -> None:
    """Raise ``Broken`` unless ``holds``."""
    if not holds:
        raise Broken(what)


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Ways of cutting ``data``, given by itself: byte by byte when it is short, and two of random pieces."""
    if len(data) <= 600:
        yield [data[at : at + 1] for at in range(len(data))]
    random = Random(crc32(data))
    for longest in (7, 200):
        pieces, at = [], 0
        while at < len(data):
            size = random.randint(1, longest)
            pieces.append(data[at : at + size])
            at += size
        yield pieces
