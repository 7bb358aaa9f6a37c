"""Following one optimization until its outcome is known, and the exit status that says it.

The loop knows neither the screen nor the clock: it asks once a second, hands every answer to a screen, and tolerates a
server that is away for a while, because a rollout outlives the optimizer process.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from proxy.cli.client import Away, Refused
from proxy.cli.optimization_view import present_stage, samples, share, stage_words, verdicts
from proxy.cli.output import console, percent, plain, say, span

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

POLL_S: Final = 1.0
PATIENCE_S: Final = 60.0
"""How long a server may be away in a row before following it ends."""

_QUIET_S: Final = 30.0
"""A plain line at least this often, so that a log shows that somebody still looks."""


class Outcome(IntEnum):
    """Exit statuses of a command that follows (1 and 2 are those of every command: error, usage)."""

    DEPLOYED = 0
    ERROR = 1
    ROLLED_BACK = 3
    ABORTED = 4
    WAITS = 5
    TIMEOUT = 6
    GONE = 7


_OUTCOMES: Final[Mapping[str, Outcome]] = {
    "deployed": Outcome.DEPLOYED,
    "rolled_back": Outcome.ROLLED_BACK,
    "aborted": Outcome.ABORTED,
    "paused": Outcome.WAITS,
    "superseded": Outcome.GONE,
    "deleted": Outcome.GONE,
}


class Screen(AbstractContextManager["Screen"], Protocol):
    """Where progress is shown."""

    def update(self, row: Mapping[str, Any]) -> None:
        """The newest answer."""
        ...

    def note(self, text: str) -> None:
        """Something to say beside it."""
        ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Monotonic seconds, and waiting."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def outcome(row: Mapping[str, Any]) -> Outcome | None:
    """What came of it; None while it goes on by itself."""
    if row["status"] == "proposed" and not row.get("auto_deploy"):
        return Outcome.WAITS
    return _OUTCOMES.get(row["status"])


def proposed(row: Mapping[str, Any]) -> Outcome | None:
    """The same where only a proposal is waited for: having one is success."""
    return Outcome.DEPLOYED if row["status"] in ("proposed", "running") else outcome(row)


def follow(
    fetch: Callable[[], Mapping[str, Any]],
    screen: Screen,
    *,
    until: Callable[[Mapping[str, Any]], Outcome | None] = outcome,
    timeout_s: float | None = None,
    clock: Clock | None = None,
) -> tuple[Mapping[str, Any], Outcome]:
    """Ask until the outcome is known; the last answer with it.

    Raises:
        Refused: The first call fails, or the server stays away.
    """
    clock = clock if clock is not None else Clock()
    begun = clock.now()
    row = fetch()
    heard = clock.now()
    with screen:
        screen.update(row)
        while (result := until(row)) is None:
            if timeout_s is not None and clock.now() - begun >= timeout_s:
                return row, Outcome.TIMEOUT
            clock.sleep(POLL_S)
            try:
                row = fetch()
            except Away as away:
                if clock.now() - heard >= PATIENCE_S:
                    raise
                screen.note(away.message.split("\n", 1)[0])
                continue
            except Refused as refused:
                if refused.status != 404:
                    raise
                return {**row, "status": "deleted"}, Outcome.GONE
            heard = clock.now()
            screen.update(row)
        return row, result


def screen_for(*, terminal: bool, stderr: bool = False) -> Screen:
    """A picture that moves on a terminal, lines anywhere else."""
    return LiveScreen(console(stderr=stderr)) if terminal else LineScreen(err=stderr)


class LineScreen:
    """A line for every change, and one now and then."""

    def __init__(self, *, err: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._err = err
        self._clock = clock
        self._shown: tuple[object, ...] = ()
        self._shown_at = 0.0
        self._noted = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, row: Mapping[str, Any]) -> None:
        """Print when something has changed."""
        self._noted = ""
        state = (row["status"], row.get("reason"), stage_words(row), share(row))
        if state == self._shown and self._clock() - self._shown_at < _QUIET_S:
            return
        self._shown, self._shown_at = state, self._clock()
        say(headline(row), err=self._err)

    def note(self, text: str) -> None:
        """Print it once in a row."""
        if text != self._noted:
            say(text, err=True)
        self._noted = text


class LiveScreen:
    """Stages with bars and the guards' verdicts, redrawn in place."""

    def __init__(self, target: "Console", now: Callable[[], float] = time.time) -> None:
        from rich.live import Live  # noqa: PLC0415 - only on a terminal

        self._live = Live(console=target, auto_refresh=False, transient=False)
        self._now = now
        self._row: Mapping[str, Any] | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, row: Mapping[str, Any]) -> None:
        """Redraw."""
        self._row = row
        self._live.update(picture(row, self._now()), refresh=True)

    def note(self, text: str) -> None:
        """Redraw with the text below."""
        from rich.console import Group  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        shown = [picture(self._row, self._now())] if self._row is not None else []
        self._live.update(Group(*shown, Text(plain(text), style="yellow")), refresh=True)


