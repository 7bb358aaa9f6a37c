"""What is kept of a reply that the client gets untouched, so that its facts can still be read.

Invariant: the client's bytes never wait for this, and never depend on it. Memory is bounded: of a large reply only
its two ends stay, a compressed one is decoded up to a bound, a stream is read as it passes.
"""

import zlib

from proxy.envelope import Envelope
from proxy.errors import ProxyError
from proxy.inflate import Inflater, TooLarge
from proxy.providers.base import Codec, ReplyFacts, StreamDecoder

# Codecs look for usage at both ends of what is longer than they parse (256 KiB), so the kept end must be longer.
_HEAD_BYTES = 4096
_END_BYTES = 512 * 1024
_DECODED_BYTES = 4 * 1024 * 1024


class Aside:
    """A copy to read. ``decoder`` is given for streams; ``encoding`` is their ``content-encoding`` or None."""

    __slots__ = ("_inflate", "_kept", "_readable", "decoder")

    def __init__(self, encoding: bytes | None, decoder: StreamDecoder | None) -> None:
        self.decoder = decoder
        self._kept = bytearray()
        self._inflate: Inflater | None = None
        self._readable = True
        if encoding is not None:
            try:
                self._inflate = Inflater(encoding, limit=_DECODED_BYTES)
            except KeyError:
                self._readable = False

    @property
    def readable(self) -> bool:
        """Whether what came could be decoded so far."""
        return self._readable

    def add(self, data: bytes) -> None:
        """Take a piece of the reply as it came."""
        if not self._readable:
            return
        if self._inflate is not None:
            try:
                data = self._inflate.feed(data)
            except (TooLarge, zlib.error):
                self._readable = False
                self._kept.clear()
                return
        if self.decoder is not None:
            self.decoder.feed(data)
            return
        kept = self._kept
        kept += data
        if len(kept) > 2 * _END_BYTES:
            del kept[_HEAD_BYTES:-_END_BYTES]

    def facts(self, codec: Codec, envelope: Envelope) -> ReplyFacts | None:
        """What could be read, once the reply has ended; None if nothing could."""
        if not self._readable:
            return None
        if self.decoder is not None:
            self.decoder.finish()
            return self.decoder.facts
        try:
            return codec.unary(envelope, bytes(self._kept))[1]
        except ProxyError:
            return None
