"""``routes``, ``explain`` and ``audit`` against a server that answers by script."""

import json
from urllib.parse import parse_qsl

import yaml

from tests.proxy.cli.conftest import Script


def side(percentage: float, *arms: str) -> dict[str, object]:
    return {
        "percentage": percentage,
        "policy": "thompson",
        "baseline": "large",
        "arms": [
            {
                "id": arm,
                "model": arm,
                "upstream": None,
                "variant": "default",
                "parameters": {},
                "percentage": 50.0,
            }
            for arm in arms
        ],
    }


def table(script: Script, **route: object) -> None:
    rows = [{"name": "chat", "match": ["gpt-*"], "control": side(87.5, "small", "large"), **route}]
    script.on("GET", "/api/v1/routes", {"table_version": 9, "config_hash": "abc", "routes": rows})


def test_routes_show_both_sides_and_the_stage(script, ask) -> None:
    """Whose rollout, how far, and what each side does."""
    rollout = {
        "id": "ro_1", "percentage": 12.5, "optimization": "opt_1", "name": "cheaper", "status": "paused",
        "reason": "approval", "stage": 1, "stages": 4, "stage_started_at": 1_700_000_000.0,
    }  # fmt: skip
    deployed = [
        {"optimization": "opt_0", "name": "older", "strategy": "manual", "deployed_at": 1_600_000_000.0}
    ]
    table(script, rollout=rollout, deployed=deployed, candidate=side(12.5, "small"))

    text = ask("routes").output

    assert "chat  (thompson, matches gpt-*)" in text
    assert "changed by opt_0 (older, manual) since 2020-09-13 12:26:40" in text
    assert "rollout of opt_1 (cheaper) paused (approval), stage 2 of 4 since 2023-11-14 22:13:20" in text
    assert text.index("control: 87.5 %") < text.index("candidate: 12.5 %")


def test_routes_without_a_rollout_or_with_one_that_is_over(script, ask) -> None:
    """No sides; or the id alone, which is all that the table knows."""
    table(script, rollout=None, deployed=[])
    assert "control:" not in ask("routes").output

    table(script, rollout={"id": "ro_9", "percentage": 1.0}, candidate=side(1.0, "small"))
    assert "rollout ro_9" in ask("routes").output


def test_routes_say_what_decisions_look_at(script, ask) -> None:
    """By request, or only learned so far."""
    context = {"features_version": "1-ab", "size": 34, "words": False, "by_request": True}
    table(script, context=context)
    assert "decides by 34 features of a request (1-ab); the shares are means" in ask("routes").output

    table(script, context=context | {"by_request": False})
    assert "looks at 34 features of a request (1-ab); which are only learned so far" in ask("routes").output


def test_arms_show_how_constraints_are_kept(script, ask) -> None:
    """What is asked, expected and happening, and what can not be kept."""
    kept = [
        {"name": "cost", "target": 0.001, "expected": 0.0014, "actual": 0.0016, "multiplier": 310.25,
         "feasible": False},
        {"name": "quality", "target": 0.9, "expected": 0.91, "actual": None, "multiplier": 0.0, "feasible": True},
    ]  # fmt: skip
    steering = {"chat": {"kept": kept, "gain": 0.4}}
    script.on("GET", "/api/v1/arms", {"table_version": 1, "arms": [], "steering": steering})

    lines = ask("arms", "--route", "chat").output.splitlines()

    cost, quality = (next(line for line in lines if word in line) for word in ("cost <=", "quality >="))
    for words in ("0.001000 USD", "0.001400 USD", "0.001600 USD", "310.2", "can not be kept"):
        assert words in cost
    for words in ("0.900", "0.910", " - "):
        assert words in quality
    assert "can not" not in quality


def test_explain_prints_sentences_and_json_the_event(script, ask) -> None:
    """People and programs."""
    event = {
        "id": "req_01",
        "data": {"arm": "small"},
        "explanation": ["It asked for 'x'.", "It fell on 'small'."],
    }
    script.on("GET", "/api/v1/decisions/req_01", event)

    assert ask("explain", "req_01").output == "It asked for 'x'.\nIt fell on 'small'.\n"
    assert json.loads(ask("explain", "req_01", "-o", "json").output) == event
    assert yaml.safe_load(ask("explain", "req_01", "-o", "yaml").output) == event


def test_explain_takes_ids_only(script, ask) -> None:
    """Nothing that would become another path."""
    result = ask("explain", "../keys")

    assert result.exit_code == 2
    assert not script.asked


def test_audit_shows_rows_and_how_to_go_on(script, ask) -> None:
    """Filters go to the server."""
    rows = [
        {"id": "evt_2", "at": 1_700_000_000.0, "actor": "admin key 1a2b3c4d", "action": "optimization.rollback",
         "target": "opt_1", "detail": {"reason": "worse\x1b[31m", "stage": 2, "plan": None}},
    ]  # fmt: skip
    script.on("GET", "/api/v1/audit", {"audit": rows, "next": "evt_2"})

    text = ask("audit", "--target", "opt_1", "--action", "optimization.rollback", "--before", "evt_3").output

    assert dict(parse_qsl(script.last("GET").path.partition("?")[2])) == {
        "limit": "50", "before": "evt_3", "action": "optimization.rollback", "target": "opt_1"
    }  # fmt: skip
    for words in (
        "2023-11-14 22:13:20",
        "admin key 1a2b3c4d",
        "optimization.rollback",
        "stage=2",
        "--before evt_2",
    ):
        assert words in text
    assert "\x1b" not in text
    assert "plan" not in text


def test_an_empty_audit(script, ask) -> None:
    """Says so."""
    script.on("GET", "/api/v1/audit", {"audit": [], "next": None})

    assert ask("audit").output == "nothing\n"
