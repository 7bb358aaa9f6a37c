"""``llm-optimizer optimize`` against a server that answers by script: what is asked, what is printed, exit statuses."""

import json

import pytest
import yaml

from tests.proxy.cli.conftest import BASE, at_stage, optimization

PATH = f"{BASE}/opt_1"


def test_the_guides_create_line(script, ask) -> None:
    """Name and strategy are enough; what it proposes, its risk and its time are printed."""
    script.on("POST", BASE, optimization(), status=201)

    result = ask("optimize", "create", "--name", "Cost Optimization", "--strategy", "cost_reduction")

    assert result.exit_code == 0, result.output
    assert script.last("POST").body == {
        "name": "Cost Optimization", "strategy": "cost_reduction", "parameters": {}
    }  # fmt: skip
    for words in (
        "opt_1  Cost Optimization",
        "half of the requests to small",
        "0.002 USD",
        "-0.0009 USD",
        "-3 points .. +1 points",
        "large: 4,210 requests, small: 812 requests",
        "12.35 USD a day",
        "1 % -> 12.5 % -> 100 %",
        "at least 15 min",
        "Worst case: 1 % of the requests get it for 50 min",
        "all traffic for 13 min",
        "llm-optimizer optimize deploy opt_1",
    ):
        assert words in result.output


def test_create_without_enough_data_says_what_is_missing(script, ask) -> None:
    """Not an error: the strategy goes on looking."""
    script.on(
        "POST",
        BASE,
        optimization("collecting", proposal=None, reason="not_enough_data", explanation="312 of 400."),
    )

    result = ask("optimize", "create", "--name", "x", "--strategy", "cost_reduction")

    assert result.exit_code == 0
    assert "collecting (not_enough_data)" in result.output
    assert "312 of 400." in result.output


def test_parameters_come_from_options_files_and_standard_input(script, ask, tmp_path) -> None:
    """JSON where it is JSON, else text; options win over the file."""
    script.on("POST", BASE, optimization())
    base = ("optimize", "create", "--name", "x", "--strategy", "s", "--route", "chat", "--deploy")
    file = tmp_path / "p.yaml"
    file.write_text("target_reduction: 0.4\nvariants: [a, b]\n")

    ask(*base, "-p", "target_reduction=0.5", "-p", 'arms=["a","b"]', "--param", "note=a=b", "-p", "odd=NaN",
        "--parameters", str(file))  # fmt: skip
    assert script.last("POST").body == {
        "name": "x", "strategy": "s", "route": "chat", "deploy": True,
        "parameters": {
            "target_reduction": 0.5, "variants": ["a", "b"], "arms": ["a", "b"], "note": "a=b", "odd": "NaN"
        },
    }  # fmt: skip

    ask(*base, "--parameters", "-", stdin='{"test_duration_sec": 60}')
    assert script.last("POST").body["parameters"] == {"test_duration_sec": 60}


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("-p", "target"), None, "no KEY=VALUE"),
        (("-p", "=3"), None, "no KEY=VALUE"),
        (("--parameters", "-"), "[1, 2]", "no mapping"),
        (("--parameters", "-"), "{a: [", "--parameters"),
        (("--parameters", "-"), "a: 2024-01-01", "not JSON serializable"),
        (("--parameters", "-"), "a: .nan", "JSON"),
        (("--parameters", "/nonexistent"), None, "No such file"),
    ],
)
def test_parameters_that_are_none_are_refused_here(script, ask, arguments, stdin, words) -> None:
    """Exit status 2, nothing sent."""
    result = ask("optimize", "create", "--name", "x", "--strategy", "s", *arguments, stdin=stdin)

    assert result.exit_code == 2
    assert words in result.output
    assert not script.asked


