"""Optimization History: what the optimizer did and why, over days."""

from typing import Final

from monitoring.boards.model import Board, Mark, Query, Row, grown, known, series
from monitoring.boards.panels import BLUE, GREEN, ORANGE, RED, lines, number, table

_BY: Final = ("route", "arm", "model")

_SAVED: Final = f"max by (route) ({series('cost_savings', 'route')})"


def _made(verbs: str) -> str:
    return f"sum by (verb) (increase({series('optimization_transitions_total', verb=f'~{verbs}')}[$__interval])) > 0.5"


MARKS: Final = (
    Mark("Taken back", _made("rollback|abort|withhold"), "{{verb}}", RED),
    Mark("Given traffic", _made("deploy|advance|promote|complete"), "{{verb}}", GREEN),
    Mark(
        "Sudden change",
        f"sum by (route, arm, signal) (increase({series('drift_alarms_total', 'route', 'arm')}[$__interval])) > 0.5",
        "{{route}} · {{arm}}: {{signal}}",
        ORANGE,
    ),
    Mark(
        "Configuration",
        f"changes({series('config_last_reload_success_timestamp_seconds')}[$__interval]) > 0",
        "reloaded on {{instance}}",
        BLUE,
    ),
)

BOARD: Final = Board(
    "history",
    "Optimization History",
    "How traffic moved between arms and what came of it. Lines mark rollouts, sudden changes and reloads.",
    variables=_BY,
    marks=MARKS,
    span="now-7d",
    rows=(
        Row(
            "At a glance",
            (
                number(
                    "Deployed",
                    "Optimizations in force.",
                    Query(f"sum({series('optimizations', status='deployed')})"),
                ),
                number(
                    "Under way",
                    "Rollouts that split traffic now.",
                    Query(f"sum({series('optimizations', status='~running|paused')})"),
                ),
                number(
                    "Proposed",
                    "Waiting for somebody to deploy them, unless they deploy themselves.",
                    Query(f"sum({series('optimizations', status='proposed')})"),
                ),
                number(
                    "Rolled back",
                    "Within the time shown.",
                    Query(f"sum({grown('optimization_transitions_total', verb='rollback')})", instant=True),
                    steps=((None, GREEN), (0.5, ORANGE)),
                    decimals=0,
                ),
                number(
                    "Arms that changed",
                    "Within the time shown.",
                    Query(f"sum({grown('drift_alarms_total', 'route', 'arm')})", instant=True),
                    decimals=0,
                ),
                number(
                    "Saved so far",
                    "USD against the baseline, all routes of the choice.",
                    Query(f"sum({known(_SAVED)})"),
                    unit="currencyUSD",
                ),
            ),
        ),
        Row(
            "What was decided",
            (
                lines(
                    "Probability of arms",
                    "What the published table gives each arm.",
                    Query(f"max by (route, arm) ({series('arm_probability', *_BY)})", "{{route}} · {{arm}}"),
                    unit="percentunit",
                    most=1.0,
                    width=24,
                    height=9,
                ),
                lines(
                    "Share of arms so far",
                    "Of all attempts that were learned from.",
                    Query(f"max by (route, arm) ({series('arm_share', *_BY)})", "{{route}} · {{arm}}"),
                    unit="percentunit",
                    most=1.0,
                ),
                lines(
                    "Optimizations",
                    "By status.",
                    Query(f"sum by (status) ({series('optimizations')})", "{{status}}"),
                ),
                lines(
                    "What features tell",
                    "How sure it is that the features of a contextual route tell its arms apart, 0 to 1.",
                    Query(f"max by (route) ({series('context_gain', 'route')})", "{{route}}"),
                    unit="percentunit",
                    most=1.0,
                ),
                lines(
                    "Transitions",
                    "Of optimizations per hour, by verb.",
                    Query(
                        f"sum by (verb) (increase({series('optimization_transitions_total')}[1h])) > 0",
                        "{{verb}}",
                    ),
                ),
            ),
        ),
        Row(
            "What came of it",
            (
                lines(
                    "Saved",
                    "USD against the baseline. A gap: not known.",
                    Query(_SAVED, "{{route}}"),
                    unit="currencyUSD",
                    least=None,
                ),
                lines(
                    "Believed cost of a request",
                    "Posterior mean in USD.",
                    Query(
                        f"max by (route, arm) ({series('posterior_mean', 'route', 'arm', signal='cost_usd')})",
                        "{{route}} · {{arm}}",
                    ),
                    unit="currencyUSD",
                ),
                lines(
                    "Believed latency",
                    "Posterior mean.",
                    Query(
                        f"max by (route, arm) ({series('posterior_mean', 'route', 'arm', signal='latency_seconds')})",
                        "{{route}} · {{arm}}",
                    ),
                    unit="s",
                ),
                lines(
                    "Believed quality",
                    "Posterior mean.",
                    Query(
                        f"max by (route, arm) ({series('posterior_mean', 'route', 'arm', signal='quality')})",
                        "{{route}} · {{arm}}",
                    ),
                    unit="percentunit",
                    most=1.0,
                ),
            ),
        ),
        Row(
            "Constraints",
            (
                table(
                    "Constraints of routes",
                    "Target and what recent requests did, in the constraint's unit: USD per request, "
                    "quality 0..1, or share of late "
                    "replies. The multiplier is what a unit of it weighs; 0: it does not bind. Infeasible "
                    "1: it can not be "
                    "kept together with the others.",
                    tuple(
                        (
                            heading,
                            "short",
                            f"max by (route, constraint) ({series(f'constraint_{name}', 'route')})",
                        )
                        for heading, name in (
                            ("Infeasible", "infeasible"),
                            ("Target", "target"),
                            ("Actual", "actual"),
                            ("Expected", "expected"),
                            ("Multiplier", "multiplier"),
                        )
                    ),
                    ("route", "constraint"),
                    width=12,
                ),
                lines(
                    "Actual against target",
                    "1: exactly as asked. Cost and lateness should be below it, quality above.",
                    Query(
                        f"max by (route, constraint) ({series('constraint_actual', 'route')}) / "
                        f"max by (route, constraint) ({series('constraint_target', 'route')})",
                        "{{route}} · {{constraint}}",
                    ),
                    steps=((None, "transparent"), (1.0, ORANGE)),
                    height=9,
                ),
            ),
        ),
    ),
)
