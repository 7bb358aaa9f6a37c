"""Following an optimization: with a clock that the test turns, and what is drawn on the way."""

import io
from collections.abc import Mapping
from typing import Any, Self

import pytest
from rich.console import Console

from proxy.cli.client import Away, Refused
from proxy.cli.following import Clock, LineScreen, LiveScreen, Outcome, follow, headline, outcome, picture
from tests.proxy.cli.conftest import at_stage, optimization

VERDICTS = {
    "guards": {
        "error": {"verdict": "fail", "candidate": 0.1, "control": 0.02, "samples": 61},
        "latency": {"verdict": "insufficient", "samples": 61},
    }
}


class Turned:
    """A clock that moves only by waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


class Seen:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    def note(self, text: str) -> None:
        self.notes.append(text)


def source(*answers: Any):
    """A fetch that gives ``answers`` in turn, the last one for ever; exceptions are raised."""
    left = list(answers)

    def fetch() -> Any:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return fetch


def test_it_asks_once_a_second_until_the_outcome_is_known() -> None:
    """Every answer reaches the screen."""
    turned, seen = Turned(), Seen()

    row, result = follow(
        source(at_stage(0), at_stage(0), at_stage(1), optimization("deployed")), seen, clock=turned.clock()
    )

    assert (row["status"], result, turned.now, len(seen.rows)) == ("deployed", Outcome.DEPLOYED, 3.0, 4)


def test_a_timeout_ends_it() -> None:
    """Where it stands is told all the same."""
    turned = Turned()

    row, result = follow(source(at_stage(1)), Seen(), timeout_s=90, clock=turned.clock())

    assert (row["status"], result, turned.now) == ("running", Outcome.TIMEOUT, 90.0)


def test_a_server_that_restarts_is_waited_for() -> None:
    """A rollout outlives the optimizer; the note is shown meanwhile."""
    turned, seen = Turned(), Seen()
    away = [Away("nobody answers")] * 40

    _, result = follow(source(at_stage(0), *away, optimization("rolled_back")), seen, clock=turned.clock())

    assert result is Outcome.ROLLED_BACK
    assert seen.notes == ["nobody answers"] * 40
    assert len(seen.rows) == 2


def test_a_server_that_stays_away_is_an_error() -> None:
    """After a minute in a row."""
    turned = Turned()

    with pytest.raises(Away):
        follow(source(at_stage(0), Away("nobody answers")), Seen(), clock=turned.clock())
    assert 60 <= turned.now <= 62


def test_the_timeout_counts_while_the_server_is_away() -> None:
    """It is a bound on the whole."""
    turned = Turned()

    _, result = follow(source(at_stage(0), Away("gone")), Seen(), timeout_s=10, clock=turned.clock())

    assert (result, turned.now) == (Outcome.TIMEOUT, 10.0)


def test_what_disappears_meanwhile_is_gone_and_other_refusals_are_errors() -> None:
    """404 after it was there."""
    turned = Turned()

    _, result = follow(source(at_stage(0), Refused("no", status=404)), Seen(), clock=turned.clock())
    assert result is Outcome.GONE
    with pytest.raises(Refused):
        follow(source(at_stage(0), Refused("no key", status=401)), Seen(), clock=turned.clock())
    with pytest.raises(Refused):
        follow(source(Refused("no", status=404)), Seen(), clock=turned.clock())


def test_a_proposal_that_deploys_by_itself_is_not_waiting_for_a_person() -> None:
    """Only the other one is."""
    assert outcome(optimization("proposed", auto_deploy=True)) is None
    assert outcome(optimization("proposed")) is Outcome.WAITS
    assert outcome(optimization("collecting")) is None


def test_lines_are_printed_for_changes_and_now_and_then(capsys) -> None:
    """Not one a second."""
    now = [0.0]
    screen = LineScreen(clock=lambda: now[0])
    with screen:
        for _ in range(65):
            screen.update(at_stage(0))
            now[0] += 1.0
        screen.update(at_stage(1))
        screen.note("nobody answers")
        screen.note("nobody answers")
        screen.update(optimization("rolled_back", reason="guard:error", explanation="10 % against 2 %"))

    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        *["opt_1 running, stage 1 of 3, 1 % of chat"] * 3,
        "opt_1 running, stage 2 of 3, 12.5 % of chat",
        "opt_1 rolled_back (guard:error): 10 % against 2 %",
    ]
    assert printed.err == "nobody answers\n"


def test_the_headline_counts_samples() -> None:
    """Of the candidate, against what the stage needs."""
    assert "61 of 100 samples" in headline(at_stage(0, measured=VERDICTS))


def test_the_picture_has_a_bar_for_every_stage_and_the_guards() -> None:
    """Drawn in place on a terminal."""
    text = io.StringIO()
    target = Console(file=text, force_terminal=True, width=100, color_system=None)
    row = at_stage(1, measured=VERDICTS)
    started = row["rollout"]["stage_started_at"]

    target.print(picture(row, started + 150.0))

    lines = text.getvalue().splitlines()
    assert "passed" in lines[1]
    assert "2 min 30 s of 10 min, 61 of 100 samples" in lines[2]
    assert "100 %" in lines[3]
    assert "error" in lines[5]
    assert "fail" in lines[5]


def test_the_live_screen_survives_everything_it_is_shown() -> None:
    """Without rollout, with notes, markup in names."""
    text = io.StringIO()
    target = Console(file=text, force_terminal=True, width=100)
    with LiveScreen(target) as screen:
        screen.note("[bold]before anything")
        screen.update(optimization("collecting", explanation="[red]not yet[/red]\x1b[2J"))
        screen.note("away")
        for status in ("running", "paused", "rolled_back", "deployed"):
            screen.update(optimization(status))

    assert "[red]not yet[/red]" in text.getvalue()
    assert "\x1b[2J" not in text.getvalue()
