"""Decoding of replies that an upstream compressed although identity was asked for. Bounded, incremental."""

import zlib

_WINDOW = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_STEP_BYTES = 256 * 1024


class TooLarge(Exception):
    """The decoded reply is over its bound."""


class Inflater:
    """Decodes gzip or deflate up to ``limit`` bytes in all; a bomb costs at most that."""

    def __init__(self, encoding: bytes, *, limit: int) -> None:
        """Raises ``KeyError`` for an encoding that the standard library can't decode."""
        self._decoder = zlib.decompressobj(_WINDOW[encoding.strip().lower()])
        self._left = limit

    def feed(self, data: bytes) -> bytes:
        """Decode a piece.

        Raises:
            TooLarge: If the bound is passed.
            zlib.error: If the data is damaged.
        """
        pieces = []
        while True:
            piece = self._decoder.decompress(data, _STEP_BYTES)
            data = self._decoder.unconsumed_tail
            self._left -= len(piece)
            if self._left < 0:
                raise TooLarge
            pieces.append(piece)
            # A full step may have left output inside the decoder although its input is used up.
            if len(piece) < _STEP_BYTES:
                return b"".join(pieces)