def headline(row: Mapping[str, Any]) -> str:
    """One line: where it stands and why."""
    words = [f"{row['id']} {row['status']}"]
    if row.get("reason"):
        words[0] += f" ({row['reason']})"
    if stage_words(row):
        words.append(f"stage {stage_words(row)}")
    if row["status"] in ("running", "paused", "deployed"):
        words.append(f"{percent(share(row))} of {row['route']}")
    stage, count = present_stage(row), samples(row)
    if row["status"] == "running" and stage is not None and count is not None:
        words.append(f"{count:,.0f} of {stage.get('min_samples', 0):,} samples")
    text = ", ".join(words)
    return f"{text}: {row['explanation']}" if row.get("explanation") else text


def picture(row: Mapping[str, Any], now: float) -> "RenderableType":
    """The same with a bar for every stage. ``now`` in Unix seconds."""
    from rich.console import Group  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    colour = {
        "deployed": "green",
        "paused": "yellow",
        "rolled_back": "red",
        "aborted": "red",
    }.get(row["status"], "cyan")
    parts: list[RenderableType] = [Text(plain(headline(row)), style=colour)]
    rollout = row.get("rollout")
    if rollout:
        bars = Table.grid(padding=(0, 2))
        for index, stage in enumerate(rollout["plan"]["stages"]):
            done, words = _progress(row, index, stage, now)
            bars.add_row(
                Text(f"  {index + 1}"),
                Text(percent(stage["percentage"])),
                ProgressBar(total=1.0, completed=done, width=30),
                Text(words),
            )
        parts.append(bars)
    found = verdicts(row)
    if found:
        table = Table(box=None, pad_edge=False)
        for column in ("  check", "verdict", "candidate", "control", "limit", "samples"):
            table.add_column(column)
        style = {"fail": "red", "pass": "green"}
        for name, verdict, *cells in found:
            table.add_row(Text(f"  {name}"), Text(verdict, style=style.get(verdict, "")), *map(Text, cells))
        parts.append(table)
    return Group(*parts)


def _progress(row: Mapping[str, Any], index: int, stage: Mapping[str, Any], now: float) -> tuple[float, str]:
    """How much of a stage is done (0..1), and in words."""
    rollout = row["rollout"]
    if row["status"] == "deployed" or index < rollout["stage"]:
        return 1.0, "passed"
    if index > rollout["stage"]:
        return 0.0, ""
    if row["status"] != "running":
        return 0.0, str(row["status"]).replace("_", " ")
    lasts = float(stage.get("duration_s") or 0.0)
    elapsed = max(0.0, now - float(rollout.get("stage_started_at") or now))
    words = f"{span(elapsed)} of {span(lasts)}" if lasts else span(elapsed)
    done = min(1.0, elapsed / lasts) if lasts else 1.0
    count, wanted = samples(row), float(stage.get("min_samples") or 0)
    if count is not None and wanted:
        words += f", {count:,.0f} of {wanted:,.0f} samples"
        done = min(done, count / wanted)
    return min(done, 0.99), words