def test_every_problem_of_a_refused_request_is_shown(script, ask) -> None:
    """The API's message and a line for each."""
    problems = [
        {"path": "parameters.target", "message": "must be below 1.", "suggestion": None},
        {"path": "strategy", "message": "is unknown.", "suggestion": "Did you mean 'cost_reduction'?"},
    ]
    fault = {"error": {"code": "INVALID_REQUEST", "message": "Not valid.", "details": {"problems": problems}}}
    script.on("POST", BASE, fault, status=400)

    result = ask("optimize", "create", "--name", "x", "--strategy", "cost_reductoin")

    assert result.exit_code == 1
    assert "Error: Not valid." in result.output
    assert "parameters.target: must be below 1." in result.output
    assert "Did you mean 'cost_reduction'?" in result.output


def test_list_filters_and_pages(script, ask) -> None:
    """A row each; the query says which."""
    rows = [optimization(), at_stage(1, id="opt_2", name="[red]x[/red]\x1b[31m", reason="")]
    script.on("GET", BASE, {"optimizations": rows, "total": 9, "limit": 2, "offset": 3})

    result = ask(
        "optimize", "list", "--status", "running", "--status", "paused", "--route", "chat", "--limit", "2",
        "--offset", "3",
    )  # fmt: skip

    assert script.last("GET").path == f"{BASE}?route=chat&limit=2&offset=3&status=running%2Cpaused"
    assert "opt_2" in result.output
    assert "2 of 3" in result.output
    assert "12.5 %" in result.output
    assert "4 to 5 of 9" in result.output
    assert "[red]x[/red]" in result.output
    assert "\x1b" not in result.output


def test_an_empty_list_says_how_to_begin(script, ask) -> None:
    """The next command."""
    script.on("GET", BASE, {"optimizations": [], "total": 0, "limit": 20, "offset": 0})

    assert "optimize create" in ask("optimize", "list").output


def test_status_shows_stages_guards_and_what_to_do(script, ask) -> None:
    """The detail page."""
    row = at_stage(
        1,
        "paused",
        reason="approval",
        explanation="stage 2 of 3 passed",
        measured={
            "guards": {
                "error": {
                    "verdict": "pass",
                    "candidate": 0.021,
                    "control": 0.02,
                    "threshold": None,
                    "samples": 312,
                }
            }
        },
    )
    script.on("GET", PATH, row)

    text = ask("optimize", "status", "opt_1").output

    assert "paused (approval)" in text
    assert "stage 2 of 3 passed" in text
    assert "12.5 % of chat gets the candidate" in text
    assert "passed" in text
    assert "now" in text
    assert "0.021" in text
    assert "312" in text
    assert "llm-optimizer optimize promote opt_1" in text
    assert "llm-optimizer optimize promote opt_1 --full" in text


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (
            {
                "waits_for": "samples",
                "time_s": 40.0,
                "samples": 43.0,
                "expected_s": 90.0,
                "pauses_in_s": 600.0,
            },
            [
                "43 more outcomes of the candidate and 40 s more: about 1 min 30 s",
                "without them it pauses in 10 min",
            ],
        ),
        (
            {"waits_for": "samples", "time_s": 0.0, "samples": 43.0, "expected_s": None, "pauses_in_s": 60.0},
            ["there is no traffic now", "without them it pauses in 1 min"],
        ),
        (
            {"waits_for": "margin", "time_s": 0.0, "samples": None, "expected_s": None, "pauses_in_s": 60.0},
            ["not yet shown", "without them it pauses in 1 min"],
        ),
        (
            {"waits_for": "time", "time_s": 40.0, "samples": 0.0, "expected_s": 40.0, "pauses_in_s": 600.0},
            ["this stage needs 40 s more: about 40 s"],
        ),
        (
            {"waits_for": "", "time_s": 0.0, "samples": 0.0, "expected_s": 0.0, "pauses_in_s": 600.0},
            ["has all that it needs"],
        ),
    ],
)
def test_status_says_what_the_stage_still_needs(script, ask, needs, said) -> None:
    """In samples and time, at the present traffic."""
    found = {**needs, "explanation": "not yet shown that it is no worse"}
    script.on("GET", PATH, at_stage(0, measured={"guards": {}, "needs": found}))

    text = " ".join(ask("optimize", "status", "opt_1").output.split())

    for words in said:
        assert words in text


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_programs_get_the_answer_as_it_is(script, ask, form) -> None:
    """Nothing more, nothing less."""
    script.on("GET", PATH, optimization(name="Füße"))

    text = ask("optimize", "status", "opt_1", "-o", form).stdout

    assert (json.loads(text) if form == "json" else yaml.safe_load(text)) == optimization(name="Füße")
    assert "Füße" in text


