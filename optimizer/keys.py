"""Client keys: how one looks, what is kept of it, and the file in which workers find what is kept.

The text of a key exists where it was made and with its holder, nowhere else; at rest there is an HMAC of it under the
node's pepper. The file is two JSON lines: ``{"format": 1, "checksum": ...}``, the checksum being BLAKE2b-128 of the
second line, and the list of keys. Standard library and orjson only: workers read it.
"""

import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

from optimizer.routing import Quota

PREFIX: Final = "llmo-"
PEPPER_BYTES: Final = 32
ID_PREFIX: Final = "key_"
FORMAT: Final = 1

_RANDOM_BYTES = 32
_SECRET_LENGTH = 43
_CHECK_LENGTH = 6
_LENGTH = len(PREFIX) + _SECRET_LENGTH + _CHECK_LENGTH
# No other HMAC of this product begins like this, whatever key it uses.
_CONTEXT = b"llm-optimizer client key 1\0"
_QUOTA_FIELDS = tuple(Quota.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class ClientKey:
    """One key as it is kept. Times are Unix seconds.

    ``routes`` and ``models`` are ``fnmatch`` patterns: of routes it may use, and of plain models (names that are no
    route). ``pin`` allows naming the arm, ``passthrough`` the paths that are not optimized. ``tag`` is a number of 32
    bits, not 0, that request ids carry; it tells nothing about the key.
    """

    id: str
    name: str
    digest: str = field(repr=False)
    last4: str
    created_at: float
    expires_at: float | None = None
    routes: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ()
    pin: bool = False
    passthrough: bool = False
    quota: Quota | None = None
    revoked_at: float | None = None
    tag: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Every request of the key asks for it.
        object.__setattr__(self, "tag", tag_of(self.id))


class KeyRow(NamedTuple):
    """A key with the row of the file that it was made from."""

    row: Mapping[str, Any]
    key: ClientKey


class KeyFileRefused(Exception):
    """Bytes that are no key file; ``reason`` is ``checksum``, ``format``, ``truncated`` or ``invalid``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def new_key() -> str:
    """The text of a new key: 256 random bits and a checksum, 54 characters."""
    body = PREFIX + urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).rstrip(b"=").decode()
    return body + _check(body)


def new_id() -> str:
    """A new key's public name."""
    return ID_PREFIX + secrets.token_hex(8)


def well_formed(text: str) -> bool:
    """Whether ``text`` can be a key: shape and checksum. Typing errors and guesses end here, without a look-up."""
    if len(text) != _LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return False
    return hmac.compare_digest(_check(text[:-_CHECK_LENGTH]), text[-_CHECK_LENGTH:])


def digest_of(text: str, pepper: bytes) -> str:
    """HMAC-SHA-256 of a key's text, as hex."""
    return hmac.digest(pepper, _CONTEXT + text.encode(), "sha256").hex()


def tag_of(key_id: str) -> int:
    """The number that stands for a key in request ids."""
    return int.from_bytes(blake2b(key_id.encode(), digest_size=4, person=b"llm-opt key tag").digest()) or 1


def encode_keys(keys: Iterable[ClientKey]) -> bytes:
    """The key file's bytes."""
    body = orjson.dumps([to_row(key) for key in keys])
    header = orjson.dumps({"format": FORMAT, "checksum": _checksum(body)})
    return b"%b\n%b\n" % (header, body)


def decode_keys(data: bytes, known: Mapping[str, KeyRow] | None = None) -> dict[str, KeyRow]:
    """Read a key file's bytes: by digest, what stood in the file and the key that it means.

    Args:
        data: The bytes.
        known: What was read before; keys that have not changed are taken from there.

    Raises:
        KeyFileRefused: If anything at all is wrong with the bytes.
    """
    lines = data.split(b"\n")
    if len(lines) != 3 or lines[2]:
        raise KeyFileRefused("truncated")
    try:
        header = orjson.loads(lines[0])
        stated, checksum = header["format"], header["checksum"]
    except (ValueError, KeyError, TypeError):
        raise KeyFileRefused("format") from None
    if stated != FORMAT:
        raise KeyFileRefused("format")
    if checksum != _checksum(lines[1]):
        raise KeyFileRefused("checksum")
    try:
        return {row["digest"]: _known_or_new(row, known or {}) for row in orjson.loads(lines[1])}
    except (ValueError, KeyError, TypeError, AttributeError):
        # The reason would quote digests.
        raise KeyFileRefused("invalid") from None


def to_row(key: ClientKey) -> dict[str, Any]:
    """A key as JSON has it."""
    return {
        "id": key.id,
        "name": key.name,
        "digest": key.digest,
        "last4": key.last4,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "routes": key.routes,
        "models": key.models,
        "pin": key.pin,
        "passthrough": key.passthrough,
        "quota": quota_row(key.quota),
        "revoked_at": key.revoked_at,
    }


def from_row(row: Mapping[str, Any]) -> ClientKey:
    """A key from ``to_row``'s shape; fields that this version does not know are ignored.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: If it has another shape.
    """
    digest, expires_at, revoked_at = row["digest"], row["expires_at"], row["revoked_at"]
    if len(bytes.fromhex(digest)) != 32:
        raise ValueError("a digest has 32 bytes")
    return ClientKey(
        id=row["id"],
        name=row["name"],
        digest=digest,
        last4=row["last4"],
        created_at=float(row["created_at"]),
        expires_at=None if expires_at is None else float(expires_at),
        routes=tuple(row["routes"]),
        models=tuple(row["models"]),
        pin=row["pin"] is True,
        passthrough=row["passthrough"] is True,
        quota=quota_from(row["quota"]),
        revoked_at=None if revoked_at is None else float(revoked_at),
    )


def quota_row(quota: Quota | None) -> dict[str, float] | None:
    """The limits that are set, None when there is no quota."""
    if quota is None:
        return None
    values = {name: getattr(quota, name) for name in _QUOTA_FIELDS}
    return {name: value for name, value in values.items() if value is not None}


def quota_from(row: Mapping[str, Any] | None) -> Quota | None:
    """A quota from ``quota_row``'s shape."""
    return None if row is None else Quota(**{name: row[name] for name in _QUOTA_FIELDS if name in row})


def _known_or_new(row: Mapping[str, Any], known: Mapping[str, KeyRow]) -> KeyRow:
    before = known.get(row["digest"])
    return before if before is not None and before.row == row else KeyRow(row, from_row(row))


def _check(body: str) -> str:
    digest = blake2b(body.encode(), digest_size=6, person=b"llm-opt key").digest()
    return urlsafe_b64encode(digest)[:_CHECK_LENGTH].decode()


def _checksum(line: bytes) -> str:
    return blake2b(line, digest_size=16).hexdigest()
