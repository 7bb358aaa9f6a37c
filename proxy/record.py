"""What the log keeps of one request: the ``request.v1`` event, built once, when the outcome is known.

Field meanings are in ``optimizer.events``. Nothing of the prompt, the completion or a credential is read
here; only names, counts, times and numbers.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from optimizer import events
from optimizer.log.writer import LogWriter, encode
from optimizer.routing import EMBEDDINGS
from proxy.compiled import CompiledArm
from proxy.dispatch import Decision, Sight, filtered_reasons
from proxy.envelope import Envelope
from proxy.errors import CredentialsRefused
from proxy.pricing import cost_usd
from proxy.providers.base import ReplyFacts
from proxy.providers.signals import is_refusal
from proxy.refusal import is_word
from proxy.trace import Trace

_SEEN_VECTORS = 4096
_VECTOR_AGE_MS = 3_600_000
_FIXED_FACTS = 1024
# Bounds on what a client or an upstream named.
_NAME_CHARS = 200
_FINISH_REASONS = 16
# Of these no caller is at fault when another arm is asked instead: our key there, our account, the model's name.
_OURS_TO_FIX = frozenset((401, 402, 403, 404))
_USUAL_REASONS = frozenset(("stop", "length", "tool_calls", "content_filter", "completed"))


@dataclass(slots=True)
class Timing:
    """Milliseconds of one request, measured with one monotonic clock; None where it did not get that far.

    ``trace`` is its place in a trace that it belongs to.
    """

    started_ms: int
    duration_ms: float
    overhead_ms: float
    upstream_ms: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    chunks: int = 0
    trace: Trace | None = None


@dataclass(slots=True)
class Ending:
    """How a request ended. ``error`` is a stable word, None when it completed."""

    outcome: str
    status: int
    error: str | None = None
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    request_bytes: int = 0
    response_bytes: int = 0


@dataclass(slots=True)
class Tried:
    """One of several attempts: what it was made for, how it ended, and what its reply said about itself.

    ``status`` is the upstream's, None without one; ``error`` a stable word, None when it served the caller.
    """

    arm: CompiledArm
    why: str
    status: int | None
    error: str | None
    ms: float
    facts: ReplyFacts | None
    randomised: bool


class Recorder:
    """Turns decisions and endings into events and appends them.

    One ``Recorder`` per worker. Vectors of more than 32 arms are logged per (selector, eligible set) as
    ``selector.v1`` events and referred to by id.
    """

    def __init__(self, log: LogWriter, *, source: str, count: Callable[[str, str, str, str], None]) -> None:
        self._log = log
        self._source = source
        self._count = count
        self._vectors: dict[tuple[str, int], int] = {}  # until when a logged vector need not be logged again
        self._lost = 0

    def request(
        self,
        request_id: str,
        *,
        envelope: Envelope,
        decision: Decision,
        table_version: int,
        facts: ReplyFacts | None,
        timing: Timing,
        ending: Ending,
        tried: Sequence[Tried] = (),
        continued: bool = False,
    ) -> float | None:
        """Append the event of a decided request.

        ``facts`` are of the attempt that served the caller, or of the last one. ``tried`` lists the attempts when
        there were several, that one last; ``continued`` says that it went on where another was cut.

        Returns:
            The cost in USD that was recorded, of all attempts together; None when nothing is known of it.
        """
        data = _ended(table_version, timing, ending)
        data["requested_model"] = envelope.model[:_NAME_CHARS]
        _decided(data, decision, envelope)
        if decision.sight is not None:
            _saw(data, decision, decision.sight)
        _attempt(data, decision, timing, ending)
        arm, route = (tried[-1].arm if tried else decision.arm), decision.route
        cost = _facts(data, arm, envelope.endpoint, facts, judged=not continued)
        if tried:
            cost = _attempts(data, decision, tried)
        if continued:
            data["continued"] = True
        self._count("" if route.plain else route.name, arm.id, decision.side.name, ending.outcome)
        if len(decision.side.arms) > events.INLINE_VECTOR_ARMS and "probabilities" not in data:
            data["vector"] = self._vector(decision, timing.started_ms)
        if timing.trace is not None:
            timing.trace.note(data)
        # What is the same for every request of this arm was serialized once; the rest joins it as bytes.
        fixed = self._fixed(decision, envelope)
        self._append(request_id, timing, orjson.Fragment(fixed + orjson.dumps(data)[1:]))
        if decision.watch is not None:
            _count_for_guards(decision, data, timing, ending, tried, cost, stream=envelope.stream)
        return cost

    def cached(
        self,
        request_id: str,
        *,
        envelope: Envelope,
        decision: Decision,
        arm: CompiledArm,
        answered: str,
        table_version: int,
        timing: Timing,
        ending: Ending,
    ) -> None:
        """Append the event of a request that got the answer which ``arm`` once gave to the request ``answered``.

        Nobody was drawn for it, so it has no propensity, and nobody was asked, so it cost nothing.
        """
        data = _ended(table_version, timing, ending) | _named(decision, arm, envelope)
        data |= {"reason": "cached", "randomised": False, "cached": True, "cached_from": answered}
        data |= {"usage_source": "none", "cost_usd": 0.0}
        data["requested_model"] = envelope.model[:_NAME_CHARS]
        if decision.unit_hash:
            data["unit_hash"] = decision.unit_hash
        route = decision.route
        self._count("" if route.plain else route.name, arm.id, decision.side.name, ending.outcome)
        self._append(request_id, timing, data)

    def undecided(
        self,
        request_id: str,
        *,
        endpoint: str,
        envelope: Envelope | None,
        table_version: int,
        timing: Timing,
        ending: Ending,
    ) -> None:
        """Append the event of a request that was refused before anything was decided."""
        data = _ended(table_version, timing, ending)
        data |= {"route": None, "arm": None, "reason": "undecided", "endpoint": endpoint}
        if envelope is not None:
            data |= {"requested_model": envelope.model[:_NAME_CHARS], "stream": envelope.stream}
        self._count("", "", "", ending.outcome)
        self._append(request_id, timing, data)

    def passed_through(
        self, request_id: str, *, upstream: str, table_version: int, timing: Timing, ending: Ending
    ) -> None:
        """Append the event of a request that was not optimized."""
        data = _ended(table_version, timing, ending)
        data |= {"route": None, "arm": None, "reason": "passthrough", "endpoint": "other"}
        data["attempts"] = [_tried(None, upstream, data, ending, randomised=False)]
        self._count("", "", "", ending.outcome)
        self._append(request_id, timing, data)

    def _append(self, request_id: str, timing: Timing, data: dict[str, Any] | orjson.Fragment) -> None:
        ended_ms = timing.started_ms + int(timing.duration_ms)
        if timing.trace is not None and isinstance(data, dict):
            timing.trace.note(data)
        self._log.append(encode(request_id, events.REQUEST, self._source, ended_ms, data))

    def _fixed(self, decision: Decision, envelope: Envelope) -> bytes:
        """The opening of ``data``, up to a comma: what is the same for all requests decided this way."""
        side, arm = decision.side, decision.arm
        drawn_anew = decision.sight is not None and decision.sight.vector is not None
        key = (
            arm.index,
            drawn_anew,
            decision.mask,
            envelope.endpoint,
            envelope.stream,
            decision.baseline,
            decision.reason,
            decision.unit,
            decision.side_probability,
            decision.withheld,
            decision.route.rollout,
        )
        known = side.fixed_facts.get(key)
        if known is not None:
            return known
        data = _named(decision, arm, envelope)
        data |= {
            "selector": side.selector.selector_id,
            "policy": side.policy,
            "reason": decision.reason,
            "randomised": decision.randomised,
        }
        if not drawn_anew:
            data["propensity"] = decision.propensity
        if not decision.route.plain and len(side.arms) <= events.INLINE_VECTOR_ARMS:
            data["arms"] = side.ids
            if not drawn_anew:
                data["probabilities"] = side.selector.vector(decision.mask)
        if len(side.fixed_facts) >= _FIXED_FACTS:
            side.fixed_facts.clear()
        encoded = side.fixed_facts[key] = orjson.dumps(data)[:-1] + b","
        return encoded

    def _vector(self, decision: Decision, now_ms: int) -> str:
        """Id of the decision's vector, which is in the log before whoever refers to it.

        It is logged again after some time, because retention deletes old segments, and when something was
        lost, because it may have been this.
        """
        side = decision.side
        key = (side.selector.selector_id, decision.mask)
        vector_id = f"{key[0]}-{decision.mask:x}"
        lost = self._log.lost.total()
        if lost != self._lost:
            self._lost = lost
            self._vectors.clear()
        if now_ms < self._vectors.get(key, 0):
            return vector_id
        if len(self._vectors) >= _SEEN_VECTORS:
            self._vectors.clear()
        self._vectors[key] = now_ms + _VECTOR_AGE_MS
        data = {
            "route": decision.route.name,
            "side": side.name,
            "selector": key[0],
            "policy": side.policy,
            "arms": side.ids,
            "probabilities": side.selector.vector(decision.mask),
        }
        self._log.append(encode(vector_id, events.SELECTOR, self._source, now_ms, data))
        return vector_id


def _named(decision: Decision, arm: CompiledArm, envelope: Envelope) -> dict[str, Any]:
    """What was asked for, and who ``arm`` is, whether it was drawn for this request or not."""
    side = decision.side
    data: dict[str, Any] = {
        "route": None if decision.route.plain else decision.route.name,
        "side": side.name,
        "arm": arm.id,
        "baseline_arm": side.ids[decision.baseline],
        "model": arm.model.name,
        "variant": arm.variant.name,
        "model_key": arm.arm.model_key,
        "variant_key": arm.arm.variant_key,
        "side_probability": decision.side_probability,
        "rollout": decision.route.rollout,
        "unit": decision.unit,
        "endpoint": envelope.endpoint,
        "stream": envelope.stream,
        "gen_ai.operation.name": envelope.endpoint,
        "gen_ai.provider.name": arm.handle.codec.name,
        "gen_ai.request.model": arm.model.model_id,
        "price_version": arm.price.version if arm.price is not None else None,
    }
    if decision.withheld is not None:
        data[decision.withheld] = True
    return data


def _ended(table_version: int, timing: Timing, ending: Ending) -> dict[str, Any]:
    """What the event of any request has."""
    data: dict[str, Any] = {
        "table_version": table_version,
        "outcome": ending.outcome,
        "status": ending.status,
        "started_ms": timing.started_ms,
        "duration_ms": round(timing.duration_ms, 3),
        "overhead_ms": round(timing.overhead_ms, 3),
        "request_bytes": ending.request_bytes,
        "response_bytes": ending.response_bytes,
    }
    if ending.error is not None:
        data["error.type"] = ending.error
    if ending.upstream_request_id is not None:
        data["upstream_request_id"] = ending.upstream_request_id
    if timing.upstream_ms is not None:
        data["upstream_ms"] = round(timing.upstream_ms, 3)
    return data


def _decided(data: dict[str, Any], decision: Decision, envelope: Envelope) -> None:
    if decision.unit_hash:
        data["unit_hash"] = decision.unit_hash
    if decision.mask != decision.side.full:
        data["filtered"] = filtered_reasons(decision, envelope)
    sampling = decision.route.sampling
    if sampling is not None:
        data["sampling_rate"] = sampling.rate
        if decision.sampled:
            data["sampled"] = True


def _saw(data: dict[str, Any], decision: Decision, sight: Sight) -> None:
    """What the decision looked at, and what came of it for this request alone."""
    source, context = decision.route.source, sight.context
    if source is not None and source.features is not None:
        data["context"] = {
            "version": source.features.version,
            "x": b64encode(context.x.astype("<f4", copy=False).tobytes()).decode("ascii"),
        }
    if context.sketch is not None:
        data["sketch"] = b64encode(context.sketch).decode("ascii")
    if sight.vector is not None:
        data["draw"] = sight.draw
        data["propensity"] = decision.propensity
        data["probabilities"] = sight.vector


def _attempt(data: dict[str, Any], decision: Decision, timing: Timing, ending: Ending) -> None:
    arm = decision.arm
    data["attempts"] = [_tried(arm.id, arm.model.upstream, data, ending, randomised=decision.randomised)]
    if timing.ttft_ms is not None:
        data["ttft_ms"] = round(timing.ttft_ms, 3)
    if timing.itl_ms is not None:
        data["itl_ms"] = round(timing.itl_ms, 3)
    if timing.chunks:
        data["chunks"] = timing.chunks


def _attempts(data: dict[str, Any], decision: Decision, tried: Sequence[Tried]) -> float | None:
    """Replace the one attempt by all there were; returns what they cost together."""
    rows = [_attempt_row(attempt) for attempt in tried]
    data["attempts"] = rows
    if tried[-1].arm.id != decision.arm.id:
        data["served_by"] = tried[-1].arm.id
    known: list[float] = [row["cost_usd"] for row in rows if row["cost_usd"] is not None]
    cost = sum(known) if known else None
    data["cost_usd"] = cost
    return cost


def _attempt_row(attempt: Tried) -> dict[str, Any]:
    arm, facts = attempt.arm, attempt.facts
    price = arm.price
    return {
        "arm": arm.id,
        "upstream": arm.model.upstream,
        "status": attempt.status,
        "error": attempt.error,
        "ms": round(attempt.ms, 3),
        "randomised": attempt.randomised,
        "why": attempt.why,
        "model": arm.model.name,
        "model_key": arm.arm.model_key,
        "variant_key": arm.arm.variant_key,
        "cost_usd": cost_usd(price, facts) if price is not None and facts is not None else None,
        "price_version": price.version if price is not None else None,
        "input_tokens": facts.input_tokens if facts is not None else None,
        "output_tokens": facts.output_tokens if facts is not None else None,
        "usage_source": facts.usage_source if facts is not None else "none",
    }


def _tried(
    arm: str | None, upstream: str, data: dict[str, Any], ending: Ending, *, randomised: bool
) -> dict[str, Any]:
    return {
        "arm": arm,
        "upstream": upstream,
        "status": ending.upstream_status,
        "error": ending.error,
        "ms": data.get("upstream_ms"),
        "randomised": randomised,
    }


def _facts(
    data: dict[str, Any], arm: CompiledArm, endpoint: str, facts: ReplyFacts | None, *, judged: bool
) -> float | None:
    if facts is None:
        data["usage_source"] = "none"
        data["cost_usd"] = None
        return None
    # An upstream may say anything there; the log takes names and words, not texts.
    if facts.response_model is not None:
        data["gen_ai.response.model"] = facts.response_model[:_NAME_CHARS]
    if facts.response_id is not None:
        data["gen_ai.response.id"] = facts.response_id[:_NAME_CHARS]
    if facts.finish_reasons:
        reasons = facts.finish_reasons[:_FINISH_REASONS]
        if not _USUAL_REASONS.issuperset(reasons):
            reasons = [reason if is_word(reason) else "other" for reason in reasons]
        data["gen_ai.response.finish_reasons"] = reasons
    data["usage_source"] = facts.usage_source
    data["gen_ai.usage.input_tokens"] = facts.input_tokens
    data["gen_ai.usage.output_tokens"] = facts.output_tokens
    if facts.cache_read_tokens:
        data["gen_ai.usage.cache_read.input_tokens"] = facts.cache_read_tokens
    if facts.cache_write_tokens:
        data["gen_ai.usage.cache_creation.input_tokens"] = facts.cache_write_tokens
        if facts.cache_write_1h_tokens:
            data["cache_write_1h_tokens"] = facts.cache_write_1h_tokens
    if facts.reasoning_tokens:
        data["reasoning_tokens"] = facts.reasoning_tokens
    if facts.skipped_events:
        data["skipped_events"] = facts.skipped_events
    price = arm.price
    cost = cost_usd(price, facts) if price is not None else None
    data["cost_usd"] = cost
    if judged and data["outcome"] == events.COMPLETED and endpoint != EMBEDDINGS:
        data["signals"] = _signals(facts)
    return cost


def _count_for_guards(
    decision: Decision,
    data: dict[str, Any],
    timing: Timing,
    ending: Ending,
    tried: Sequence[Tried],
    cost: float | None,
    *,
    stream: bool,
) -> None:
    """Book how a request of a rollout ended. Our own bounds, and callers that leave, are no outcome of a side."""
    watch, side = decision.watch, decision.side.name
    assert watch is not None
    first = next((attempt for attempt in tried if attempt.why == events.FIRST), None)
    outcome, status = ending.outcome, ending.upstream_status
    if first is not None and _failed_upstream(first.status, first.error, moved_on=first is not tried[-1]):
        # Even when somebody else saved the request: the guards ask how the side does by itself.
        watch.errored(side)
    elif outcome == events.UPSTREAM_FAULT:
        watch.errored(side)
    elif outcome == events.COMPLETED:
        signals: dict[str, int] = data.get("signals", {})
        watch.completed(
            side,
            ms=timing.ttft_ms if stream else timing.duration_ms,
            invalid=bool(signals.get("empty") or signals.get("refusal") or signals.get("json_valid") == 0),
            cost_usd=cost,
        )
    elif status is not None and _failed_upstream(status, ending.error, moved_on=False):
        watch.errored(side)
    elif outcome == events.CALLER_FAULT and status is not None:
        watch.rejected(side)


def _failed_upstream(status: int | None, error: str | None, *, moved_on: bool) -> bool:
    """Whether an attempt failed for a reason that is not the caller's: a fault, or 429; see ``_OURS_TO_FIX``."""
    if error is None or error in events.OUR_WORDS:
        return False
    if status is None or status < 400 or status >= 500 or status in (408, 429):
        return True
    return error == CredentialsRefused.code or (moved_on and status in _OURS_TO_FIX)


def _signals(facts: ReplyFacts) -> dict[str, int]:
    """Quality signals that need no judge, 0 or 1 each."""
    signals = {"empty": 0 if facts.has_content or facts.tool_calls else 1}
    if facts.text_head:
        signals["refusal"] = 1 if is_refusal(facts.text_head) else 0
    if facts.json_valid is not None:
        signals["json_valid"] = 1 if facts.json_valid else 0
    return signals
