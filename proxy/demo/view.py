"""How the demo looks: a live table on a terminal, plain lines elsewhere, and the summary both end with.

Invariant: every number shown comes from the tally or from the proxy's admin API; none is computed here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proxy.demo.stage import ROUTE
from proxy.demo.tally import Saving, Tally, Totals

BAR = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown at one moment. ``probabilities`` are the ones the proxy draws by now, by arm."""

    elapsed_s: float
    planned_s: float
    tally: Tally
    arms: Sequence[str]
    probabilities: Mapping[str, float] = field(default_factory=dict)

    @property
    def done(self) -> float:
        return min(self.elapsed_s / self.planned_s, 1.0)


class View(Protocol):
    """Shows frames as they come."""

    def show(self, frame: Frame) -> None:
        """Show the newest state."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class LiveView:
    """A table that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._live.start()

    def show(self, frame: Frame) -> None:
        self._live.update(_picture(frame))

    def close(self) -> None:
        self._live.stop()


class PlainView:
    """One line every few seconds, for logs and pipes."""

    def __init__(self, console: Console, *, every_s: float = 5.0) -> None:
        self._console = console
        self._every_s = every_s
        self._next_s = every_s

    def show(self, frame: Frame) -> None:
        if frame.elapsed_s < self._next_s:
            return
        self._next_s += self._every_s
        self._console.print(line(frame), markup=False, soft_wrap=True)

    def close(self) -> None:
        pass


def line(frame: Frame) -> str:
    """One frame as a line of text."""
    tally = frame.tally
    saving = tally.saving(lately=True)
    shares = tally.shares()
    leader = next(iter(shares), None)
    parts = [
        f"{frame.done:4.0%}",
        f"{tally.total.count} requests",
        f"spent ${tally.total.cost_usd:.4f}",
        f"quality {tally.total.mean_quality:.1%}",
    ]
    if leader is not None:
        parts.append(f"most used {leader} ({shares[leader]:.0%})")
    if saving is not None:
        parts.append(f"saving {saving.fraction:.0%} against always {saving.model}")
    if tally.errors:
        parts.append(f"errors {sum(tally.errors.values())}")
    return "  ".join(parts)


def _picture(frame: Frame) -> RenderableType:
    tally = frame.tally
    saving = tally.saving(lately=True)
    head = Text.assemble(
        (f"{tally.total.count}", "bold"),
        f" requests ({tally.streamed} streamed)   feedback {tally.feedback}   ",
        ("spent ", ""),
        (f"${tally.total.cost_usd:.4f}", "bold"),
        "   quality ",
        (f"{tally.total.mean_quality:.1%}", "bold"),
        f"   p50 {tally.total.p50_s * 1000:.0f} ms   errors {sum(tally.errors.values())}",
    )
    progress = Table.grid(padding=(0, 1))
    progress.add_row(
        ProgressBar(total=1.0, completed=frame.done, width=50),
        f"{frame.elapsed_s:.0f} of {frame.planned_s:.0f} s",
    )
    return Group(progress, head, _saving_text(saving, lately=True), arms_table(frame))


def arms_table(frame: Frame) -> Table:
    """One row per arm: how often it is used, and what it has shown."""
    table = Table(title=f"route {ROUTE}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("arm", no_wrap=True)
    table.add_column("share lately", no_wrap=True)
    for name in ("drawn", "requests", "quality", "$/1000", "p50 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    shares = frame.tally.shares()
    for arm in frame.arms:
        totals = frame.tally.arms.get(arm, Totals())
        share = shares.get(arm, 0.0)
        chance = frame.probabilities.get(arm)
        table.add_row(
            arm,
            f"{'█' * round(share * BAR):<{BAR}} {share:4.0%}",
            "" if chance is None else f"{chance:.1%}",
            str(totals.count),
            f"{totals.mean_quality:.1%}" if totals.count else "",
            f"{totals.mean_cost_usd * 1000:.3f}" if totals.count else "",
            f"{totals.p50_s * 1000:.0f}" if totals.count else "",
        )
    return table


def _saving_text(saving: Saving | None, *, lately: bool) -> Text:
    if saving is None:
        return Text("saving: not enough graded answers yet", style="dim")
    return Text.assemble(
        ("saving lately " if lately else "saving over the whole run "),
        (f"{saving.fraction:.0%}", "bold green" if saving.fraction > 0 else "bold red"),
        f" against always using {saving.model}, the best model here"
        f" (${saving.there_usd * 1000:.3f} per 1000 at quality {saving.there_quality:.1%};"
        f" with the optimizer ${saving.here_usd * 1000:.3f} at {saving.here_quality:.1%})",
    )


def summary(console: Console, frame: Frame) -> None:
    """The end: the table and both savings."""
    tally = frame.tally
    console.print(arms_table(frame))
    total = tally.total
    console.print(
        f"{total.count} requests ({tally.streamed} streamed), {tally.feedback} graded, "
        f"{sum(tally.errors.values())} errors, ${total.cost_usd:.4f} spent, "
        f"quality {total.mean_quality:.1%}, p50 {total.p50_s * 1000:.0f} ms",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_saving_text(tally.saving(), lately=False), soft_wrap=True)
    console.print(_saving_text(tally.saving(lately=True), lately=True), soft_wrap=True)


def what_next(console: Console, base_url: str, *, program: str, is_running: bool) -> None:
    """How to go on: by hand against the running proxy, or with a real configuration."""
    if is_running:
        console.print(
            f"\nThe proxy is running at {base_url}/v1 and goes on learning; its page is {base_url}/ui. Try:\n"
        )
        lines: tuple[str, ...] = (
            f"  curl -i {base_url}/v1/chat/completions -H 'content-type: application/json' \\",
            f"""    -d '{{"model": "{ROUTE}", "messages": [{{"role": "user", "content": "What is 6 * 7 + 1?"}}]}}'""",
            f"  {program} arms --url {base_url}",
            f"  curl {base_url}/metrics",
        )
    else:
        console.print("\nNext:\n")
        lines = (
            f"  {program} demo --keep",
            "      leaves the proxy running for curl and for a look at its page",
            f"  {program} simulate-upstream",
            "      the simulated models alone, for your staging",
            f"  {program} serve --config config.yaml",
            "      the real thing; applications set base_url to http://localhost:8080/v1",
        )
    for text in lines:
        console.print(text, markup=False, soft_wrap=True)


def open_view(console: Console) -> View:
    """The live table on a terminal, plain lines elsewhere."""
    return LiveView(console) if console.is_terminal else PlainView(console)