def test_deploy_sends_the_stages_that_were_typed(script, ask) -> None:
    """Percent, seconds or a unit, samples."""
    script.on(
        "POST", f"{PATH}/deploy", {**optimization("running"), "deployment_id": "ro_1", "current_stage": 1}
    )
    script.on("GET", PATH, optimization("running"))

    result = ask(
        "optimize", "deploy", "opt_1", "--stages", "0.5:300, 10%:10m,50:900:20,100", "--reason", "friday"
    )

    assert result.exit_code == 0, result.output
    assert script.last("POST").body == {
        "canary": {
            "enabled": True,
            "stages": [
                {"percentage": 0.5, "duration_sec": 300},
                {"percentage": 10, "duration_sec": 600},
                {"percentage": 50, "duration_sec": 900, "min_samples": 20},
                {"percentage": 100},
            ],
        },
        "reason": "friday",
    }
    assert "opt_1 running, stage 1 of 3, 1 % of chat" in result.output


def test_deploy_before_there_is_a_proposal_is_remembered(script, ask) -> None:
    """Said so."""
    row = optimization("collecting", proposal=None, auto_deploy=True)
    script.on("POST", f"{PATH}/deploy", row, status=202)
    script.on("GET", PATH, row)

    assert "as soon as there is a proposal" in ask("optimize", "deploy", "opt_1").output


@pytest.mark.parametrize(
    "stages",
    ["", "0:300,100", "101", "x:1", "1:soon", "1:2:3:4", "1:300:many", "1:300,,100", "-5:1", "nan:3"],
)
def test_stages_that_are_none_are_refused_here(script, ask, stages) -> None:
    """With the form that they have."""
    result = ask("optimize", "deploy", "opt_1", "--stages", stages)

    assert result.exit_code == 2
    assert "1:300,10:600,50:900,100" in result.output
    assert not script.asked


def test_no_canary(script, ask) -> None:
    """All at once, and not together with stages."""
    script.on("POST", f"{PATH}/deploy", optimization("deployed"))
    script.on("GET", PATH, optimization("deployed"))

    assert ask("optimize", "deploy", "opt_1", "--no-canary").exit_code == 0
    assert script.last("POST").body == {"canary": {"enabled": False}}
    assert ask("optimize", "deploy", "opt_1", "--no-canary", "--stages", "100").exit_code == 2


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "abort", "retry", "rollback"])
def test_every_verb_takes_a_reason_and_prints_what_came_of_it(script, ask, verb) -> None:
    """One POST; the record afterwards."""
    script.on("POST", f"{PATH}/{verb}", optimization("paused"))
    script.on("GET", PATH, optimization("paused", reason="manual"))

    plain = ask("optimize", verb, "opt_1")
    reasoned = ask("optimize", verb, "opt_1", "--reason", "because", "-o", "json")

    assert plain.exit_code == reasoned.exit_code == 0, plain.output
    assert "opt_1 paused (manual), stage 1 of 3, 1 % of chat" in plain.output
    assert [asked.body for asked in script.asked if asked.method == "POST"] == [{}, {"reason": "because"}]
    assert json.loads(reasoned.stdout)["status"] == "paused"


