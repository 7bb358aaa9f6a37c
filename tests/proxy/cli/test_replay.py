"""`replay` and `report savings` on a log that was written like a worker's."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from optimizer import events
from optimizer.feedback import Feedback, to_event
from optimizer.ids import RequestIds
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, WriterBounds, encode, event_source
from proxy.cli import main

NOON = 1_795_000_000.0
ARMS = ("small", "large")
COST = (0.001, 0.004)
QUALITY = (0.6, 0.8)


def write_log(
    path: Path,
    n: int,
    *,
    shares: tuple[float, float] = (0.5, 0.5),
    route: str = "auto",
    arms: Sequence[str] = ARMS,
) -> Path:
    """A state directory with ``n`` rated requests, one a minute; returns it."""
    state = StateDirectory(path)
    incarnation = state.allocate_incarnation()
    ids = RequestIds(node=state.node, incarnation=incarnation, key=state.id_key)
    source = event_source(state.node, "worker", incarnation)
    writer = LogWriter(
        state.log_directory,
        node=state.node,
        incarnation=incarnation,
        role="worker",
        bounds=WriterBounds(reserve_bytes=0),
    )
    rng = np.random.default_rng(0)
    for row in range(n):
        at = NOON + 60.0 * row
        arm = int(rng.random() >= shares[0])
        request_id = ids.mint(int(at * 1000))
        data = {
            "route": route,
            "arm": ARMS[arm],
            "baseline_arm": "large",
            "arms": arms,
            "probabilities": (*shares, *(0.0 for _ in arms[2:])),
            "propensity": shares[arm],
            "model_key": f"key-{ARMS[arm]}",
            "variant_key": "key-default",
            "reason": "bandit",
            "randomised": True,
            "outcome": events.COMPLETED,
            "started_ms": int(at * 1000),
            "duration_ms": 300.0 * (arm + 1),
            "cost_usd": COST[arm] * rng.uniform(0.5, 1.5),
        }
        writer.append(encode(request_id, events.REQUEST, source, int(at * 1000), data))
        rating = Feedback(request_id, None, "quality", float(rng.random() < QUALITY[arm]), "user", 0)
        event_id, said = to_event(rating, request_id=request_id)
        writer.append(encode(event_id, events.FEEDBACK, source, int(at * 1000) + 5, said))
    writer.close()
    return path


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("node") / "state", 3000)


@pytest.fixture
def run(state: Path, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command with ``--log`` and, if given, a policy file of that content."""

    def ran(*arguments: str, policy: object = None, log: Path | None = None) -> Result:
        given = [*arguments, "--log", str(log or state)]
        if policy is not None:
            file = tmp_path / "candidate.yaml"
            file.write_text(policy if isinstance(policy, str) else yaml.safe_dump(policy))
            given += ["--policy", str(file)]
        return CliRunner().invoke(main, given)

    return ran


def test_one_arm_for_everything(run: Callable[..., Result]) -> None:
    """Sentences, a table with every method, and a plot."""
    result = run("replay", policy={"arm": "small"})

    assert result.exit_code == 0, result.output
    assert "Cost per request: 0.00" in result.output
    assert "doubly robust" in result.output
    assert "as logged" in result.output
    assert "█" in result.output or "▀" in result.output or "▐" in result.output


def test_every_number_is_in_the_json(run: Callable[..., Result]) -> None:
    """What a script reads: estimates near the truth, and null where a method has no interval."""
    result = run("replay", "-o", "json", policy={"probabilities": {"small": 0.75, "large": 0.25}})

    answer = json.loads(result.stdout)
    cost = answer["metrics"]["cost_usd"]
    assert answer["policy"] == "candidate"
    assert cost["estimates"]["dr"]["mean"] == pytest.approx(0.75 * 0.001 + 0.25 * 0.004, rel=0.05)
    assert cost["estimates"]["dm"]["low"] is None
    assert answer["requests"] == 3000
    assert answer["words"]


