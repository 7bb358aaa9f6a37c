"""Quality Metrics: what is believed of arms, how sure that is, and where it comes from."""

from typing import Final

from monitoring.boards.model import Board, Query, Row, grown, rate, series
from monitoring.boards.panels import GREEN, ORANGE, RED, bars, lines, number, states, table

_BY: Final = ("route", "arm", "model")
_BELIEVED: Final = ("route", "arm")


def _posterior(edge: str, signal: str) -> str:
    return f"max by (route, arm) ({series(f'posterior_{edge}', *_BELIEVED, signal=signal)})"


BOARD: Final = Board(
    "quality",
    "Quality Metrics",
    "Believed quality and success of each arm with its interval; ratings and judges; sudden changes.",
    variables=_BY,
    rows=(
        Row(
            "Quality",
            (
                bars(
                    "Believed quality",
                    "0 to 1, from ratings. Unknown while nothing was observed, which is not 0.",
                    Query(
                        f"max by (route, arm) ({series('quality_score', *_BY)})",
                        "{{route}} · {{arm}}",
                        instant=True,
                    ),
                    unit="percentunit",
                    most=1.0,
                    steps=((None, RED), (0.5, ORANGE), (0.8, GREEN)),
                ),
                lines(
                    "Quality over time",
                    "A gap: nothing was observed yet.",
                    Query(f"max by (route, arm) ({series('quality_score', *_BY)})", "{{route}} · {{arm}}"),
                    unit="percentunit",
                    most=1.0,
                ),
                lines(
                    "Quality, 95 % interval",
                    "The true quality lies in it with 95 % probability. Intervals that overlap are not "
                    "told apart yet.",
                    Query(_posterior("low", "quality"), "{{route}} · {{arm}}, low"),
                    Query(_posterior("high", "quality"), "{{route}} · {{arm}}, high"),
                    unit="percentunit",
                    most=1.0,
                ),
                lines(
                    "Success, mean and 95 % interval",
                    "Share of attempts that gave a whole and valid answer.",
                    Query(_posterior("mean", "success"), "{{route}} · {{arm}}"),
                    Query(_posterior("low", "success"), "{{route}} · {{arm}}, low"),
                    Query(_posterior("high", "success"), "{{route}} · {{arm}}, high"),
                    unit="percentunit",
                    most=1.0,
                ),
                table(
                    "What is believed of arms",
                    "Posterior means. Attempts count as far as they are learned from.",
                    (
                        ("Quality", "percentunit", _posterior("mean", "quality")),
                        ("from", "percentunit", _posterior("low", "quality")),
                        ("to", "percentunit", _posterior("high", "quality")),
                        ("Success", "percentunit", _posterior("mean", "success")),
                        ("Cost", "currencyUSD", _posterior("mean", "cost_usd")),
                        ("Latency", "s", _posterior("mean", "latency_seconds")),
                        ("Attempts", "short", f"max by (route, arm) ({series('arm_pulls', *_BY)})"),
                    ),
                    _BELIEVED,
                ),
            ),
        ),
        Row(
            "Ratings",
            (
                lines(
                    "Feedback",
                    "Per second, by what became of it. `accepted` was taken in, `learned` taught "
                    "something; the others say why not.",
                    Query(f"sum by (result) ({rate('feedback_total')})", "{{result}}"),
                    unit="ops",
                ),
                lines(
                    "Sudden changes",
                    "Times in the last hour that an arm changed at once; each made older evidence count "
                    "less.",
                    Query(
                        f"sum by (route, arm, signal) (increase({series('drift_alarms_total', *_BELIEVED)}[1h])) > 0",
                        "{{route}} · {{arm}} · {{signal}}",
                    ),
                ),
            ),
        ),
        Row(
            "Judges",
            (
                states(
                    "Judges",
                    "Whether the judge of a route answers. A judge that is down holds no request up; "
                    "quality just stays unknown.",
                    Query(f"max by (route) ({series('judge_up', 'route')})", "{{route}}"),
                    words=((0, "down", RED), (1, "up", GREEN)),
                    width=12,
                    height=6,
                ),
                number(
                    "Waiting",
                    "Samples that wait for a judge.",
                    Query(f"sum({series('judge_waiting')})"),
                    height=6,
                ),
                number(
                    "Judged",
                    "Samples with a score within the time shown.",
                    Query(f"sum({grown('judge_judgements_total', 'route', result='scored')})", instant=True),
                    height=6,
                ),
                number(
                    "Cost of judging",
                    "USD within the time shown.",
                    Query(f"sum({grown('judge_cost_usd_total', 'route')})", instant=True),
                    unit="currencyUSD",
                    height=6,
                ),
                lines(
                    "Judgements",
                    "Per second by what came of them.",
                    Query(
                        f"sum by (route, kind, result) ({rate('judge_judgements_total', 'route')}) > 0",
                        "{{route}} · {{kind}} · {{result}}",
                    ),
                    unit="ops",
                ),
                lines(
                    "Samples",
                    "Requests per second that were drawn for a judge, by what became of their content.",
                    Query(f"sum by (result) ({rate('judge_samples_total')})", "{{result}}"),
                    unit="ops",
                ),
            ),
        ),
    ),
)
