"""The whole configuration file as typed, validated, immutable values."""

from typing import Annotated

from pydantic import Field

from proxy.config.models_base import AT_RESTART, Block, EmptyIsNone, Name, Text
from proxy.config.models_cluster import ClusterBlock, KafkaBlock, RedisBlock, TracingBlock
from proxy.config.models_deployment import DatabaseBlock, DeploymentBlock, WebhookBlock
from proxy.config.models_optimization import MetricsBlock, OptimizationBlock
from proxy.config.models_route import PromptBlock, RouteBlock
from proxy.config.models_server import AccessBlock, AdminBlock, EventLogBlock, LogBlock, ServerBlock
from proxy.config.models_upstream import ModelBlock, UpstreamBlock


class File(Block):
    """The top level. Every key may be left out; an empty file is a valid configuration."""

    server: ServerBlock = Field(default_factory=ServerBlock, description="The public listener.")
    state_dir: Text | None = Field(
        default=None,
        description="Directory of event log, statistics and routing table. Left out: the choice of `serve`.",
        json_schema_extra=AT_RESTART,
    )
    access: AccessBlock = Field(default_factory=AccessBlock, description="Who may send requests.")
    upstreams: Annotated[dict[Name, UpstreamBlock], EmptyIsNone] = Field(
        default_factory=dict, description="Where requests go, by name."
    )
    models: Annotated[dict[Name, ModelBlock], EmptyIsNone] = Field(
        default_factory=dict, description="Models at upstreams, by name."
    )
    prompts: Annotated[dict[Name, PromptBlock], EmptyIsNone] = Field(
        default_factory=dict, description="Changes to the prompt, by name."
    )
    routes: Annotated[dict[Name, RouteBlock], EmptyIsNone] = Field(
        default_factory=dict, description="What a client's `model` selects, by name."
    )
    passthrough: Annotated[dict[str, Text], EmptyIsNone] = Field(
        default_factory=dict,
        description="Upstream by path prefix (`/v1/audio`, or `default` for every other /v1/ path) of what is "
        "relayed as it is. Left out: `openai`, if that is in use.",
    )
    known_models: bool | None = Field(
        default=None,
        description="Whether models of the built-in catalogue may be asked for by name. Left out: as long as there "
        "are no `upstreams`, `models` or `routes`.",
    )
    optimization: OptimizationBlock = Field(
        default_factory=OptimizationBlock, description="The optimizer, and the short way to routes."
    )
    deployment: DeploymentBlock = Field(
        default_factory=DeploymentBlock, description="How changes reach traffic."
    )
    webhooks: list[WebhookBlock] = Field(
        default_factory=list, description="Who is told what becomes of optimizations."
    )
    metrics: MetricsBlock = Field(default_factory=MetricsBlock, description="Metrics of your own.")
    database: DatabaseBlock | None = Field(default=None, description="Where optimizations are kept.")
    redis: RedisBlock | None = Field(default=None, description="What joins the nodes of a cluster.")
    kafka: KafkaBlock | None = Field(default=None, description="Where the event log is shipped.")
    cluster: ClusterBlock | None = Field(
        default=None, description="Several nodes as one. Left out: this node is on its own."
    )
    tracing: TracingBlock | None = Field(
        default=None, description="Where spans of requests are sent. Left out: nowhere."
    )
    admin: AdminBlock = Field(default_factory=AdminBlock, description="Who may reach the admin paths.")
    log: LogBlock = Field(default_factory=LogBlock, description="The processes' own log lines.")
    event_log: EventLogBlock = Field(default_factory=EventLogBlock, description="Bounds of the event log.")
