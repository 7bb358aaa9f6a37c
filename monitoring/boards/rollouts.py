"""Rollouts: what candidates get, how both sides do, and whether guards and records are well."""

from typing import Final

from monitoring.boards.history import MARKS
from monitoring.boards.model import Board, Query, Row, grown, quantile, rate, series
from monitoring.boards.panels import GREEN, ORANGE, RED, lines, number

_BY: Final = ("route", "arm", "model")

BOARD: Final = Board(
    "rollouts",
    "Rollouts",
    "Candidates and their share of traffic, failures and latency by arm, and the health of what guards them.",
    variables=_BY,
    marks=MARKS[:2],
    rows=(
        Row(
            "At a glance",
            (
                number(
                    "Largest candidate",
                    "The largest share of a route that a candidate gets now.",
                    Query(f"max({series('candidate_fraction', 'route')})"),
                    unit="percentunit",
                ),
                number(
                    "Running",
                    "Rollouts whose stages pass by themselves.",
                    Query(f"sum({series('optimizations', status='running')})"),
                ),
                number(
                    "Paused",
                    "Rollouts that wait for a person.",
                    Query(f"sum({series('optimizations', status='paused')})"),
                    steps=((None, GREEN), (0.5, ORANGE)),
                ),
                number(
                    "Taken back",
                    "Rollbacks and aborts within the time shown.",
                    Query(
                        f"sum({grown('optimization_transitions_total', verb='~rollback|abort')})",
                        instant=True,
                    ),
                    steps=((None, GREEN), (0.5, RED)),
                    decimals=0,
                ),
                number(
                    "Guards looked",
                    "Ago. Nobody guards a candidate when this grows: workers then send its traffic back "
                    "to control.",
                    Query(f"max({series('guard_feed_age_seconds')})"),
                    unit="s",
                    steps=((None, GREEN), (5.0, ORANGE), (15.0, RED)),
                ),
                number(
                    "Database",
                    "Whether the database of optimizations and audit answers on every node.",
                    Query(f"min({series('store_up')})"),
                    words=((0, "away", RED), (1, "answers", GREEN)),
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                lines(
                    "Share of candidates",
                    "Share of a route's units that get its candidate.",
                    Query(f"max by (route) ({series('candidate_fraction', 'route')})", "{{route}}"),
                    unit="percentunit",
                    most=1.0,
                ),
                lines(
                    "Requests by arm",
                    "Per second, by who served them.",
                    Query(f"sum by (route, arm) ({rate('requests_total', *_BY)})", "{{route}} · {{arm}}"),
                    unit="reqps",
                    stacked=True,
                ),
                lines(
                    "Failed by arm",
                    "Share of failed requests in the last 5 minutes.",
                    Query(f"max by (route, arm) ({series('error_rate', *_BY)})", "{{route}} · {{arm}}"),
                    unit="percentunit",
                    most=1.0,
                ),
                lines(
                    "Latency by arm, 95 %",
                    "Of completed requests.",
                    Query(quantile(0.95, "latency_seconds", ("route", "arm"), *_BY), "{{route}} · {{arm}}"),
                    unit="s",
                ),
            ),
        ),
        Row(
            "Records",
            (
                lines(
                    "Transitions",
                    "In the last 10 minutes, by verb.",
                    Query(
                        f"sum by (verb) (increase({series('optimization_transitions_total')}[10m])) > 0",
                        "{{verb}}",
                    ),
                ),
                lines(
                    "Not written yet",
                    "Records and audit rows that the database does not have yet, and whether traffic is "
                    "to be taken from a "
                    "candidate and the table could not be written (1).",
                    Query(f"max by (instance) ({series('store_pending_rows')})", "{{instance}}, rows"),
                    Query(f"max by (instance) ({series('unpublished_takes')})", "{{instance}}, unpublished"),
                ),
                lines(
                    "Webhooks",
                    "Calls per second by what became of them. `dead`: given up for good.",
                    Query(f"sum by (result) ({rate('webhooks_total')})", "{{result}}"),
                    Query(f"sum({series('webhooks_waiting')})", "waiting (number)"),
                    unit="ops",
                ),
                lines(
                    "Errors of the database",
                    "Calls per second that failed. They are made again.",
                    Query(f"sum by (instance) ({rate('store_errors_total')})", "{{instance}}"),
                    unit="ops",
                ),
            ),
        ),
    ),
)
