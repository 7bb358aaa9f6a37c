"""One request of a route that keeps answers: what it came for, what it may get, and what it leaves behind.

Invariant: only an answer that its caller got whole, from the arm that was decided, is ever left behind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from optimizer.routing import EMBEDDINGS, Caching
from proxy.attempt import Attempt
from proxy.cache.entry import Entry
from proxy.compiled import CompiledArm
from proxy.dispatch import Decision
from proxy.envelope import Envelope
from proxy.http1.messages import Request, Responder
from proxy.providers.base import ReplyFacts
from proxy.providers.signals import is_refusal

HIT: Final = "hit"
MISS: Final = "miss"
BYPASS: Final = "bypass"
RESULTS: Final = (HIT, MISS, BYPASS)

_HEADER: Final = b"x-llm-optimizer-cache"
_CONTROL: Final = b"cache-control"
_BLOCKS: Final[Mapping[str, bytes]] = {
    result: b"%b: %b\r\n" % (_HEADER, result.encode()) for result in RESULTS
}

# Reasons for which an answer is not all there; who asks again may get more.
_UNFINISHED: Final = frozenset(
    (
        *("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded", "incomplete"),
        *("content_filter", "refusal", "pause_turn"),
    )
)

# Takes over an answer: its key and itself.
Keep: TypeAlias = Callable[[bytes, Entry, Caching], None]


@dataclass(slots=True)
class Arrival:
    """A request that was read and decided, before anything was asked upstream."""

    endpoint: str
    request: Request
    responder: Responder
    request_id: str
    started_ms: int
    envelope: Envelope
    decision: Decision
    table_version: int


class Visit:
    """See the module. ``result`` is one of ``RESULTS``.

    ``key`` is where its answer is to be left, None for nowhere; ``further`` says that another store is to be asked.
    """

    __slots__ = (
        *("_arm", "_keep", "_parts", "_request_id", "_size", "_started_ms"),
        *("further", "key", "result", "rules"),
    )

    def __init__(
        self,
        arrival: Arrival,
        rules: Caching,
        *,
        result: str,
        key: bytes | None,
        keep: Keep,
        further: bool = False,
    ) -> None:
        self.result = result
        self.key = key
        self.further = further
        self.rules = rules
        self._keep = keep
        self._arm: CompiledArm = arrival.decision.arm
        self._request_id = arrival.request_id
        self._started_ms = arrival.started_ms
        self._parts: list[bytes] | None = [] if key is not None and arrival.envelope.stream else None
        self._size = 0

    @property
    def block(self) -> bytes:
        """The header that tells the caller."""
        return _BLOCKS[self.result]

    def add(self, data: bytes) -> None:
        """A piece of a stream goes to the caller."""
        if self._parts is None:
            return
        self._size += len(data)
        if self._size > self.rules.max_entry_bytes:
            self._parts = None
        else:
            self._parts.append(data)

    def answered(self, attempt: Attempt, body: bytes) -> None:
        """The caller has the whole reply."""
        if len(body) <= self.rules.max_entry_bytes:
            self._leave(attempt, body, stream=False)

    def ended(self, attempt: Attempt, data: bytes) -> None:
        """The caller has the end of a stream, which nobody else had to continue."""
        self.add(data)
        if self._parts is not None:
            self._leave(attempt, b"".join(self._parts), stream=True)

    def _leave(self, attempt: Attempt, body: bytes, *, stream: bool) -> None:
        # What was passed on unread is not known to be whole, and what a stand-in said must not outlive the outage.
        read = attempt.aside is None and attempt.head.encoding is None
        if self.key is None or not read or attempt.arm is not self._arm or not _is_sound(attempt.facts):
            return
        entry = Entry(
            body=body,
            content_type=attempt.head.content_type or b"application/json",
            stream=stream,
            arm=self._arm.id,
            request_id=self._request_id,
            at_ms=self._started_ms,
            left_out=attempt.prepared.left_out,
        )
        self._keep(self.key, entry, self.rules)


def wishes(headers: Mapping[bytes, bytes]) -> tuple[bool, bool]:
    """Whether the caller takes an answer that was kept, and whether the new one may be kept."""
    control, ours = headers.get(_CONTROL), headers.get(_HEADER)
    if control is None and ours is None:
        return True, True
    words = {word.strip().lower() for word in (control or b"").split(b",")}
    if b"no-store" in words or BYPASS.encode() in {
        word.strip().lower() for word in (ours or b"").split(b",")
    }:
        return False, False
    return b"no-cache" not in words, True


def concerns(rules: Caching, envelope: Envelope) -> bool:
    """Whether an answer to this request can be given again at all, under the rules of its route."""
    doc = envelope.doc
    # Sound is referred to by a name that its provider soon forgets.
    if envelope.stateful or doc.get("audio") is not None:
        return False
    temperature = doc.get("temperature")
    is_cold = type(temperature) in (int, float) and temperature == 0
    return is_cold or not rules.cold_only or envelope.endpoint == EMBEDDINGS


def _is_sound(facts: ReplyFacts | None) -> bool:
    """Whether an answer is worth giving again: not if it is worthless on its face, was refused, cut or withheld."""
    return (
        facts is not None
        and facts.error_type is None
        and not facts.skipped_events
        and facts.json_valid is not False
        and (facts.has_content or facts.tool_calls)
        and _UNFINISHED.isdisjoint(facts.finish_reasons)
        and not (facts.text_head and is_refusal(facts.text_head))
    )
