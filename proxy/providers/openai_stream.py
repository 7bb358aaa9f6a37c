"""Decoders for the event streams of OpenAI-compatible servers.

Ordinary content events are never parsed: a few searches tell that there is nothing special in them and where
the text is. That is safe because quotes inside JSON text are escaped, so ``finish_reason":"`` in a model's answer
reads ``finish_reason\\":\\"`` on the wire. Events written with blanks after colons are normalised first, and
everything special is parsed properly.

Usage that we asked for and the client did not is taken out again, byte-exactly: the usage-only event
(``choices: []``) and the ``"usage":null`` members of the others. A usage object inside an event that has choices
stays: DeepSeek, Mistral, Groq (``x_groq``) and others send it there unasked, so the client would have seen it
anyway. The exception is a client that set ``continuous_usage_stats`` without ``include_usage``; there every
top-level usage member goes.
"""

from typing import Any, Final

import orjson

from optimizer.routing import COMPLETIONS
from proxy.envelope import Envelope
from proxy.providers.base import ReplyFacts
from proxy.providers.event_stream import EventStreamDecoder
from proxy.providers.openai_usage import note_error, read_usage
from proxy.providers.shape import items_of, object_of, text_of
from proxy.providers.sse import event_data, split_events, string_end
from proxy.splice import cut_member, members

_SPACED: Final = b'": '
_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C
_NO_TEMPLATE: Final = b"\xff"
# A stream whose events keep differing is not worth learning from again and again.
_MAX_LESSONS: Final = 8


class OpenAIStreamDecoder(EventStreamDecoder):
    """Finds text in events without parsing them."""

    __slots__ = ()

    def _count(self, data: bytes, marker: bytes, *, answer: bool) -> int:
        """Count the non-empty strings that follow ``marker`` (``content":"``).

        With ``answer`` the key must be exactly the marker's to count as the answer's text; a longer key
        (``reasoning_content``) is content, but not the answer.
        """
        found = 0
        at = data.find(marker)
        while at >= 0:
            start = at + len(marker)
            end = data.find(b'"', start)
            if end > start and data[end - 1] == _BACKSLASH:
                end = string_end(data, start)
            if end < 0:
                break
            if end > start:
                found += 1
                self.facts.content_chars += end - start
                if answer and data[at - 1] == _QUOTE:
                    self._note_text(data[start:end])
            at = data.find(marker, end)
        self.content_events += found
        return found


