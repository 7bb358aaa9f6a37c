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
MESSAGES = "messages"
ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES)

CONTROL = "control"
CANDIDATE = "candidate"

MEMORY = "memory"
REDIS = "redis"


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
class BreakerRules:
    """When a model at an upstream counts as down, and how it comes back. Seconds, counts, shares.

    Opens after ``consecutive`` failures in a row, or when at least ``error_rate`` of ``min_volume`` or more
    attempts within ``window_s`` failed. Open for ``open_s``, doubling up to ``max_open_s``; then one probe.
    ``consecutive`` 0 switches the breaker off.
    """

    consecutive: int = 5
    error_rate: float = 0.5
    min_volume: int = 20
    window_s: float = 10.0
    open_s: float = 1.0
    max_open_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """A base URL, how to authenticate there, and every bound on talking to it.

    ``auth`` is ``key`` (send the secret), ``passthrough`` (send the caller's own ``Authorization`` to
    this origin only) or ``none``. ``paths`` overrides the path of an endpoint (``chat`` ->
    ``/openai/deployments/x/chat/completions?api-version=...``). ``proxy`` is an HTTP CONNECT proxy URL.
    Durations are seconds; ``total_s`` None means no bound on a whole reply. ``allow_private`` permits a public
    name that resolves to private addresses. Retries on this upstream never exceed ``retry_share`` of its active
    requests, or ``retry_floor`` at a time.
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
    allow_private: bool = False
    breaker: BreakerRules = field(default_factory=BreakerRules)
    retry_share: float = 0.2
    retry_floor: int = 3


@dataclass(frozen=True, slots=True)
class Model:
    """A model at an upstream. ``model_id`` is what is sent; ``name`` is what the configuration calls it.

    ``key`` is the hash of (upstream origin, model id): the identity under which knowledge is kept.
    ``capabilities`` is a subset of {"tools", "vision", "audio", "json_object", "json_schema",
    "stream_usage", "prefill", "prefill_prefix", "prefill_continue"}; ``endpoints`` a subset of ``ENDPOINTS``; whoever
    speaks ``chat`` answers ``messages`` as well, translated where its provider has no such API.
    The prefill ones say how the model goes on with an answer that was begun: a last assistant message as it is, with
    ``"prefix": true``, or with ``"continue_final_message": true, "add_generation_prompt": false`` in the body.
    ``first_token_s`` overrides the route's.
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
    first_token_s: float | None = None


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
    """A frozen policy: one probability per arm of its side, in the side's order.

    ``probabilities`` sum to 1. ``id`` is a hash of policy, arms and probabilities, so an event that
    names it can be replayed. ``index`` names the file of a contextual selector (``optimizer.selector_file``); the
    probabilities are then the mean over recent requests, for people and for workers that can not read that file.
    """

    id: str
    policy: str
    probabilities: tuple[float, ...]
    index: str | None = None


@dataclass(frozen=True, slots=True)
class ClientFeature:
    """Something that the caller says about a request: a header, or a key of the body's ``metadata``.

    With ``values`` it is one of those words (one feature each, none of them is no word); else a number between ``low``
    and ``high``. ``source`` is ``header`` or ``metadata``.
    """

    name: str
    source: str
    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class Features:
    """How workers turn a request into the vector x of a route; ``x[0]`` is always 1.

    ``version`` names everything that x depends on: vectors of different versions are never mixed. ``size`` is the
    number of features. ``lexical`` says that words count; ``projection`` names the file that turns their hashes into
    the last features, None before the optimizer has fitted one.
    """

    version: str
    size: int
    client: tuple[ClientFeature, ...] = ()
    lexical: bool = False
    projection: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which requests leave their content to the judge: a share ``rate`` (0..1), drawn at the start of a request."""

    rate: float
    max_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Side:
    """One complete definition of a route's choice: arms, how to draw among them, and the baseline arm."""

    arms: tuple[Arm, ...]
    selector: Selector
    baseline: str

    @property
    def shares(self) -> dict[str, float]:
        """Probability by arm id."""
        return {arm.id: share for arm, share in zip(self.arms, self.selector.probabilities, strict=True)}


@dataclass(frozen=True, slots=True)
class Sticky:
    """What makes two requests one unit: ``header`` (name in ``header``), ``user`` (the body field)."""

    by: str
    header: str = ""


