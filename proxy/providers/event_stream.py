"""What every stream decoder does: cut bytes into events, remember the answer's text, settle the facts at the end.

Only whole events leave, so that a stream that is cut can be ended or continued with a clean one. An event whose data
is no JSON is left out and counted: a client's parser would give up on the whole answer.
"""

import json
from typing import Final

import orjson

from optimizer.routing import CHAT, COMPLETIONS
from proxy.envelope import Envelope
from proxy.providers.base import EVENT_TOO_LARGE, HEAD_CHARS, MAX_EVENT_BYTES, NO_USAGE, ReplyFacts
from proxy.providers.signals import json_validity, wants_json
from proxy.providers.sse import complete_length, event_data, split_events, unescape

# An escaped character takes up to six bytes.
_HEAD_BYTES: Final = 6 * HEAD_CHARS
_DONE: Final = b"[DONE]"


class EventStreamDecoder:
    """Passes whole events on unchanged; ``_read`` sees them."""

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
        block = self._take(data)
        if block:
            self._read(block)
        return block

    def finish(self) -> bytes:
        rest = self._rest()
        if rest:
            self._read(rest)
        self._settle()
        return rest

    def ending(self) -> bytes:
        chats = self._envelope.endpoint in (CHAT, COMPLETIONS)
        return b"data: [DONE]\n\n" if chats and not self.terminal else b""

    def keep_answer(self, limit_bytes: int) -> None:
        self._keep_bytes = max(self._keep_bytes, limit_bytes)

    def answer(self) -> str | None:
        return unescape(b"".join(self._text)) if self._kept < self._keep_bytes else None

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
        """Add to what is pending; return the whole and readable events, empty when there is none yet."""
        pending = self._pending
        if not pending and data[-2:] == b"\n\n":
            return self._readable(data)
        if self._broken:
            return b""
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
        return self._readable(block)

    def _rest(self) -> bytes:
        """What came after the last whole event."""
        rest = bytes(self._pending)
        self._pending.clear()
        # With the blank line that it lacks, or what follows would become a part of it.
        return self._readable(rest.rstrip(b"\r\n") + b"\n\n") if rest.strip() else rest

    def _readable(self, block: bytes) -> bytes:
        """``block`` without the events that no client could read."""
        if block.startswith(b"data: {") and block.find(b"\n") == len(block) - 2 and b"\r" not in block:
            # One event on one line, as nearly all are.
            if _is_json(block[6:-2]):
                return block
            self.facts.skipped_events += 1
            return b""
        kept = []
        for event in split_events(block):
            data = event_data(event).strip()
            if not data or data == _DONE or _is_json(data):
                kept.append(event)
            else:
                self.facts.skipped_events += 1
                # Blank lines before the event belong to whatever came before it.
                kept.append(event[: len(event) - len(event.lstrip(b"\r\n"))])
        return block if len(kept) > 1 and sum(map(len, kept)) == len(block) else b"".join(kept)

    def _read(self, block: bytes) -> None:
        """Take in whole events."""
        raise NotImplementedError

    def _note_text(self, text: bytes) -> None:
        """Keep JSON-escaped text of the answer: its beginning, or all of it when its JSON is to be checked."""
        self.facts.has_content = True
        if self._kept < self._keep_bytes:
            self._kept += len(text)
            self._text.append(text)


def _is_json(data: bytes) -> bool:
    """Whether clients can parse it; they are more lenient than RFC 8259 (NaN, broken UTF-8)."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            json.loads(data.decode("utf-8", "replace"), strict=False)
        except (ValueError, RecursionError):
            return False
    return True
