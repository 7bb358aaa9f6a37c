"""One answer as it is kept: what the caller got, and who said it. As bytes it proves itself, under its own key only."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import orjson

_FORMAT: Final = 1
_SEAL_BYTES: Final = 16
# What an entry takes beside its bytes, about: its objects, the key, and its place in a dictionary.
_OVERHEAD: Final = 800
_NAME_OVERHEAD: Final = 90


@dataclass(frozen=True, slots=True)
class Entry:
    """A whole reply with status 200. ``body`` is what was sent, of a stream all of its events.

    ``arm`` gave it to request ``request_id``, which came at ``at_ms`` (Unix milliseconds). ``left_out`` names
    members of that request which the arm was not asked for.
    """

    body: bytes
    content_type: bytes
    stream: bool
    arm: str
    request_id: str
    at_ms: int
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes. Names of members and the type may be of any length."""
        names = sum(_NAME_OVERHEAD + 4 * len(name) for name in self.left_out)
        return _OVERHEAD + len(self.body) + len(self.content_type) + names


def encode(entry: Entry, key: bytes, secret: bytes) -> bytes:
    """The entry for a store that others can reach."""
    said_by = (entry.stream, entry.arm, entry.request_id, entry.at_ms, entry.left_out)
    head = orjson.dumps([_FORMAT, entry.content_type.decode("latin-1"), *said_by])
    content = head + b"\n" + entry.body
    return _seal(content, key, secret) + content


def decode(data: bytes, key: bytes, secret: bytes) -> Entry | None:
    """What ``encode`` made for the same key; None for anything else."""
    content = data[_SEAL_BYTES:]
    if data[:_SEAL_BYTES] != _seal(content, key, secret):
        return None
    head, _, body = content.partition(b"\n")
    version, *fields = orjson.loads(head)
    if version != _FORMAT:
        return None
    content_type, stream, arm, request_id, at_ms, left_out = fields
    return Entry(body, content_type.encode("latin-1"), stream, arm, request_id, at_ms, tuple(left_out))


def _seal(content: bytes, key: bytes, secret: bytes) -> bytes:
    seal = blake2b(key, digest_size=_SEAL_BYTES, key=secret, person=b"cache-entry")
    seal.update(content)
    return seal.digest()