def test_a_policy_that_learns_keeps_its_budget(run: Callable[..., Result]) -> None:
    """Keys of a route block are a policy; its replayed cost is near its target, between the two arms."""
    policy = {"objectives": ["quality"], "constraints": {"cost_per_request_usd": 0.002}}

    result = run("replay", "-o", "json", policy=policy)

    assert result.exit_code == 0, result.output
    cost = json.loads(result.stdout)["metrics"]["cost_usd"]["estimates"]["dr"]["mean"]
    assert cost == pytest.approx(0.002, rel=0.1)


def test_a_fixed_policy_of_a_route_block_needs_no_learning(run: Callable[..., Result]) -> None:
    """`policy: {type: fixed}` is the shares it names."""
    fixed = {"policy": {"type": "fixed", "probabilities": {"small": 1.0}}}

    one, other = (run("replay", "-o", "json", policy=policy) for policy in (fixed, {"arm": "small"}))

    assert one.exit_code == 0, one.output
    assert json.loads(one.stdout)["metrics"] == json.loads(other.stdout)["metrics"]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"arm": "smal"}, "Did you mean 'small'"),
        ({"probabilities": {"small": 0.5}}, "sum to 1"),
        ({"arm": "small", "context": True}, "stands alone"),
        ({"policy": "ucb"}, "only `thompson` and `fixed`"),
        ({"objektives": ["quality"]}, "did you mean"),
        ({"arms": ["tiny"]}, "has no arm 'tiny'"),
        ({"context": True}, "no features"),
        ("- a list", "must say"),
        ("{", "cannot read"),
    ],
)
def test_a_candidate_that_is_none_is_explained(run: Callable[..., Result], policy: object, said: str) -> None:
    """One sentence, exit status 1, nothing on stdout."""
    result = run("replay", policy=policy)

    assert result.exit_code == 1, result.output
    assert said.lower() in result.stderr.lower()
    assert result.stdout == ""


def test_too_little_is_no_verdict(run: Callable[..., Result], tmp_path: Path) -> None:
    """Exit status 3, and the sentence says what is missing."""
    log = write_log(tmp_path / "few", 300)

    result = run("replay", policy={"arm": "small"}, log=log)

    assert result.exit_code == 3
    assert "No verdict" in result.output
    assert "200 are needed" in result.output


def test_a_log_with_several_routes_asks_which(run: Callable[..., Result], tmp_path: Path) -> None:
    """Routes are not mixed."""
    log = write_log(tmp_path / "two", 500)
    write_log(tmp_path / "two", 500, route="other")

    asked = run("replay", policy={"arm": "small"}, log=log)
    answered = run("replay", "--route", "other", policy={"arm": "small"}, log=log)

    assert asked.exit_code == 1
    assert "auto, other" in asked.stderr
    assert answered.exit_code == 0, answered.output


@pytest.mark.parametrize("name", ["page.svg", "page.html"])
def test_the_page_is_written_and_asks_nothing_of_a_network(
    run: Callable[..., Result], tmp_path: Path, name: str
) -> None:
    """Table and plot in one file that loads nothing."""
    result = run("replay", "--plot", str(tmp_path / name), policy={"arm": "small"})

    page = (tmp_path / name).read_text()
    assert result.exit_code == 0, result.output
    assert "doubly" in page
    assert "url(http" not in page
    assert "src=" not in page
    assert "<script" not in page


def test_a_page_of_another_kind_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    """Before anything is read."""
    result = run("replay", "--plot", str(tmp_path / "page.pdf"), policy={"arm": "small"})

    assert result.exit_code == 2
    assert ".svg or .html" in result.stderr


def test_savings_are_shown_by_day(run: Callable[..., Result], tmp_path: Path) -> None:
    """Against the route's baseline: sentence, days, plot, file."""
    page = tmp_path / "savings.svg"

    result = run("report", "savings", "--plot", str(page))

    assert result.exit_code == 0, result.output
    assert "against 'large' for everything: saved" in result.output
    assert "Quality differs by -0." in result.output
    assert "2026-11-1" in result.output
    assert page.exists()


