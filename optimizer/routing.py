"""The routing table: the one immutable snapshot that workers read, as plain frozen values.

Everything a worker needs to answer a request is reachable from a ``RoutingTable``, except secret
values: the table names them (``env:X``, ``file:/path``, ``literal:<digest>``) and a worker resolves
them when it loads a table. This module knows neither files nor sockets; ``optimizer.table_file``
moves tables to and from disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHAT = "chat"
COMPLETIONS = "completions"
EMBEDDINGS = "embeddings"
RESPONSES = "responses"
ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)

CONTROL = "control"
CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Price:
    """What one model charges, in USD per million tokens.

    ``None`` means the provider does not list the rate; the codec of costs then charges such tokens at
    ``input``. ``request_usd`` is a fixed fee per request. ``version`` changes whenever a number does.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    request_usd: float = 0.0
    version: str = ""
    source: str = "config"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A base URL, how to authenticate there, and every bound on talking to it.

    ``auth`` is ``key`` (send the secret), ``passthrough`` (send the caller's own ``Authorization`` to
    this origin only) or ``none``. ``paths`` overrides the path of an endpoint (``chat`` ->
    ``/openai/deployments/x/chat/completions?api-version=...``). ``proxy`` is an HTTP CONNECT proxy URL.
    Durations are seconds; ``total_s`` None means no bound on a whole reply.
    """

    name: str
    provider: str
    base_url: str
    auth: str = "key"
    secret: str | None = None
    key_header: str = "authorization"
    headers: tuple[tuple[str, str], ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    unix_socket: str | None = None
    proxy: str | None = None
    ca_file: str | None = None
    verify_tls: bool = True
    connect_s: float = 5.0
    first_byte_s: float = 30.0
    idle_s: float = 30.0
    total_s: float | None = None
    max_connections: int = 1000
    keepalive_s: float = 50.0


@dataclass(frozen=True, slots=True)
class Model:
    """A model at an upstream. ``model_id`` is what is sent; ``name`` is what the configuration calls it.

    ``key`` is the hash of (upstream origin, model id): the identity under which knowledge is kept.
    ``capabilities`` is a subset of {"tools", "vision", "audio", "json_object", "json_schema",
    "stream_usage"}; ``endpoints`` a subset of ``ENDPOINTS``.
    """

    name: str
    upstream: str
    model_id: str
    key: str
    price: Price | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset((CHAT,))


@dataclass(frozen=True, slots=True)
class Variant:
    """A versioned change to the prompt. ``key`` is the hash of its content.

    ``mode`` says what happens with ``system``: ``set`` replaces, ``prepend`` and ``append`` join the
    system text with a blank line between. ``template`` wraps the last user message, ``{question}`` standing for
    it (plain substitution). A variant with neither is the identity, named ``default``.
    """

    name: str
    key: str
    system: str | None = None
    mode: str = "prepend"
    template: str | None = None

    @property
    def is_identity(self) -> bool:
        return self.system is None and self.template is None


@dataclass(frozen=True, slots=True)
class Arm:
    """Model x prompt variant x parameter overrides. To a policy only ``id`` exists.

    ``model_key`` identifies model and parameters, ``variant_key`` the prompt content; statistics are
    kept under (route, model_key, variant_key, signal). ``parameters`` are top-level body fields that
    are set on the request (an explicit null removes the field).
    """

    id: str
    model: str
    variant: str
    model_key: str
    variant_key: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selector:
    """A frozen context-free policy: one probability per arm of its side, in the side's order.

    ``probabilities`` sum to 1. ``id`` is a hash of policy, arms and probabilities, so an event that
    names it can be replayed.
    """

    id: str
    policy: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One complete definition of a route's choice: arms, how to draw among them, and the baseline arm."""

    arms: tuple[Arm, ...]
    selector: Selector
    baseline: str


@dataclass(frozen=True, slots=True)
class Sticky:
    """What makes two requests one unit: ``header`` (name in ``header``), ``user`` (the body field)."""

    by: str
    header: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """What a client's ``model`` selects.

    ``candidate_fraction`` of units (0..1) goes to ``candidate``; without a rollout it is None and 0.
    ``home`` is the upstream that holds provider-side state (previous_response_id, files...).
    ``salt`` keys the sticky hashes of this route.
    """

    name: str
    control: Side
    match: tuple[str, ...] = ()
    candidate: Side | None = None
    candidate_fraction: float = 0.0
    rollout: str | None = None
    sticky: Sticky | None = None
    home: str | None = None
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the public listener. Bytes, seconds and counts."""

    max_body_bytes: int = 32 * 1024 * 1024
    max_line_bytes: int = 8 * 1024
    max_header_bytes: int = 64 * 1024
    max_headers: int = 128
    header_s: float = 10.0
    body_s: float = 120.0
    keepalive_s: float = 75.0
    write_stall_s: float = 60.0
    max_connections: int = 10_000
    drain_s: float = 30.0
    buffered_reply_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Access:
    """Who may reach what besides the data endpoints; the optimizer process authorises, workers forward."""

    health_open: bool = True
    metrics_open: bool = True


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """One published version.

    ``passthrough`` maps a path prefix (``/v1/audio``; ``/v1/`` is the default) to an upstream;
    ``segment_bytes`` is the size at which workers begin a new log segment (read when they start).
    """

    version: int
    published_at: float
    config_hash: str
    upstreams: tuple[Upstream, ...]
    models: tuple[Model, ...]
    variants: tuple[Variant, ...]
    routes: tuple[Route, ...]
    passthrough: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    guard_lease_s: float = 10.0
    segment_bytes: int = 64 * 1024 * 1024
