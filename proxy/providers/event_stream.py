"""What every stream decoder does: cut bytes into events, remember the answer's text, settle the facts at the end.

An incomplete event is held in a bounded buffer; everything else about it is the subclass's business.
"""

from typing import Final

from proxy.envelope import Envelope
from proxy.providers.base import EVENT_TOO_LARGE, HEAD_CHARS, MAX_EVENT_BYTES, NO_USAGE, ReplyFacts
from proxy.providers.signals import json_validity, wants_json
from proxy.providers.sse import complete_length, unescape

# An escaped character takes up to six bytes.
_HEAD_BYTES: Final = 6 * HEAD_CHARS


class EventStreamDecoder:
    """Passes bytes on unchanged and at once; ``_read`` sees whole events."""

    __slots__ = (
        "_broken",
        "_envelope",
        "_identified",
        "_keep_bytes",
        "_kept",
        "_pending",
        "_text",
        "content_events",
        "facts",
        "terminal",
    )

    def __init__(self, envelope: Envelope) -> None:
        self.facts = ReplyFacts()
        self.terminal = False
        self.content_events = 0
        self._envelope = envelope
        self._identified = False
        self._broken = False
        self._pending = bytearray()
        self._text: list[bytes] = []
        self._kept = 0
        self._keep_bytes = MAX_EVENT_BYTES if wants_json(envelope) else _HEAD_BYTES

    @property
    def complete(self) -> bool:
        facts = self.facts
        return facts.error_type is None and (self.terminal or bool(facts.finish_reasons))

    def feed(self, data: bytes) -> bytes:
        if not self._pending and data[-2:] == b"\n\n":
            self._read(data)
        elif block := self._take(data):
            self._read(block)
        return data

    def finish(self) -> bytes:
        if self._pending:
            rest = bytes(self._pending)
            self._pending.clear()
            self._read(rest)
        self._settle()
        return b""

    def estimate_usage(self) -> None:
        self.facts.estimate(self._envelope.input_tokens_estimate, self.content_events)

    def _settle(self) -> None:
        facts = self.facts
        answer = unescape(b"".join(self._text))
        facts.text_head = answer[:HEAD_CHARS]
        if facts.has_content and self.complete and wants_json(self._envelope):
            facts.json_valid = json_validity(self._envelope, answer)
        if facts.usage_source == NO_USAGE:
            self.estimate_usage()

    def _take(self, data: bytes) -> bytes:
        """Add to what is pending; return the whole events, empty when there is none yet."""
        if self._broken:
            return b""
        pending = self._pending
        start = max(0, len(pending) - 2)
        pending += data
        length = complete_length(pending, start)
        if length == 0:
            if len(pending) > MAX_EVENT_BYTES:
                self._broken = True
                pending.clear()
                self.facts.error_type = EVENT_TOO_LARGE
            return b""
        block = bytes(memoryview(pending)[:length])
        del pending[:length]
        return block

    def _read(self, block: bytes) -> None:
        """Take in whole events."""
        raise NotImplementedError

    def _note_text(self, text: bytes) -> None:
        """Keep JSON-escaped text of the answer: its beginning, or all of it when its JSON is to be checked."""
        self.facts.has_content = True
        if self._kept < self._keep_bytes:
            self._kept += len(text)
            self._text.append(text)
