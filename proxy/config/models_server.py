"""Blocks about this product's own processes: listener, admin surface, logs, event log."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from proxy.config.models_base import Block, Count, Fraction, Natural, Port, Positive, Text, Texts


def _level(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    level = value.strip().lower()
    return {"warn": "warning", "fatal": "critical", "trace": "debug"}.get(level, level)


class ServerBlock(Block):
    """The public listener. ``timeout_ms`` bounds waiting for a reply's head and for each next byte of it."""

    host: Text = "127.0.0.1"
    port: Port = 8080
    workers: Count | None = None
    timeout_ms: Positive = 30_000
    max_connections: Count = 10_000
    max_body_bytes: Count = 32 * 1024 * 1024
    max_line_bytes: Count = 8 * 1024
    max_header_bytes: Count = 64 * 1024
    max_headers: Count = 128
    header_timeout_ms: Positive = 10_000
    body_timeout_ms: Positive = 120_000
    keepalive_timeout_ms: Positive = 75_000
    write_stall_timeout_ms: Positive = 60_000
    drain_timeout_ms: Positive = 30_000
    buffered_reply_bytes: Count = 1024 * 1024


class AdminBlock(Block):
    """Who may reach the admin paths. ``key`` and ``keys`` are secrets; ``hosts`` further Host names."""

    require_key: bool = False
    key: Text | None = None
    keys: list[Text] = Field(default_factory=list)
    hosts: Texts = Field(default_factory=list)
    listen: Text | None = None
    health_open: bool = True
    metrics_open: bool = True


class LogBlock(Block):
    """The processes' own log lines. ``auto`` is text on a terminal and JSON elsewhere."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)] = (
        "info"
    )
    format: Literal["auto", "json", "text"] = "auto"


class EventLogBlock(Block):
    """Bounds of the event log on disk; the cap always wins."""

    max_bytes: Count = 10 * 1024**3
    max_disk_fraction: Annotated[Fraction, Field(gt=0)] = 0.2
    max_age_days: Positive = 30
    segment_bytes: Annotated[Natural, Field(ge=4096)] = 64 * 1024 * 1024