@dataclass(frozen=True, slots=True)
class Resilience:
    """What a route does about upstreams that fail. Seconds and counts.

    At most ``attempts`` in all, of which up to ``same_arm`` are repetitions on an arm that failed quickly; before
    those the wait is jittered, doubling from ``backoff_s`` to ``max_backoff_s``. A ``Retry-After`` up to
    ``retry_after_s`` is waited for. ``first_token_s`` bounds the wait for the first content of a stream and
    ``total_s`` the whole request; None is no bound. ``hold_s`` and ``hold_tokens`` keep the beginning of a stream
    back so that an early failure stays invisible (0: only until the first content). ``resume`` continues a cut
    stream on an arm that can. ``hedge_s`` starts a second attempt when no reply has begun by then; None never.
    """

    attempts: int = 3
    same_arm: int = 1
    backoff_s: float = 0.25
    max_backoff_s: float = 4.0
    retry_after_s: float = 5.0
    first_token_s: float | None = 60.0
    total_s: float | None = None
    hold_s: float = 0.0
    hold_tokens: int = 0
    resume: bool = False
    hedge_s: float | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one client key or route; None is no limit. Tokens are input and output together.

    Minutes, days and months are those of UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None


@dataclass(frozen=True, slots=True)
class Caching:
    """Which answers of a route are kept, and for whom. Seconds and bytes.

    ``shared``: one caller may get what another's request brought. ``store`` is ``memory`` (of each worker) or ``redis``
    (behind that memory; see ``CacheStore``). ``cold_only``: only requests with a temperature of 0.
    """

    ttl_s: float = 300.0
    max_entry_bytes: int = 256 * 1024
    shared: bool = False
    store: str = MEMORY
    cold_only: bool = False


@dataclass(frozen=True, slots=True)
class CacheStore:
    """The Redis behind the workers' memory. ``url`` is a reference like every secret, ``name`` begins all keys."""

    url: str
    name: str
    max_connections: int = 10


@dataclass(frozen=True, slots=True)
class Guarding:
    """What workers count and enforce while a route has a candidate.

    Counts are kept per (``Route.rollout``, ``stage``). The share of replies slower than ``reference_ms`` (control's own
    95th percentile) is compared between the sides, the share slower than ``threshold_ms`` with 5 %; to the first
    token for streams, in all otherwise. None counts nothing.
    """

    stage: int = 0
    reference_ms: float | None = None
    threshold_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """What a client's ``model`` selects.

    ``candidate_fraction`` of units (0..1) goes to ``candidate``; without a rollout it is None and 0.
    ``home`` is the upstream that holds provider-side state (previous_response_id, files...).
    ``features`` None: no selector of it looks at the request. ``sampling`` None: content stays with the request.
    ``caching`` None: no answer is kept. ``salt`` keys the sticky hashes of this route. ``fallbacks`` are the arms to go
    to, in order, when the decided one fails; empty means the other arms of its side, the likeliest first. ``quota``
    limits the route as a whole.
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
    fallbacks: tuple[Arm, ...] = ()
    resilience: Resilience = field(default_factory=Resilience)
    quota: Quota | None = None
    guarding: Guarding | None = None
    features: Features | None = None
    sampling: Sampling | None = None
    caching: Caching | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the public listener, per worker. Bytes, seconds and counts.

    ``in_flight_bytes`` bounds what request bodies and replies occupy together, ``cache_bytes`` the answers that are
    kept; ``drain_delay_s`` is how long a
    stopping worker still accepts while its readiness is already off, ``drain_s`` how long requests may finish then.
    ``shed_delay_s`` is the standing delay of the event loop from which on new requests are refused (0 never).
    """

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
    drain_delay_s: float = 0.0
    buffered_reply_bytes: int = 1024 * 1024
    in_flight_bytes: int = 512 * 1024 * 1024
    shed_delay_s: float = 0.05
    cache_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Access:
    """Who may reach what. The optimizer process authorises admin paths, workers forward them.

    ``client_keys``: every data path asks for a client key. ``budgets_open`` and ``rates_open`` say whether a budget or
    a rate limit lets requests through when its lease is used up and the optimizer is away.
    """

    health_open: bool = True
    metrics_open: bool = True
    client_keys: bool = False
    rates_open: bool = True
    budgets_open: bool = False


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """One published version.

    ``passthrough`` maps a path prefix (``/v1/audio``; ``/v1/`` is the default) to an upstream;
    ``segment_bytes`` is the size at which workers begin a new log segment (read when they start). ``overlays`` are the
    records of the optimizations that change routes, whole, for the optimizer that starts without its database; workers
    do not look at them. ``cache_store`` is there when a route keeps answers in it. ``trace_rate`` is the share of
    requests without a trace of their own that get a sampled one; None: no spans are made.
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
    overlays: tuple[Mapping[str, Any], ...] = ()
    cache_store: CacheStore | None = None
    trace_rate: float | None = None
