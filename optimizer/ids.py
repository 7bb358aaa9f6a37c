"""Request ids: unforgeable names that say who decided, when, and in which order.

``req_`` + 60 hex digits = 30 bytes, big-endian: 48-bit Unix milliseconds, 32-bit node, 32-bit process
incarnation, 32-bit sequence within it, 32-bit tag of the client's key, 64-bit keyed BLAKE2b over all
of that. Text order is time order; (node, incarnation, sequence) is unique, so the log position of a decision
is found from its id alone. Whoever holds the node's key can tell a forged or foreign id without a look-up.
"""

import struct
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest

PREFIX = "req_"
KEY_BYTES = 32

_FIELDS = struct.Struct(
    ">HIIIII"
)  # milliseconds >> 32, milliseconds low, node, incarnation, sequence, key tag
_MAC_BYTES = 8
_NODE_AT = 6
_TEXT_LENGTH = len(PREFIX) + 2 * (_FIELDS.size + _MAC_BYTES)
_LOW_32 = 0xFFFF_FFFF
_HIGH_16 = 0xFFFF
_LOWER_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class RequestId:
    """What a genuine id says. ``now_ms`` is Unix milliseconds at minting; the others are 32-bit."""

    now_ms: int
    node: int
    incarnation: int
    sequence: int
    key_tag: int


class RequestIds:
    """Mints the ids of one process. Not thread-safe: one minting thread per incarnation."""

    __slots__ = ("_incarnation", "_mac", "_node", "_sequence")

    def __init__(self, *, node: int, incarnation: int, key: bytes) -> None:
        """Bind to ``node`` and ``incarnation`` (32-bit) and the node's secret ``key`` (16..64 bytes).

        Raises:
            ValueError: If a number does not fit in 32 bits or the key has a bad length.
        """
        for name, number in (("node", node), ("incarnation", incarnation)):
            if not 0 <= number <= _LOW_32:
                raise ValueError(f"{name} must fit in 32 bits, got {number}")
        self._node = node
        self._incarnation = incarnation
        self._mac = _keyed(key)
        self._sequence = -1

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest id, -1 before the first."""
        return self._sequence

    def mint(self, now_ms: int, key_tag: int = 0) -> str:
        """Make the next id for Unix milliseconds ``now_ms`` and the caller key's 32-bit tag.

        Bits beyond the fields' widths are dropped, so that minting never fails. After 2**32 ids the sequence
        starts again; the time keeps such ids apart.
        """
        self._sequence = sequence = (self._sequence + 1) & _LOW_32
        fields = _FIELDS.pack(
            now_ms >> 32 & _HIGH_16,
            now_ms & _LOW_32,
            self._node,
            self._incarnation,
            sequence,
            key_tag & _LOW_32,
        )
        mac = self._mac.copy()
        mac.update(fields)
        return PREFIX + fields.hex() + mac.hexdigest()


def verify(text: str, key: bytes) -> RequestId | None:
    """Read an id that was minted with ``key``; None for anything else, whatever it is made of.

    The MACs are compared in constant time. Only the canonical lower-case spelling is accepted, so one request
    has one id.

    Raises:
        ValueError: Only if ``key`` itself has a bad length.
    """
    mac = _keyed(key)
    if len(text) != _TEXT_LENGTH or not text.startswith(PREFIX):
        return None
    digits = text[len(PREFIX) :]
    if not _LOWER_HEX.issuperset(digits):
        return None
    raw = bytes.fromhex(digits)
    fields = raw[: _FIELDS.size]
    mac.update(fields)
    if not compare_digest(mac.digest(), raw[_FIELDS.size :]):
        return None
    high, low, node, incarnation, sequence, key_tag = _FIELDS.unpack(fields)
    return RequestId(high << 32 | low, node, incarnation, sequence, key_tag)


def node_of(text: str) -> str:
    """The node in an id that is known to be genuine, as it is written there."""
    begin = len(PREFIX) + 2 * _NODE_AT
    return text[begin : begin + 8]


def _keyed(key: bytes) -> blake2b:
    if not KEY_BYTES // 2 <= len(key) <= 2 * KEY_BYTES:
        raise ValueError(f"the id key must have 16 to 64 bytes, got {len(key)}")
    return blake2b(key=key, digest_size=_MAC_BYTES, person=b"llm-opt request")