class ChatStreamDecoder(OpenAIStreamDecoder):
    """Chat completions and completions.

    Most events of a stream differ in their text only. Once one was examined, what stood before and after its text is
    kept as a template: an event that equals it is ordinary without a further look.
    """

    __slots__ = ("_answer", "_lessons", "_padded", "_prefix", "_spaced", "_tail", "_tail_out")

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(envelope)
        self._answer = b'text":"' if envelope.endpoint == COMPLETIONS else b'content":"'
        self._lessons = 0
        self._prefix = _NO_TEMPLATE
        self._tail = b""
        self._tail_out: bytes | None = None
        self._padded = False
        self._spaced = False

    def feed(self, data: bytes) -> bytes:
        if data.startswith(self._prefix) and not self._pending:
            start = len(self._prefix)
            end = data.find(b'"', start)
            if end > start and self._is_ordinary(data, start, end):
                self.content_events += 1
                self.facts.content_chars += end - start
                if self._kept < self._keep_bytes:
                    self._note_text(data[start:end])
                if self._tail_out is None:
                    return data
                return data[:end] + self._tail_out + data[end + len(self._tail) :]
        return self._feed_any(data)

    def _is_ordinary(self, data: bytes, start: int, end: int) -> bool:
        """Whether everything after the text equals the template."""
        if not data.startswith(self._tail, end) or data[end - 1] == _BACKSLASH:
            return False
        if self._spaced and b"\\" in data[start:end]:
            return False  # text that normalising would spell differently
        rest = end + len(self._tail)
        if self._padded:
            return data.find(b'"', rest) == len(data) - 4 and data.endswith(b'"}\n\n')
        return rest == len(data)

    def _feed_any(self, data: bytes) -> bytes:
        return super().feed(data)

    def _learn(self, event: bytes, *, spaced: bool) -> None:
        """Take an event that was found to be ordinary, with one piece of text, as the template."""
        self._lessons += 1
        marker = self._answer[:-1] + b' "' if spaced else self._answer
        at = event.find(marker)
        start = at + len(marker)
        end = event.find(b'"', start)
        if at < 1 or event[at - 1] != _QUOTE or end <= start or b"\\" in event[start:end]:
            return
        if not event.endswith(b"}\n\n") or event.count(b"\n\n") != 1:
            return
        tail, out = event[end:], self._without_usage(event)
        if not out.startswith(event[:end]):
            return
        tail_out = out[end:]
        # OpenAI pads events to hide their length; the padding is a string of harmless characters.
        key = b'"obfuscation": "' if spaced else b'"obfuscation":"'
        self._padded = key in tail and key in tail_out and tail.endswith(b'"}\n\n')
        if self._padded:
            tail = tail[: tail.find(key) + len(key)]
            tail_out = tail_out[: tail_out.find(key) + len(key)]
        self._spaced = spaced
        self._prefix = event[:start]
        self._tail = tail
        self._tail_out = None if tail_out == tail else tail_out

    def _without_usage(self, event: bytes) -> bytes:
        """The event as the client gets it."""
        return event

    def _read(self, block: bytes) -> None:
        # Refusals join the text in the order of events, so a block with one is read event by event.
        if not self._identified or _is_special(block) or _SPACED in block or b'refusal":"' in block:
            for event in split_events(block):
                self._read_event(event)
            return
        before = self.content_events
        self._count_all(block)
        if self.content_events == before + 1 and self._lessons < _MAX_LESSONS:
            self._learn(block, spaced=False)

    def _count_all(self, data: bytes) -> None:
        self._count(data, self._answer, answer=True)
        if b'arguments":"' in data:
            # A call may begin without any.
            self._count(data, b'arguments":"', answer=False)
            self.facts.tool_calls = True
        if b'reasoning":"' in data:
            self._count(data, b'reasoning":"', answer=False)
        if b'refusal":"' in data:
            self._count(data, b'refusal":"', answer=True)

    def _read_event(self, event: bytes) -> None:
        doc: Any = None
        raw = event
        if _SPACED in event:
            doc = _json(event_data(event))
            if type(doc) is dict:
                event = orjson.dumps(doc)
        before = self.content_events
        self._count_all(event)
        if self._identified and not _is_special(event):
            if raw is not event and self.content_events == before + 1 and self._lessons < _MAX_LESSONS:
                self._learn(raw, spaced=True)
            return
        if doc is None:
            data = event_data(event)
            if data.strip() == b"[DONE]":
                self.terminal = True
                return
            doc = _json(data)
        if type(doc) is dict:
            self._read_special(doc)

    def _read_special(self, doc: dict[str, Any]) -> None:
        facts = self.facts
        if not self._identified:
            facts.response_id = text_of(doc.get("id")) or None
            facts.response_model = text_of(doc.get("model")) or None
            # Azure opens with an event about the prompt, which names neither.
            self._identified = facts.response_id is not None or bool(doc.get("choices"))
        if doc.get("error"):
            note_error(facts, doc["error"])
        usage = doc.get("usage")
        if type(usage) is not dict and type(groq := doc.get("x_groq")) is dict:
            usage = groq.get("usage")
        if type(usage) is dict:
            read_usage(facts, usage)
        for choice in items_of(doc.get("choices")):
            reason = text_of(object_of(choice).get("finish_reason"))
            if reason:
                facts.finish_reasons.append(reason)
                if reason in ("tool_calls", "function_call"):
                    facts.tool_calls = True


