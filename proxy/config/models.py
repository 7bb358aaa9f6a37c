"""The whole configuration file as typed, validated, immutable values."""

from typing import Annotated

from pydantic import Field

from proxy.config.models_base import Block, EmptyIsNone, Name, Text
from proxy.config.models_optimization import (
    DatabaseBlock,
    DeploymentBlock,
    KafkaBlock,
    MetricsBlock,
    OptimizationBlock,
    RedisBlock,
)
from proxy.config.models_route import PromptBlock, RouteBlock
from proxy.config.models_server import AdminBlock, EventLogBlock, LogBlock, ServerBlock
from proxy.config.models_upstream import ModelBlock, UpstreamBlock


class File(Block):
    """The top level. Every key may be left out; an empty file is a valid configuration.

    ``known_models`` says whether models of the built-in catalogue may be asked for by name; left out it is
    true as long as neither ``upstreams`` nor ``models`` nor ``routes`` are written.
    """

    server: ServerBlock = Field(default_factory=ServerBlock)
    state_dir: Text | None = None
    upstreams: Annotated[dict[Name, UpstreamBlock], EmptyIsNone] = Field(default_factory=dict)
    models: Annotated[dict[Name, ModelBlock], EmptyIsNone] = Field(default_factory=dict)
    prompts: Annotated[dict[Name, PromptBlock], EmptyIsNone] = Field(default_factory=dict)
    routes: Annotated[dict[Name, RouteBlock], EmptyIsNone] = Field(default_factory=dict)
    passthrough: Annotated[dict[str, Text], EmptyIsNone] = Field(default_factory=dict)
    known_models: bool | None = None
    optimization: OptimizationBlock = Field(default_factory=OptimizationBlock)
    deployment: DeploymentBlock = Field(default_factory=DeploymentBlock)
    metrics: MetricsBlock = Field(default_factory=MetricsBlock)
    database: DatabaseBlock | None = None
    redis: RedisBlock | None = None
    kafka: KafkaBlock | None = None
    admin: AdminBlock = Field(default_factory=AdminBlock)
    log: LogBlock = Field(default_factory=LogBlock)
    event_log: EventLogBlock = Field(default_factory=EventLogBlock)
