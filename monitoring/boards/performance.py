"""Performance: how many requests, how many fail, how long they take, and what upstreams do to them."""

from typing import Final

from monitoring.boards.model import Board, Query, Row, grown, quantile, rate, series
from monitoring.boards.panels import GREEN, ORANGE, RED, heat, lines, number, states, table

_BY: Final = ("route", "arm", "model")

BOARD: Final = Board(
    "performance",
    "Performance",
    "Traffic, failures and latency by route, arm and model; attempts, retries and circuit breakers; the "
    "proxy's own share.",
    variables=_BY,
    rows=(
        Row(
            "At a glance",
            (
                number(
                    "Requests per second",
                    "Requests that ended, of any outcome.",
                    Query(f"sum({rate('requests_total', *_BY)})"),
                    unit="reqps",
                ),
                number(
                    "Failed",
                    "Share of requests that failed because of an upstream, after all retries and "
                    "fallbacks, within the time "
                    "shown. Callers' own errors and callers that left do not count.",
                    Query(
                        f"1 - sum({grown('requests_total', *_BY, outcome='completed')}) / "
                        f"sum({grown('requests_total', *_BY, outcome='~completed|upstream_fault')})",
                        instant=True,
                    ),
                    unit="percentunit",
                    steps=((None, GREEN), (0.005, ORANGE), (0.02, RED)),
                ),
                number(
                    "Latency, median",
                    "From the whole request to the end of its reply.",
                    Query(quantile(0.5, "latency_seconds", (), *_BY)),
                    unit="s",
                ),
                number(
                    "Latency, 95 %",
                    "95 % of completed requests took less.",
                    Query(quantile(0.95, "latency_seconds", (), *_BY)),
                    unit="s",
                ),
                number(
                    "First token, 95 %",
                    "Streams only.",
                    Query(quantile(0.95, "ttft_seconds", (), *_BY)),
                    unit="s",
                ),
                number(
                    "Own share, 99 %",
                    "Time that a request spends in the proxy itself, all routes of the choice.",
                    Query(quantile(0.99, "overhead_seconds", (), "route")),
                    unit="s",
                    steps=((None, GREEN), (0.01, ORANGE), (0.05, RED)),
                ),
            ),
        ),
        Row(
            "Requests",
            (
                lines(
                    "By outcome",
                    "Requests per second. `censored`: the caller left before the end.",
                    Query(f"sum by (outcome) ({rate('requests_total', *_BY)})", "{{outcome}}"),
                    unit="reqps",
                    stacked=True,
                ),
                lines(
                    "By arm",
                    "Requests per second, by who served them.",
                    Query(f"sum by (route, arm) ({rate('requests_total', *_BY)})", "{{route}} · {{arm}}"),
                    unit="reqps",
                    stacked=True,
                ),
                lines(
                    "Error rate",
                    "Share of failed requests in the last 5 minutes, as the product itself counts it.",
                    Query(f"max by (route, arm) ({series('error_rate', *_BY)})", "{{route}} · {{arm}}"),
                    unit="percentunit",
                    most=1.0,
                ),
                lines(
                    "By status",
                    "Requests per second by the status that callers got.",
                    Query(f"sum by (status) ({rate('requests_total', *_BY)})", "{{status}}"),
                    unit="reqps",
                ),
            ),
        ),
        Row(
            "Latency",
            (
                lines(
                    "Latency by route",
                    "Median and 95 % of completed requests.",
                    Query(quantile(0.5, "latency_seconds", ("route",), *_BY), "{{route}}, median"),
                    Query(quantile(0.95, "latency_seconds", ("route",), *_BY), "{{route}}, 95 %"),
                    unit="s",
                ),
                heat(
                    "Latency, all of it",
                    "How many requests took how long.",
                    Query(f"sum by (le) ({rate('latency_seconds_bucket', *_BY)})"),
                    unit="s",
                ),
                lines(
                    "First token by arm, 95 %",
                    "Streams only.",
                    Query(quantile(0.95, "ttft_seconds", ("route", "arm"), *_BY), "{{route}} · {{arm}}"),
                    unit="s",
                ),
                lines(
                    "Between tokens by arm, median",
                    "Mean time between the chunks of a stream; its median over streams.",
                    Query(
                        quantile(0.5, "inter_token_seconds", ("route", "arm"), *_BY), "{{route}} · {{arm}}"
                    ),
                    unit="s",
                ),
                lines(
                    "Time in the proxy",
                    "Median and 99 % of what the proxy adds to a request.",
                    Query(quantile(0.5, "overhead_seconds", (), "route"), "median"),
                    Query(quantile(0.99, "overhead_seconds", (), "route"), "99 %"),
                    unit="s",
                ),
                table(
                    "Each arm",
                    "Within the time shown; quantiles of the last minutes.",
                    (
                        (
                            "Requests",
                            "short",
                            f"sum by (route, arm, model) ({grown('requests_total', *_BY)})",
                        ),
                        (
                            "Failed",
                            "percentunit",
                            f"max by (route, arm, model) ({series('error_rate', *_BY)})",
                        ),
                        ("Median", "s", quantile(0.5, "latency_seconds", _BY, *_BY)),
                        ("95 %", "s", quantile(0.95, "latency_seconds", _BY, *_BY)),
                        ("First token, 95 %", "s", quantile(0.95, "ttft_seconds", _BY, *_BY)),
                    ),
                    _BY,
                    width=12,
                    height=8,
                ),
            ),
        ),
        Row(
            "Kept answers",
            (
                lines(
                    "Response cache",
                    "Requests per second of routes that keep answers. A hit asks nobody and costs nothing.",
                    Query(
                        f"sum by (route, result) ({rate('cache_requests_total', 'route')})",
                        "{{route}} · {{result}}",
                    ),
                    unit="reqps",
                ),
                lines(
                    "Memory of kept answers",
                    "Of all workers of a node; `server.cache_bytes` bounds each.",
                    Query(f"sum by (instance) ({series('cache_bytes')})", "{{instance}}"),
                    unit="bytes",
                ),
            ),
        ),
        Row(
            "Upstreams",
            (
                lines(
                    "Attempts that failed",
                    "Per second, by upstream and what happened. Callers see only what no retry or "
                    "fallback made good.",
                    Query(
                        f"sum by (upstream, result) ({rate('attempts_total', result='!=ok')})",
                        "{{upstream}} · {{result}}",
                    ),
                    unit="ops",
                ),
                lines(
                    "Attempts after the first",
                    "Per second, by why they were made.",
                    Query(f"sum by (why) ({rate('retries_total')})", "{{why}}"),
                    unit="ops",
                    stacked=True,
                ),
                states(
                    "Circuit breakers",
                    "Worst state among workers. Open: the model is not asked, and others answer.",
                    Query(
                        f"max by (upstream, model) ({series('breaker_state')})", "{{upstream}} · {{model}}"
                    ),
                    words=((0, "closed", GREEN), (1, "half open", ORANGE), (2, "open", RED)),
                    width=12,
                ),
                lines(
                    "Breakers opened",
                    "Times in the last 10 minutes.",
                    Query(
                        f"sum by (upstream, model) (increase({series('breaker_opens_total')}[10m]))",
                        "{{upstream}} · {{model}}",
                    ),
                ),
                lines(
                    "Connections to upstreams",
                    "`waiting`: requests that wait for a connection; raise the upstream's limit if it "
                    "stays above 0.",
                    Query(
                        f"sum by (upstream, state) ({series('upstream_connections')})",
                        "{{upstream}} · {{state}}",
                    ),
                    width=24,
                ),
            ),
        ),
    ),
)
