"""Blocks about the engines of several nodes, and about being several nodes."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from proxy.config.models_base import (
    AT_RESTART,
    Block,
    Count,
    EmptyIsNone,
    Fraction,
    Name,
    Positive,
    Text,
    Texts,
    switched_off,
)

MOST_SHARDS = 1000

_Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


def _lower(value: Any) -> Any:
    """Kafka's own configuration writes these words in capitals."""
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


class RedisBlock(Block):
    """Routing tables, feedback and shared limits of a cluster's nodes, and answers that routes keep there."""

    url: Text | None = Field(
        default=None,
        description="redis:// or rediss:// address; `${NAME}` may stand in the place of its password. Needed in a "
        "cluster.",
        json_schema_extra=AT_RESTART,
    )
    max_connections: Count = Field(
        default=10,
        description="Connections open at once, of each process that uses it.",
        json_schema_extra=AT_RESTART,
    )
    timeout_sec: Positive = Field(default=5, description="Time for an answer.", json_schema_extra=AT_RESTART)


class KafkaSecurityBlock(Block):
    """How to speak to the brokers. A text is the protocol."""

    protocol: Annotated[
        Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], BeforeValidator(_lower)
    ] = Field(default="plaintext", description="`ssl` encrypts, `sasl` asks for a password.")
    mechanism: (
        Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], BeforeValidator(_upper)] | None
    ) = Field(default=None, description="How the password is proven. Needed with `sasl`.")
    username: Text | None = Field(default=None, description="Needed with `sasl`.")
    password: Text | None = Field(default=None, description="Needed with `sasl`.")
    ca_file: Text | None = Field(
        default=None, description="PEM file of the authorities to trust. Left out: the system's."
    )
    certificate_file: Text | None = Field(
        default=None, description="PEM file of this client's certificate, for brokers that ask for one."
    )
    key_file: Text | None = Field(
        default=None, description="PEM file of its key. Left out: it is in `certificate_file`."
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the protocol."""
        return {"protocol": value} if isinstance(value, str) else super().shorthand(value)


class KafkaBlock(Block):
    """Where the event log is shipped, and in a cluster what the nodes learn from."""

    brokers: Texts = Field(default_factory=list, description="host:port of each broker. Needed.")
    topic: _Topic = Field(default="llm-feedback", description="Topic of the events.")
    group_id: Text = Field(
        default="optimizer-group",
        description="Consumer group: in a cluster it says who learns which routes.",
        json_schema_extra=AT_RESTART,
    )
    client_id: Text = Field(default="llm-optimizer", description="How this client calls itself.")
    request_timeout_ms: Positive = Field(default=10_000, description="Time for a broker's answer.")
    compression: Literal["gzip", "none"] = Field(
        default="gzip", description="Of what is shipped. `none` costs the network and spares the processor."
    )
    feedback_topic: _Topic | None = Field(
        default=None,
        description="Topic in which other systems write ratings. Left out: `topic`.",
        json_schema_extra=AT_RESTART,
    )
    dead_letter_topic: _Topic = Field(
        default="llm-feedback-dead",
        description="Topic that gets the ratings of other systems that can not be read, each with the reason.",
        json_schema_extra=AT_RESTART,
    )
    security: KafkaSecurityBlock | None = Field(
        default=None, description="How to speak to the brokers. Left out: in the clear, without a password."
    )


class TracingBlock(Block):
    """Spans of requests for an OpenTelemetry collector. A text is its address."""

    otlp_endpoint: Text = Field(
        description="http or https address of the collector, which is sent OTLP over HTTP as JSON. Without a path: "
        "`/v1/traces` there."
    )
    sample_rate: Fraction = Field(
        default=1.0,
        description="Share of the requests that come without a trace; those with one do as their callers decided.",
    )
    headers: Annotated[dict[str, str], EmptyIsNone] = Field(
        default_factory=dict, description="Sent to the collector. The values are secrets: write ${NAME}."
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the address."""
        return {"otlp_endpoint": value} if isinstance(value, str) else super().shorthand(value)


class ClusterBlock(Block):
    """Several nodes as one; they need `kafka`, `redis` and a PostgreSQL `database`. `true` is short for `enabled`."""

    enabled: bool = Field(
        default=True, description="false: this node is on its own.", json_schema_extra=AT_RESTART
    )
    name: Name = Field(
        default="default",
        description="Tells clusters apart that share a Redis; the same on all nodes.",
        json_schema_extra=AT_RESTART,
    )
    secret: Text | None = Field(
        default=None,
        description="At least 16 characters, the same on all nodes; what signs request ids is derived from it. Needed.",
        json_schema_extra=AT_RESTART,
    )
    advertise: Text | None = Field(
        default=None,
        description="host:port at which other nodes reach this one, the only key that may differ between nodes. Left "
        "out: the machine's name and `server.port`.",
        json_schema_extra=AT_RESTART,
    )
    shards: Annotated[Count, Field(le=MOST_SHARDS)] = Field(
        default=12,
        description="Into how many parts the routes are split among the nodes: the partitions that `kafka.topic` gets "
        "when it has to be made. Those of a topic that is there already count instead.",
        json_schema_extra=AT_RESTART,
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """``true`` and ``false`` switch it on and off."""
        if switched_off(value):
            return {"enabled": False}
        if value is True or (isinstance(value, str) and value.strip().lower() in ("true", "on", "yes", "1")):
            return {"enabled": True}
        return super().shorthand(value)
