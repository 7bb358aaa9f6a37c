"""Blocks about where requests go: upstreams, models at them, prices."""

from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.config.models_base import (
    Block,
    CommaList,
    Count,
    EmptyIsNone,
    Fraction,
    Natural,
    NotNegative,
    Positive,
    Text,
)
from proxy.config.models_resilience import BreakerBlock

Capability = Literal[
    "tools",
    "vision",
    "audio",
    "json_object",
    "json_schema",
    "stream_usage",
    "prefill",
    "prefill_prefix",
    "prefill_continue",
]
Endpoint = Literal["chat", "completions", "embeddings", "responses", "messages"]


class UpstreamBlock(Block):
    """A base URL, its credentials and its bounds. `openai` and `anthropic` are built in and may be refined."""

    provider: Text | None = Field(
        default=None,
        description="The dialect: `openai` (also vLLM, Ollama, Groq, Mistral, DeepSeek, Azure...) or `anthropic`. "
        "Left out: openai, or that of the built-in upstream.",
    )
    base_url: Text | None = Field(
        default=None, description="http, https or unix:/path address. Needed unless built in."
    )
    allow_private: bool = Field(
        default=False, description="Permit a public name in `base_url` that resolves to private addresses."
    )
    api_key: Text | None = Field(
        default=None,
        description="A secret: ${NAME}, file:/path, or the key itself. Only the reference is ever stored.",
    )
    auth: Literal["key", "passthrough", "none"] | None = Field(
        default=None,
        description="`key` sends api_key, `passthrough` the caller's own Authorization, `none` nothing. "
        "Left out: key if there is one.",
    )
    key_header: Text | None = Field(
        default=None,
        description="Header of the key; `authorization` sends `Bearer <key>`, any other the key alone. "
        "Left out: what the provider expects.",
    )
    headers: Annotated[dict[str, str], EmptyIsNone] = Field(
        default_factory=dict, description="Sent with every request; credentials do not belong here."
    )
    paths: Annotated[dict[Endpoint, Text], EmptyIsNone] = Field(
        default_factory=dict, description="Another path for an endpoint; {model} stands for the model id."
    )
    unix_socket: Text | None = Field(default=None, description="Path of a socket to connect to instead.")
    proxy: Text | None = Field(default=None, description="HTTP proxy, http://host:port.")
    proxy_from_env: bool = Field(
        default=False, description="HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY count."
    )
    ca_file: Text | None = Field(default=None, description="Certificates to trust, PEM.")
    verify_tls: bool = Field(default=True, description="Check the certificate.")
    stream_usage: bool = Field(
        default=True, description="false for servers that do not know stream_options.include_usage."
    )
    connect_timeout_ms: Positive = Field(default=5_000, description="Time to connect, TLS included.")
    first_byte_timeout_ms: Positive | None = Field(
        default=None, description="Wait for a reply's head. Left out: server.timeout_ms."
    )
    idle_timeout_ms: Positive | None = Field(
        default=None, description="Wait for each next byte of a reply. Left out: server.timeout_ms."
    )
    total_timeout_ms: Positive | None = Field(
        default=None, description="Bound on a whole reply. Left out: none."
    )
    keepalive_timeout_ms: Positive = Field(
        default=50_000, description="How long an idle connection is kept for the next request."
    )
    max_connections: Count = Field(default=1000, description="Connections of one worker open at once.")
    breaker: BreakerBlock = Field(
        default_factory=BreakerBlock, description="When its models count as down, each for itself."
    )
    retry_share: Fraction = Field(
        default=0.2, description="Retries never exceed this share of the requests under way there."
    )
    retry_floor: Natural = Field(
        default=3, description="Retries that may always be under way, however few requests there are."
    )


class PriceBlock(Block):
    """What a model charges, in USD per million tokens. An unknown price means an unknown cost, never 0."""

    input: NotNegative = Field(description="Input tokens.")
    output: NotNegative = Field(description="Output tokens.")
    cached_input: NotNegative | None = Field(
        default=None, description="Input tokens read from a cache. Left out: as `input`."
    )
    cache_write: NotNegative | None = Field(
        default=None, description="Input tokens written to a cache. Left out: as `input`."
    )
    cache_write_1h: NotNegative | None = Field(
        default=None, description="The same for an hour. Left out: as `input`."
    )
    request: NotNegative = Field(default=0.0, description="USD per request.")
    source: Text = Field(default="config", description="Where the numbers are from.")


class ModelBlock(Block):
    """A model at an upstream; what is left out comes from the built-in catalogue. A text is the model id."""

    upstream: Text | None = Field(
        default=None, description="Its upstream. Left out: the catalogue's, or the only one of your own."
    )
    model: Text | None = Field(default=None, description="The id that is sent. Left out: its name.")
    price: PriceBlock | None = Field(default=None, description="What it costs.")
    context_tokens: Count | None = Field(
        default=None, description="Size of the context window; longer requests go to other arms."
    )
    max_output_tokens: Count | None = Field(default=None, description="Most tokens of an answer.")
    first_token_timeout_ms: Positive | None = Field(
        default=None,
        description="Wait for the first content of a stream from this model. Left out: as the route says.",
    )
    capabilities: Annotated[list[Capability], CommaList] | None = Field(
        default=None,
        description="What requests to it may ask for. The prefill ones say how it goes on with a begun answer: with "
        "a last assistant message (`prefill`), with `prefix: true` on it (`prefill_prefix`: Mistral, DeepSeek's beta "
        "address), or with `continue_final_message: true` (`prefill_continue`: vLLM).",
    )
    endpoints: Annotated[list[Endpoint], CommaList, Field(min_length=1)] | None = Field(
        default=None,
        description="Endpoints it speaks; whoever speaks `chat` answers `messages` as well, translated where needed.",
    )
    stream_usage: bool | None = Field(
        default=None,
        description="Whether it may be asked for usage in streams. Left out: as the upstream says.",
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the model id."""
        return {"model": value} if isinstance(value, str) else super().shorthand(value)
