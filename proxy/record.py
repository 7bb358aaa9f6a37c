"""What the log keeps of one request: the ``request.v1`` event, built once, when the outcome is known.

Field meanings are in ``optimizer.events``. Nothing of the prompt, the completion or a credential is read
here; only names, counts, times and numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from optimizer import events
from optimizer.log.writer import LogWriter, encode
from optimizer.routing import EMBEDDINGS
from proxy.dispatch import Decision, filtered_reasons
from proxy.envelope import Envelope
from proxy.pricing import cost_usd
from proxy.providers.base import ReplyFacts
from proxy.providers.signals import is_refusal

_SEEN_VECTORS = 4096
_FIXED_FACTS = 1024


@dataclass(slots=True)
class Timing:
    """Milliseconds of one request, measured with one monotonic clock; None where it did not get that far."""

    started_ms: int
    duration_ms: float
    overhead_ms: float
    upstream_ms: float | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    chunks: int = 0


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


class Recorder:
    """Turns decisions and endings into events and appends them.

    One ``Recorder`` per worker. Vectors of more than 32 arms are logged once per
    (selector, eligible set) as a ``selector.v1`` event and referred to by id.
    """

    def __init__(self, log: LogWriter, *, source: str, count: Callable[[str, str, str, str], None]) -> None:
        self._log = log
        self._source = source
        self._count = count
        self._vectors: dict[tuple[str, int], str] = {}

    def request(
        self,
        request_id: str,
        *,
        endpoint: str,
        envelope: Envelope | None,
        decision: Decision | None,
        table_version: int,
        facts: ReplyFacts | None,
        timing: Timing,
        ending: Ending,
    ) -> float | None:
        """Append the event; returns the cost in USD that it recorded, None when unknown."""
        data: dict[str, Any] = {
            "table_version": table_version,
            "endpoint": endpoint,
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
        if envelope is not None:
            data["requested_model"] = envelope.model[:200]
            data["stream"] = envelope.stream
        cost = None
        if decision is None or envelope is None:
            data["route"] = data["arm"] = None
            data["reason"] = "passthrough" if endpoint == "other" else "undecided"
            self._count("", "", "", ending.outcome)
            body: dict[str, Any] | orjson.Fragment = data
        else:
            _decided(data, decision, envelope)
            _attempt(data, decision, timing, ending)
            cost = _facts(data, decision, facts)
            arm, route = decision.arm, decision.route
            self._count("" if route.plain else route.name, arm.id, decision.side.name, ending.outcome)
            # What is the same for every request of this arm was serialized once; the rest joins it as bytes.
            fixed = self._fixed(decision, timing.started_ms, endpoint)
            body = orjson.Fragment(fixed + orjson.dumps(data)[1:])
        self._log.append(
            encode(
                request_id,
                events.REQUEST,
                self._source,
                timing.started_ms + int(timing.duration_ms),
                body,
            )
        )
        return cost

    def _fixed(self, decision: Decision, now_ms: int, endpoint: str) -> bytes:
        """The opening of ``data``, up to a comma: facts that depend on arm, eligible set and endpoint alone."""
        side, arm = decision.side, decision.arm
        key = (arm.index, decision.mask, endpoint, decision.baseline)
        known = side.fixed_facts.get(key)
        if known is not None:
            return known
        plain = decision.route.plain
        data: dict[str, Any] = {
            "route": None if plain else decision.route.name,
            "side": side.name,
            "arm": arm.id,
            "baseline_arm": side.ids[decision.baseline],
            "model": arm.model.name,
            "variant": arm.variant.name,
            "model_key": arm.arm.model_key,
            "variant_key": arm.arm.variant_key,
            "selector": side.selector.selector_id,
            "policy": side.policy,
            "gen_ai.operation.name": endpoint,
            "gen_ai.provider.name": arm.handle.codec.name,
            "gen_ai.request.model": arm.model.model_id,
            "price_version": arm.price.version if arm.price is not None else None,
        }
        if not plain and len(side.arms) <= events.INLINE_VECTOR_ARMS:
            data["arms"] = side.ids
            data["probabilities"] = side.selector.vector(decision.mask)
        elif not plain:
            data["vector"] = self._vector(decision, now_ms)
        if len(side.fixed_facts) >= _FIXED_FACTS:
            side.fixed_facts.clear()
        encoded = side.fixed_facts[key] = orjson.dumps(data)[:-1] + b","
        return encoded

    def _vector(self, decision: Decision, now_ms: int) -> str:
        side = decision.side
        key = (side.selector.selector_id, decision.mask)
        known = self._vectors.get(key)
        if known is not None:
            return known
        if len(self._vectors) >= _SEEN_VECTORS:
            self._vectors.clear()
        vector_id = f"{key[0]}-{decision.mask:x}"
        self._vectors[key] = vector_id
        self._log.append(
            encode(
                vector_id,
                events.SELECTOR,
                self._source,
                now_ms,
                {
                    "route": decision.route.name,
                    "side": side.name,
                    "selector": key[0],
                    "policy": side.policy,
                    "arms": side.ids,
                    "probabilities": side.selector.vector(decision.mask),
                },
            )
        )
        return vector_id


def _decided(data: dict[str, Any], decision: Decision, envelope: Envelope) -> None:
    data["side_probability"] = decision.side_probability
    data["rollout"] = decision.route.rollout
    if decision.guard_lost:
        data["guard_lost"] = True
    data["propensity"] = decision.propensity
    data["reason"] = decision.reason
    data["randomised"] = decision.randomised
    data["unit"] = decision.unit
    if decision.unit_hash:
        data["unit_hash"] = decision.unit_hash
    if decision.mask != decision.side.full:
        data["filtered"] = filtered_reasons(decision, envelope)


def _attempt(data: dict[str, Any], decision: Decision, timing: Timing, ending: Ending) -> None:
    data["attempts"] = [
        {
            "arm": decision.arm.id,
            "upstream": decision.arm.model.upstream,
            "status": ending.upstream_status,
            "error": ending.error,
            "ms": data.get("upstream_ms"),
            "randomised": decision.randomised,
        }
    ]
    if timing.ttft_ms is not None:
        data["ttft_ms"] = round(timing.ttft_ms, 3)
    if timing.itl_ms is not None:
        data["itl_ms"] = round(timing.itl_ms, 3)
    if timing.chunks:
        data["chunks"] = timing.chunks


def _facts(data: dict[str, Any], decision: Decision, facts: ReplyFacts | None) -> float | None:
    if facts is None:
        data["usage_source"] = "none"
        data["cost_usd"] = None
        return None
    if facts.response_model is not None:
        data["gen_ai.response.model"] = facts.response_model
    if facts.response_id is not None:
        data["gen_ai.response.id"] = facts.response_id
    if facts.finish_reasons:
        data["gen_ai.response.finish_reasons"] = facts.finish_reasons
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
    price = decision.arm.price
    cost = cost_usd(price, facts) if price is not None else None
    data["cost_usd"] = cost
    if data["outcome"] == events.COMPLETED and data["endpoint"] != EMBEDDINGS:
        data["signals"] = _signals(facts)
    return cost


def _signals(facts: ReplyFacts) -> dict[str, int]:
    """Quality signals that need no judge, 0 or 1 each."""
    signals = {"empty": 0 if facts.has_content or facts.tool_calls else 1}
    if facts.text_head:
        signals["refusal"] = 1 if is_refusal(facts.text_head) else 0
    if facts.json_valid is not None:
        signals["json_valid"] = 1 if facts.json_valid else 0
    return signals
