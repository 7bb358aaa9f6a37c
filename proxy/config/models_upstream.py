"""Blocks about where requests go: upstreams, models at them, prices."""

from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.config.models_base import Block, CommaList, Count, EmptyIsNone, NotNegative, Positive, Text

Capability = Literal["tools", "vision", "audio", "json_object", "json_schema", "stream_usage"]
Endpoint = Literal["chat", "completions", "embeddings", "responses"]


class UpstreamBlock(Block):
    """A base URL, its credentials and its bounds. ``api_key`` is a secret."""

    provider: Text | None = None
    base_url: Text | None = None
    api_key: Text | None = None
    auth: Literal["key", "passthrough", "none"] | None = None
    key_header: Text | None = None
    headers: Annotated[dict[str, str], EmptyIsNone] = Field(default_factory=dict)
    paths: Annotated[dict[Endpoint, Text], EmptyIsNone] = Field(default_factory=dict)
    unix_socket: Text | None = None
    proxy: Text | None = None
    proxy_from_env: bool = False
    ca_file: Text | None = None
    verify_tls: bool = True
    stream_usage: bool = True
    connect_timeout_ms: Positive = 5_000
    first_byte_timeout_ms: Positive | None = None
    idle_timeout_ms: Positive | None = None
    total_timeout_ms: Positive | None = None
    keepalive_timeout_ms: Positive = 50_000
    max_connections: Count = 1000


class PriceBlock(Block):
    """USD per million tokens; ``request`` is USD per request. ``source`` says where the numbers are from."""

    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None
    cache_write: NotNegative | None = None
    cache_write_1h: NotNegative | None = None
    request: NotNegative = 0.0
    source: Text = "config"


class ModelBlock(Block):
    """A model at an upstream. ``model`` is what is sent; what is left out comes from the built-in
    catalogue.

    Written as text it is the model id.
    """

    upstream: Text | None = None
    model: Text | None = None
    price: PriceBlock | None = None
    context_tokens: Count | None = None
    max_output_tokens: Count | None = None
    capabilities: Annotated[list[Capability], CommaList] | None = None
    endpoints: Annotated[list[Endpoint], CommaList, Field(min_length=1)] | None = None
    stream_usage: bool | None = None

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """A plain text is the model id."""
        return {"model": value} if isinstance(value, str) else super().shorthand(value)