def test_a_conflict_is_one_clear_line(script, ask) -> None:
    """The API's sentence, exit status 1."""
    fault = {"error": {"code": "CONFLICT", "message": "opt_9 is rolling out on chat already.", "details": {}}}
    script.on("POST", f"{PATH}/deploy", fault, status=409)

    result = ask("optimize", "deploy", "opt_1")

    assert (result.exit_code, result.output) == (1, "Error: opt_9 is rolling out on chat already.\n")


def test_ids_do_not_become_paths(script, ask) -> None:
    """A slash stays part of the id."""
    ask("optimize", "status", "../keys")

    assert script.last("GET").path == f"{BASE}/..%2Fkeys"


def test_delete_and_promote_full_ask_only_on_a_terminal(script, ask) -> None:
    """A script is not asked."""
    script.on("DELETE", PATH, {**optimization("deleted"), "message": "deleted"})
    script.on("POST", f"{PATH}/promote", optimization("deployed"))
    script.on("GET", PATH, optimization("deployed"))

    deleted = ask("optimize", "delete", "opt_1", "--reason", "old one")
    promoted = ask("optimize", "promote", "opt_1", "--full")

    assert deleted.exit_code == promoted.exit_code == 0, deleted.output + promoted.output
    assert "deleted: opt_1" in deleted.output
    assert script.last("POST").body == {"full": True}


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([at_stage(0), at_stage(1), optimization("deployed")], 0),
        ([at_stage(0), optimization("rolled_back", reason="guard:error")], 3),
        ([optimization("aborted")], 4),
        ([optimization("paused", reason="approval")], 5),
        ([optimization("proposed")], 5),
        ([optimization("superseded")], 7),
        ([optimization("deleted")], 7),
    ],
)
def test_watching_ends_with_the_outcome(script, ask, answers, status) -> None:
    """The exit status tells it."""
    script.on("GET", PATH, *answers)

    result = ask("optimize", "status", "opt_1", "--watch")

    assert result.exit_code == status, result.output
    assert len(result.output.splitlines()) >= len(answers)


def test_a_timeout_has_a_status_of_its_own(script, ask) -> None:
    """And says that it goes on."""
    script.on("GET", PATH, at_stage(0))

    result = ask("optimize", "status", "opt_1", "--watch", "--timeout", "0")

    assert result.exit_code == 6
    assert "it goes on" in result.output


def test_watching_what_does_not_exist_is_an_error(script, ask) -> None:
    """Not an outcome."""
    assert ask("optimize", "status", "opt_0", "--watch").exit_code == 1


def test_watching_for_a_program_prints_one_document(script, ask) -> None:
    """Progress goes to stderr."""
    script.on("POST", f"{PATH}/deploy", at_stage(0))
    script.on("GET", PATH, at_stage(0), optimization("rolled_back", reason="hard_stop"))

    result = ask("optimize", "deploy", "opt_1", "--watch", "-o", "json")

    assert result.exit_code == 3
    assert json.loads(result.stdout)["status"] == "rolled_back"
    assert "stage 1 of 3" in result.stderr


def test_create_can_wait_for_the_proposal_or_the_outcome(script, ask) -> None:
    """Without --deploy a proposal is success; with it the outcome counts."""
    create = ("optimize", "create", "--name", "x", "--strategy", "s", "--wait")
    collecting = optimization("collecting", proposal=None, reason="not_enough_data")
    script.on("POST", BASE, collecting)
    script.on("GET", PATH, collecting, optimization("proposed"))
    proposed = ask(*create)
    script.on("GET", PATH, optimization("proposed", auto_deploy=True), optimization("rolled_back"))
    rolled_back = ask(*create, "--deploy")
    script.on("GET", PATH, collecting)
    late = ask(*create, "--timeout", "0s")

    assert proposed.exit_code == 0, proposed.output
    assert "half of the requests to small" in proposed.output
    assert rolled_back.exit_code == 3
    assert late.exit_code == 6
