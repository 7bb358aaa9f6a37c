"""Cost Overview: what requests cost, what that saved, and what is left of budgets."""

from typing import Final

from monitoring.boards.model import Board, Query, Row, grown, known, rate, series
from monitoring.boards.panels import GREEN, ORANGE, RED, bars, lines, number, table

_BY: Final = ("route", "arm", "model")
_SAVED: Final = f"max by (route) ({series('cost_savings', 'route')})"
_SPENT: Final = f"sum({grown('cost_total', *_BY)})"
_SAVED_BEFORE: Final = f"max by (route) ({series('cost_savings', 'route')} offset $__range)"
# What was not known then is nothing saved then.
_SAVED_HERE: Final = f"(sum({known(_SAVED)}) - (sum({known(_SAVED_BEFORE)}) or vector(0)))"
_DONE: Final = grown("requests_total", *_BY, outcome="completed")
_SPENT_BY: Final = f"sum by (route, arm, model) ({grown('cost_total', *_BY)})"
_DONE_BY: Final = f"sum by (route, arm, model) ({_DONE})"
_LIMITS: Final = "measure, window"
_USED: Final = f"max by (route, {_LIMITS}) ({series('route_limit_used', 'route')})"
_LIMIT: Final = f"max by (route, {_LIMITS}) ({series('route_limit', 'route')})"

BOARD: Final = Board(
    "cost",
    "Cost Overview",
    "What requests cost, by route, arm and model; what the optimizer saved against the baseline; what is "
    "left of budgets.",
    variables=_BY,
    rows=(
        Row(
            "At a glance",
            (
                number(
                    "Spent",
                    "USD within the time shown, from tokens that were really used. Requests whose price "
                    "is not known are not in it.",
                    Query(_SPENT, instant=True),
                    unit="currencyUSD",
                ),
                number(
                    "Spending per hour",
                    "USD per hour at the present pace.",
                    Query(f"sum({rate('cost_total', *_BY)}) * 3600"),
                    unit="currencyUSD",
                ),
                number(
                    "Saved so far",
                    "USD saved since the beginning against sending everything to each route's baseline "
                    "arm. An estimate from the "
                    "baseline's mean cost; unknown until the baseline has answered something. Negative: "
                    "optimizing cost more.",
                    Query(f"sum({known(_SAVED)})"),
                    unit="currencyUSD",
                    steps=((None, RED), (0.0, GREEN)),
                ),
                number(
                    "Share saved",
                    "What was saved within the time shown, of what the baseline would have cost.",
                    Query(
                        f"{_SAVED_HERE} / ({_SPENT} + {_SAVED_HERE})",
                        instant=True,
                    ),
                    unit="percentunit",
                    steps=((None, RED), (0.0, GREEN)),
                ),
                number(
                    "Per 1,000 requests",
                    "USD per 1,000 completed requests within the time shown.",
                    Query(f"1000 * {_SPENT} / sum({_DONE})", instant=True),
                    unit="currencyUSD",
                ),
                number(
                    "Price unknown",
                    "Share of completed requests whose cost could not be told: give their model a price.",
                    Query(f"sum({grown('cost_unknown_total', *_BY)}) / sum({_DONE})", instant=True),
                    unit="percentunit",
                    steps=((None, GREEN), (0.001, ORANGE), (0.05, RED)),
                ),
            ),
        ),
        Row(
            "Where it goes",
            (
                lines(
                    "Spending by route",
                    "USD per hour.",
                    Query(f"sum by (route) ({rate('cost_total', *_BY)}) * 3600", "{{route}}"),
                    unit="currencyUSD",
                    stacked=True,
                ),
                lines(
                    "Spending by arm",
                    "USD per hour. An arm is a model with a prompt.",
                    Query(f"sum by (route, arm) ({rate('cost_total', *_BY)}) * 3600", "{{route}} · {{arm}}"),
                    unit="currencyUSD",
                    stacked=True,
                ),
                lines(
                    "Saved by route",
                    "USD saved so far against the baseline arm. A gap: not known yet.",
                    Query(_SAVED, "{{route}}"),
                    unit="currencyUSD",
                    least=None,
                ),
                lines(
                    "Tokens",
                    "Tokens per second by disjoint kind, so that they add up. Cached input is cheap, "
                    "reasoning is paid as output.",
                    Query(f"sum by (kind) ({rate('tokens_total', *_BY)})", "{{kind}}"),
                    stacked=True,
                ),
                table(
                    "By arm",
                    "Within the time shown.",
                    (
                        ("Spent", "currencyUSD", _SPENT_BY),
                        ("Completed", "short", _DONE_BY),
                        (
                            "Per 1,000",
                            "currencyUSD",
                            f"1000 * {_SPENT_BY} / {_DONE_BY}",
                        ),
                        ("Tokens", "short", f"sum by (route, arm, model) ({grown('tokens_total', *_BY)})"),
                    ),
                    _BY,
                ),
            ),
        ),
        Row(
            "Budgets",
            (
                bars(
                    "Limits of routes, used",
                    "Share of each limit that is used in its present window (minute, day or month, UTC). "
                    "At 100 % requests are refused.",
                    Query(f"{_USED} / {_LIMIT}", "{{route}} · {{measure}} a {{window}}", instant=True),
                    unit="percentunit",
                    most=1.0,
                    steps=((None, GREEN), (0.8, ORANGE), (1.0, RED)),
                ),
                lines(
                    "Granted to workers",
                    "Share of each limit that workers hold or have used. They get it in portions, so it "
                    "runs ahead of what is used.",
                    Query(
                        f"max by (route, {_LIMITS}) ({series('route_limit_granted', 'route')}) / {_LIMIT}",
                        "{{route}} · {{measure}} a {{window}}",
                    ),
                    unit="percentunit",
                    most=1.0,
                ),
                lines(
                    "Client keys at their limit",
                    "Limits of client keys that are used up in the present window; those keys get 429.",
                    Query(
                        f"max by ({_LIMITS}) ({series('key_limits_exhausted')})",
                        "{{measure}} a {{window}}, used up",
                    ),
                    Query(
                        f"max by ({_LIMITS}) ({series('key_limits')})", "{{measure}} a {{window}}, asked for"
                    ),
                ),
                lines(
                    "Judging",
                    "USD per hour that judges cost, and what today (UTC) has cost of what it may.",
                    Query(
                        f"sum by (route) ({rate('judge_cost_usd_total', 'route')}) * 3600",
                        "{{route}}, per hour",
                    ),
                    Query(f"max by (route) ({series('judge_spent_today_usd', 'route')})", "{{route}}, today"),
                    Query(
                        f"max by (route) ({series('judge_limit_usd', 'route')})", "{{route}}, limit of a day"
                    ),
                    unit="currencyUSD",
                ),
            ),
        ),
    ),
)
