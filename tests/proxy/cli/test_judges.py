"""``judges`` against a server that answers by script."""

from typing import Any

JUDGE: dict[str, Any] = {
    "route": "chat", "name": "grader", "model": "large", "version": "0a1b", "rate": 0.05, "answers": False,
    "problem": "http_503", "spent_today_usd": 0.25, "usd_per_day": 5.0, "judgements": {"score.scored": 12},
    "cost_usd": 1.5,
    "arms": [{"arm": "small", "ratings": 12, "mean": 0.8, "low": 0.7, "high": 0.9, "heuristics_weight": 0.4}],
    "pairs": [
        {
            "arm": "small", "other_arm": "small+terse", "comparisons": 9, "torn": 2, "preference": 0.25, "low": 0.0,
            "high": 0.6,
        }
    ],
}  # fmt: skip


def test_judges_shows_state_means_and_pairs(script: Any, ask: Any) -> None:
    """Three tables; a judge that does not answer says why."""
    script.on("GET", "/api/v1/judges", {"judges": [JUDGE], "waiting": 0, "samples": {}})

    text = ask("judges").output

    for word in ("grader", "http_503", "$0.2500", "5.0%", "0.700 - 0.900", "small+terse", "0.250"):
        assert word in text, word


def test_one_route_of_several(script: Any, ask: Any) -> None:
    """Filtered here, the same for programs."""
    answer = {"judges": [JUDGE, JUDGE | {"route": "code"}], "waiting": 0, "samples": {}}
    script.on("GET", "/api/v1/judges", answer)

    text = ask("judges", "--route", "code", "-o", "json").output

    assert '"code"' in text
    assert '"chat"' not in text


def test_no_judge_is_said(script: Any, ask: Any) -> None:
    """Not an empty table."""
    script.on("GET", "/api/v1/judges", {"judges": [], "waiting": 0, "samples": {}})

    assert ask("judges").output == "no route has a judge\n"