def test_savings_as_json_hold_the_truth(run: Callable[..., Result]) -> None:
    """3,000 requests that would have cost .004 each; days add up to the total."""
    result = run("report", "savings", "-o", "json")

    answer = json.loads(result.stdout)
    total = answer["routes"]["auto"]["total"]
    assert total["requests"] == 3000
    assert abs(total["baseline_usd"] - 12.0) < 4.5 * total["error_usd"]
    assert total["saved_usd"] == pytest.approx(total["baseline_usd"] - total["actual_usd"])
    days = answer["routes"]["auto"]["days"].values()
    assert sum(day["requests"] for day in days) == 3000


def test_savings_against_any_arm(run: Callable[..., Result]) -> None:
    """Against `small` the mixture has cost money, and the sign says so; unknown arms are refused."""
    cheap = json.loads(run("report", "savings", "--baseline", "small", "-o", "json").stdout)
    unknown = run("report", "savings", "--baseline", "tiny")

    assert cheap["total"]["saved_usd"] < 0.0
    assert unknown.exit_code == 1
    assert "no arm 'tiny'" in unknown.stderr


def test_savings_leave_out_routes_without_the_arm(run: Callable[..., Result], tmp_path: Path) -> None:
    """One route lacks it: the others are compared; and the total says of how many it speaks."""
    both = write_log(tmp_path / "both", 1500)
    write_log(both, 100, route="few", arms=("large", "small", "medium"))

    one = run("report", "savings", "--baseline", "medium", log=both)
    all_of_them = run("report", "savings", log=both)

    assert "no arm 'medium': auto" in one.stderr
    assert "Route 'few'" in one.output
    assert "Route 'auto'" not in one.output
    assert one.exit_code == 3
    assert "The 1 with a verdict together" in all_of_them.output


def test_ratings_of_nobody_are_said_to_be_none(run: Callable[..., Result]) -> None:
    """A rater that is misspelt must not look like quality that nobody asked about."""
    result = run("report", "savings", "--rater", "judge@1")

    assert "No rating of these requests is by judge@1." in result.output


def test_mistakes_of_a_candidate_are_named_by_their_place_in_its_file(run: Callable[..., Result]) -> None:
    """Neither the line nor the path of the configuration that it is put into for checking."""
    result = run("replay", policy={"objectives": ["cost"], "constraints": {"quality_floor": 3}})

    assert "  constraints.quality_floor: should be" in result.stderr


def test_savings_without_enough_of_the_baseline_are_refused(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    """An arm with 2 % of 1,000 requests; exit status 3."""
    log = write_log(tmp_path / "rare", 1000, shares=(0.98, 0.02))

    result = run("report", "savings", log=log)

    assert result.exit_code == 3
    assert "no verdict" in result.output


def test_times_and_places_that_are_none(run: Callable[..., Result], tmp_path: Path) -> None:
    """A log that is not there, a time that is none, a time without requests."""
    empty = tmp_path / "empty"
    empty.mkdir()

    nowhere = run("replay", policy={"arm": "small"}, log=empty)
    wrong = run("report", "savings", "--since", "yesterdayish")
    before = run("report", "savings", "--until", "2020-01-01")
    day = run("report", "savings", "--since", "2026-11-19", "--until", "2026-11-20", "-o", "json")

    assert "no event log" in nowhere.stderr
    assert wrong.exit_code == 2
    assert "no request of any route" in before.stderr
    assert json.loads(day.stdout)["total"]["requests"] == 1440


def test_the_log_is_only_read(run: Callable[..., Result], state: Path) -> None:
    """Not a byte of the node's directory changes."""

    def content() -> dict[str, Any]:
        return {str(path): path.stat().st_mtime_ns for path in state.rglob("*") if path.is_file()}

    before = content()
    run("report", "savings")
    run("replay", policy={"arm": "small"})

    assert content() == before