class StrippingChatDecoder(ChatStreamDecoder):
    """The same, for streams in which usage was asked for by us and not by the client."""

    __slots__ = ("_strip_objects",)

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(envelope)
        options = envelope.doc.get("stream_options")
        self._strip_objects = type(options) is dict and bool(options.get("continuous_usage_stats"))

    def _feed_any(self, data: bytes) -> bytes:
        return self._strip(super()._feed_any(data))

    def finish(self) -> bytes:
        return self._strip(super().finish())

    def _without_usage(self, event: bytes) -> bytes:
        return self._strip(event)

    def _strip(self, block: bytes) -> bytes:
        """Cut ``,"usage":null`` where one closing brace before the event's end proves that it is top level."""
        at = block.find(b'"usage"')
        if at < 0:
            return block
        parts: list[bytes] = []
        position = 0
        while at >= 0:
            end = block.find(b"\n\n", at)
            if block.startswith(b":null", at + 7):
                stop = at + 12
            elif block.startswith(b": null", at + 7):
                stop = at + 13
            else:
                break
            begin = at - 1 if block[at - 1] == 0x2C else at - 2
            if end < 0 or block[begin] != 0x2C or block.find(b"}", at) != end - 1:
                break
            parts.append(block[position:begin])
            position = stop
            at = block.find(b'"usage"', end)
        else:
            parts.append(block[position:])
            return b"".join(parts)
        return b"".join([self._strip_event(event) for event in split_events(block)])

    def _strip_event(self, event: bytes) -> bytes:
        if b"usage" not in event:
            return event
        data = event_data(event)
        doc = _json(data)
        if type(doc) is not dict or "usage" not in doc:
            return event
        usage = doc["usage"]
        if type(usage) is dict and not doc.get("choices"):
            # Blank lines before the event belong to whatever came before it.
            return event[: len(event) - len(event.lstrip(b"\r\n"))]
        if usage is not None and not self._strip_objects:
            return event
        at = event.find(data)
        if at < 0:
            return event
        for name, start, _, end in members(data):
            if name == "usage":
                return event[:at] + cut_member(data, start, end) + event[at + len(data) :]
        return event


class ResponsesStreamDecoder(OpenAIStreamDecoder):
    """The responses API: typed events, the last of which carries the whole response and its usage."""

    __slots__ = ()

    def _read(self, block: bytes) -> None:
        for event in split_events(block):
            self._read_event(event)

    def _read_event(self, event: bytes) -> None:
        data: bytes | None = None
        if _SPACED in event:
            doc = _json(event_data(event))
            if type(doc) is not dict:
                return
            event = data = orjson.dumps(doc)
        if b'delta":"' in event:
            answer = b'"type":"response.output_text.' in event or b'"type":"response.refusal.' in event
            if self._count(event, b'"delta":"', answer=False) and answer:
                self._note_delta(event)
            if b'"type":"response.function_call_arguments.' in event:
                self.facts.tool_calls = True
        if b'"response":{' in event or b'"error"' in event:
            doc = _json(event_data(event) if data is None else data)
            if type(doc) is dict:
                self._read_special(doc)

    def _note_delta(self, event: bytes) -> None:
        start = event.find(b'"delta":"') + 9
        self._note_text(event[start : string_end(event, start)])

    def _read_special(self, doc: dict[str, Any]) -> None:
        facts = self.facts
        kind = doc.get("type")
        if kind == "error":
            note_error(facts, {"type": "upstream_error", "code": doc.get("code")})
            if type(doc.get("error")) is dict:
                note_error(facts, doc["error"])
            return
        response = doc.get("response")
        if type(response) is not dict:
            if doc.get("error") and kind is None:
                note_error(facts, doc["error"])
            return
        facts.response_id = text_of(response.get("id")) or facts.response_id
        facts.response_model = text_of(response.get("model")) or facts.response_model
        if kind in ("response.completed", "response.failed", "response.incomplete", "response.cancelled"):
            self.terminal = True
            read_response_end(facts, response)


def read_response_end(facts: ReplyFacts, response: dict[str, Any]) -> None:
    """Status, error and usage of a finished response object."""
    usage = response.get("usage")
    if type(usage) is dict:
        read_usage(facts, usage)
    status = response.get("status")
    details = object_of(response.get("incomplete_details"))
    reason = text_of(details.get("reason")) or text_of(status)
    if reason:
        facts.finish_reasons.append(reason)
    error = response.get("error")
    if error or status in ("failed", "cancelled"):
        note_error(facts, error if type(error) is dict else {"code": status})


def _is_special(data: bytes) -> bool:
    return b'finish_reason":"' in data or b'usage":{' in data or b'"error"' in data or b"[DONE]" in data


def _json(data: bytes) -> Any:
    """What an event's data parses to; None for anything that is not JSON, which decoders pass over."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
