"""Decisions in sentences: what was logged, said so that a person understands it, and never more than was logged."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control.admin.explanation import explain

DRAWN: dict[str, Any] = {
    "route": "chat", "requested_model": "chat", "table_version": 7, "arm": "small", "baseline_arm": "large",
    "reason": "bandit", "policy": "thompson", "propensity": 0.75, "arms": ["small", "large"],
    "probabilities": [0.75, 0.25], "side": "control", "unit": "request", "rollout": None, "outcome": "completed",
    "status": 200, "duration_ms": 1234.0, "ttft_ms": 210.0, "cost_usd": 0.0021,
    "attempts": [{"arm": "small", "status": 200, "error": None}],
}  # fmt: skip


def _text(**fields: Any) -> str:
    return "\n".join(explain(DRAWN | fields))


def test_a_draw_is_explained() -> None:
    """Where it was addressed, with which probabilities it was drawn, and what came of it."""
    assert explain(DRAWN) == [
        "It asked for route 'chat' in routing table 7.",
        (
            "The arm was drawn at random with the probabilities that the optimizer had learned (policy thompson): "
            "small 75 %, large 25 %."
        ),
        "It fell on 'small', whose probability was 75 %.",
        "Without the optimizer it would have gone to the baseline, 'large'.",
        "It completed with status 200 after 1.23 s, the first token after 0.21 s, and cost 0.002100 USD.",
    ]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"requested_model": "chat-large"}, "'chat-large', which belongs to route 'chat'"),
        ({"route": None, "reason": "plain", "requested_model": "gpt-4"}, "no route has that name"),
        ({"reason": "pinned"}, "x-llm-optimizer-pin"),
        ({"reason": "single", "filtered": {"large": "breaker open"}}, "large (breaker open)"),
        ({"reason": "home"}, "home upstream"),
        ({"reason": "embeddings"}, "vectors"),
        ({"reason": "passthrough", "route": None, "arm": None}, "passed through"),
        ({"reason": "undecided", "route": None, "arm": None}, "refused before anything was decided"),
        (
            {"rollout": "r1", "side": "candidate", "side_probability": 0.1},
            "candidate, which 10 % of the requests get",
        ),
        (
            {"rollout": "r1", "unit": "user", "side_probability": 0.9},
            "the same user always falls to the same side",
        ),
        ({"rollout": "r1", "guard_lost": True}, "nobody guarded"),
        ({"rollout": "r1", "stopped": True}, "this worker had stopped the candidate"),
        (
            {"outcome": "upstream_fault", "status": 502, "error.type": "timeout"},
            "It failed upstream with status 502",
        ),
        ({"cost_usd": None, "duration_ms": None, "ttft_ms": None}, "It completed with status 200."),
    ],
)
def test_every_way_a_request_can_go_has_its_words(fields: dict[str, Any], words: str) -> None:
    """One sentence says it."""
    assert words in _text(**fields)


def test_several_attempts_are_told_in_order() -> None:
    """With why each was made, and who served in the end."""
    rows = [
        {"arm": "small", "why": "first", "error": "timeout", "status": None, "ms": 900.0},
        {"arm": "large", "why": "fallback", "error": None, "status": 200, "ms": 300.0},
    ]

    text = _text(attempts=rows, served_by="large")

    assert (
        "2 attempts: small (first): timeout after 900 ms; large (fallback): served it after 300 ms." in text
    )
    assert "In the end 'large' served it." in text


def test_many_arms_are_not_all_listed() -> None:
    """A sentence stays one."""
    arms = [f"arm{number}" for number in range(30)]
    text = _text(arms=arms, probabilities=[1 / 30] * 30, filtered=dict.fromkeys(arms, "unavailable"))

    assert "and 20 more" in text
    assert all(len(line) < 700 for line in text.splitlines())


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_ODD = _VALUES | st.lists(_VALUES, max_size=3) | st.dictionaries(st.text(max_size=3), _VALUES, max_size=3)


@given(
    st.dictionaries(st.sampled_from([*sorted(DRAWN), "filtered", "served_by", "guard_lost", "stopped"]), _ODD)
)
def test_events_of_other_versions_do_no_harm(fields: dict[str, Any]) -> None:
    """Whatever a field holds, there are sentences and no error."""
    for data in (fields, DRAWN | fields):
        assert all(isinstance(sentence, str) for sentence in explain(data))


def test_fixed_shares_are_not_called_learned() -> None:
    """Where the route does not learn, nothing is said about learning."""
    said = " ".join(
        explain(
            {
                "route": "chat",
                "arm": "old",
                "baseline_arm": "old",
                "reason": "bandit",
                "policy": "fixed",
                "arms": ["old", "new"],
                "probabilities": [0.7, 0.3],
                "propensity": 0.7,
            }
        )
    )

    assert "fixed shares" in said
    assert "had learned" not in said
    assert "old 70 %, new 30 %" in said
