"""Blocks about this product's own processes: listener, access, admin surface, logs, event log."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from proxy.config.models_base import (
    AT_RESTART,
    Block,
    Count,
    Fraction,
    Natural,
    NotNegative,
    Port,
    Positive,
    Text,
    Texts,
)


def _level(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    level = value.strip().lower()
    return {"warn": "warning", "fatal": "critical", "trace": "debug"}.get(level, level)


class ServerBlock(Block):
    """The public listener. What is counted is counted per worker."""

    host: Text = Field(
        default="127.0.0.1",
        description="Address to listen on; 0.0.0.0 for all interfaces.",
        json_schema_extra=AT_RESTART,
    )
    port: Port = Field(default=8080, description="0 takes a free one.", json_schema_extra=AT_RESTART)
    workers: Count | None = Field(
        default=None,
        description="Processes that answer requests; left out: one per core.",
        json_schema_extra=AT_RESTART,
    )
    timeout_ms: Positive = Field(
        default=30_000,
        description="Wait for a reply's head, and for each next byte of it; never for a whole stream.",
    )
    max_connections: Count = Field(default=10_000, description="Client connections open at once.")
    max_body_bytes: Count = Field(default=32 * 1024 * 1024, description="Largest request body.")
    max_line_bytes: Count = Field(default=8 * 1024, description="Longest request line.")
    max_header_bytes: Count = Field(default=64 * 1024, description="All header fields of a request together.")
    max_headers: Count = Field(default=128, description="Header fields of a request.")
    header_timeout_ms: Positive = Field(default=10_000, description="Time for a client's request head.")
    body_timeout_ms: Positive = Field(default=120_000, description="Time for a client's request body.")
    keepalive_timeout_ms: Positive = Field(
        default=75_000, description="How long a client connection may idle."
    )
    write_stall_timeout_ms: Positive = Field(
        default=60_000, description="How long a client may stop reading before its connection is closed."
    )
    drain_timeout_ms: Positive = Field(
        default=30_000, description="After SIGTERM requests and streams may finish for this long."
    )
    drain_delay_ms: NotNegative = Field(
        default=0,
        description="After SIGTERM requests are still accepted for this long while readiness is already off, so "
        "that load balancers notice first.",
    )
    buffered_reply_bytes: Count = Field(
        default=1024 * 1024, description="A unary reply larger than this is relayed while it arrives."
    )
    in_flight_bytes: Count = Field(
        default=512 * 1024 * 1024,
        description="Most memory that request bodies and replies may occupy together; beyond it requests are "
        "refused with 503. At least `max_body_bytes`.",
    )
    cache_bytes: Natural = Field(
        default=64 * 1024 * 1024,
        description="Most memory that kept answers occupy, of all routes with `cache` together; 0: none are kept "
        "in memory.",
    )
    shed_delay_ms: NotNegative = Field(
        default=50,
        description="Requests are refused with 503 once the event loop lags this much for a while; 0: never.",
    )


class AwayBlock(Block):
    """What happens to limited requests once a worker's allowance is used up and the optimizer is away."""

    rates: Literal["open", "closed"] = Field(
        default="open", description="Requests over a rate limit: `open` lets them through."
    )
    budgets: Literal["open", "closed"] = Field(
        default="closed", description="Requests over a budget: `closed` refuses them until it is back."
    )


class AccessBlock(Block):
    """Who may send requests."""

    client_keys: bool = Field(
        default=False,
        description="Ask every request for a key made with `llm-optimizer keys create`.",
    )
    when_optimizer_away: AwayBlock = Field(
        default_factory=AwayBlock, description="Limits while the optimizer process can not be asked."
    )


class AdminBlock(Block):
    """Who may reach the admin paths. Without a key only what provably comes from this machine."""

    require_key: bool = Field(default=False, description="Ask for an admin key even on this machine.")
    key: Text | None = Field(
        default=None,
        description="The admin key, a secret. Left out, with `keys`: one is made at the first start.",
    )
    keys: list[Text] = Field(default_factory=list, description="Several admin keys, secrets.")
    hosts: Texts = Field(
        default_factory=list, description="Further Host names, without port, that count as this machine."
    )
    listen: Text | None = Field(
        default=None,
        description="A separate host:port for the admin paths, beside the public one.",
        json_schema_extra=AT_RESTART,
    )
    health_open: bool = Field(default=True, description="/health* answers everybody.")
    metrics_open: bool = Field(default=True, description="/metrics answers everybody.")


class LogBlock(Block):
    """The processes' own log lines."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)] = (
        Field(default="info", description="Least severe level that is written.", json_schema_extra=AT_RESTART)
    )
    format: Literal["auto", "json", "text"] = Field(
        default="auto",
        description="`auto` is text on a terminal and JSON elsewhere.",
        json_schema_extra=AT_RESTART,
    )


class EventLogBlock(Block):
    """Bounds of the event log on disk; the byte cap always wins."""

    max_bytes: Count = Field(default=10 * 1024**3, description="Most bytes of all segments together.")
    max_disk_fraction: Annotated[Fraction, Field(gt=0)] = Field(
        default=0.2, description="Most of the disk that the log may take."
    )
    max_age_days: Positive = Field(default=30, description="Older segments are deleted.")
    segment_bytes: Annotated[Natural, Field(ge=4096)] = Field(
        default=64 * 1024 * 1024,
        description="Size at which a new segment begins.",
        json_schema_extra=AT_RESTART,
    )
