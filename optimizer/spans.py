"""Spans of OpenTelemetry, made of what the log says of a request: OTLP's JSON, as plain values.

Pure. The request is a SERVER span; every attempt below it is a CLIENT span with the GenAI conventions, because that is
where a model was asked, and tokens are counted once. Ids and beginnings were fixed when the request was served, so the
same event always gives the same spans, and sending them twice changes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from optimizer import events
from optimizer.settings import Settings

SERVER: Final = 2
CLIENT: Final = 3
FAILED: Final = 2
SAMPLED: Final = 1
SCOPE: Final = "llm_optimizer"

_NANO: Final = 1_000_000
_OPERATIONS: Final = {"completions": "text_completion", "responses": "chat", "messages": "chat"}
"""The conventions' words for our endpoints, where they differ."""
_OF_REQUEST: Final = (
    *("route", "arm", "served_by", "model", "variant", "side", "rollout", "reason", "outcome", "endpoint"),
    *("requested_model", "propensity", "table_version", "cost_usd", "overhead_ms", "cached", "continued"),
)
_OF_REPLY: Final = (
    *("gen_ai.response.model", "gen_ai.response.id", "gen_ai.response.finish_reasons"),
    *("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
    *("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_creation.input_tokens"),
)
_OF_ATTEMPT: Final = ("arm", "upstream", "why", "cost_usd")

Json = dict[str, Any]
Asked = Mapping[str, tuple[str, str]]
"""By a model's name in the configuration: its id at the upstream, and the upstream's provider."""


def asked_of(settings: Settings) -> Asked:
    """What is asked for by each configured model's name."""
    providers = {upstream.name: upstream.provider for upstream in settings.upstreams}
    return {
        model.name: (model.model_id, providers.get(model.upstream, model.upstream))
        for model in settings.models
    }


def spans_of(event: Mapping[str, Any], asked: Asked) -> list[Json]:
    """The spans of a ``request.v1`` event; none when it is not sampled, or its spans are somebody else's."""
    data = event["data"]
    if "span_id" not in data or not data["trace_flags"] & SAMPLED:
        return []
    return [_request(event["id"], data), *_attempts(data, asked)]


def payload(spans: Sequence[Json], resource: Mapping[str, Any], version: str) -> Json:
    """What is sent: an ExportTraceServiceRequest."""
    scope = {"scope": {"name": SCOPE, "version": version}, "spans": list(spans)}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope]}]}


def _request(request_id: str, data: Mapping[str, Any]) -> Json:
    operation = _operation(data)
    named = data.get("route") or data.get("model")
    attributes = {f"{SCOPE}.{name}": data.get(name) for name in _OF_REQUEST}
    attributes |= {
        f"{SCOPE}.request_id": request_id,
        "http.response.status_code": data["status"],
        "error.type": data.get("error.type"),
    }
    span = _span(data, data["span_id"], data.get("parent_span_id"), SERVER, 0.0, data["duration_ms"])
    failed = data["outcome"] == events.UPSTREAM_FAULT or data["status"] >= 500
    return span | {
        "name": f"{operation} {named}" if named else operation,
        "attributes": _attributes(attributes),
        "status": {"code": FAILED} if failed else {},
    }


def _attempts(data: Mapping[str, Any], asked: Asked) -> Iterator[Json]:
    """The spans of the attempts, in the order of the log. A later one is linked to the one that it made good for."""
    rows = [row for row in data.get("attempts", ()) if "span_id" in row]
    begun = sorted(rows, key=lambda row: float(row["at_ms"]))
    for row in rows:
        ended = row["at_ms"] + row["ms"] if row["ms"] is not None else data["duration_ms"]
        span = _span(data, row["span_id"], data["span_id"], CLIENT, row["at_ms"], ended)
        attributes = _of_attempt(data, row, asked, serving=row is data["attempts"][-1])
        model = attributes.get("gen_ai.request.model")
        place = begun.index(row)
        if place:
            before = begun[place - 1]["span_id"]
            link = {"traceId": data["trace_id"], "spanId": before}
            span["links"] = [link | {"attributes": _attributes({f"{SCOPE}.why": row.get("why")})}]
        operation = _operation(data)
        failed = row["error"] is not None and row["error"] not in events.OUR_WORDS
        yield span | {
            "name": f"{operation} {model}" if model else operation,
            "attributes": _attributes(attributes),
            "status": {"code": FAILED} if failed else {},
        }


def _of_attempt(
    data: Mapping[str, Any], row: Mapping[str, Any], asked: Asked, *, serving: bool
) -> dict[str, Any]:
    """The attributes of an attempt. Those of the reply are at the top of the event, for the attempt that served."""
    own = row.get("model", data.get("model"))
    if own is not None and own != data.get("model"):
        model_id, provider = asked.get(own, (own, None))
    else:
        model_id, provider = data.get("gen_ai.request.model"), data.get("gen_ai.provider.name")
    found: dict[str, Any] = {
        "gen_ai.operation.name": _operation(data) if own is not None else None,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model_id,
        "gen_ai.request.stream": True if data.get("stream") else None,
        "http.response.status_code": row["status"],
        "error.type": row["error"],
        **{f"{SCOPE}.{name}": row.get(name) for name in _OF_ATTEMPT},
    }
    if serving:
        found |= {name: data.get(name) for name in _OF_REPLY}
        found["gen_ai.usage.reasoning.output_tokens"] = data.get("reasoning_tokens")
        if data.get("ttft_ms") is not None:
            found["gen_ai.response.time_to_first_chunk"] = max(data["ttft_ms"] - row["at_ms"], 0.0) / 1000
        if "why" not in row:
            found[f"{SCOPE}.cost_usd"] = data.get("cost_usd")
    else:
        found["gen_ai.usage.input_tokens"] = row.get("input_tokens")
        found["gen_ai.usage.output_tokens"] = row.get("output_tokens")
    return found


def _operation(data: Mapping[str, Any]) -> str:
    endpoint = str(data.get("endpoint", "other"))
    return "passthrough" if endpoint == "other" else _OPERATIONS.get(endpoint, endpoint)


def _span(
    data: Mapping[str, Any], span_id: str, parent: str | None, kind: int, begun_ms: float, ended_ms: float
) -> Json:
    span: Json = {
        "traceId": data["trace_id"],
        "spanId": span_id,
        "flags": data["trace_flags"],
        "kind": kind,
        # Whole numbers of 64 bits are texts in OTLP's JSON.
        "startTimeUnixNano": _nano(data, begun_ms),
        "endTimeUnixNano": _nano(data, max(ended_ms, begun_ms)),
    }
    if parent is not None:
        span["parentSpanId"] = parent
    return span


def _nano(data: Mapping[str, Any], after_ms: float) -> str:
    # Added up as whole numbers: a float holds microseconds of our time, and no less.
    return str(data["started_ms"] * _NANO + round(after_ms * _NANO))


def _attributes(values: Mapping[str, Any]) -> list[Json]:
    """Without those that are not known."""
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _value(value: object) -> Json:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case _:
            return {"stringValue": str(value)}
