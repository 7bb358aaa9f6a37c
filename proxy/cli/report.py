"""``llm-optimizer report``: what the log says about the past, with error bars."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from optimizer.replaying.candidate import find_arm
from optimizer.replaying.counterfactual_savings import Saved, SavingsReport, savings, together, usual_baseline
from optimizer.replaying.refusal import ReplayRefused
from optimizer.replaying.rows import Decisions
from proxy.cli.offline import Grid, Page, jsonable, keep, left_out, log_options, progress, read_log, show
from proxy.cli.output import emit, moment, output_option
from proxy.cli.plotting import Plot, Series, plot_option


@click.group("report")
def report() -> None:
    """Look back over the event log.

    \b
    Examples:
      llm-optimizer report savings
      llm-optimizer report savings --baseline gpt-4o --since 30d --plot savings.svg
    """


@report.command("savings")
@click.option("--baseline", metavar="ARM", help="Compare with this arm. [default: each route's baseline]")
@click.option("--route", metavar="NAME", help="Only this route. [default: all]")
@log_options
@plot_option
@output_option
def savings_command(
    form: str,
    *,
    baseline: str | None,
    route: str | None,
    log: Path,
    since: float | None,
    until: float | None,
    rater: str | None,
    plot_file: Path | None,
) -> None:
    """Estimate what was saved against one arm for everything, per day and with error bars.

    Only requests whose arm was drawn at random count; what the baseline would have cost for them is estimated from
    those that it got, weighted by how likely that was. It says so when the log can not tell (exit status 3).
    """
    found = _with_arm(read_log(log, route=route, since=since, until=until, rater=rater), baseline)
    reports = {}
    with progress("comparing") as tell:
        for done, (name, decisions) in enumerate(found.items()):
            reports[name] = savings(decisions, _baseline(decisions, baseline))
            tell(done + 1, len(found))
    answer = {
        "total": _saved(together(reports)),
        "routes": {name: _answer(found) for name, found in reports.items()},
    }
    page = [block for found in reports.values() for block in _page(found)]
    if len(reports) > 1:
        judged = sum(not found.refused for found in reports.values())
        if judged:
            which = "All routes" if judged == len(reports) else f"The {judged} with a verdict"
            page.append(f"{which} together: {_words(together(reports))}")
    emit(jsonable(answer), form, lambda: show(page))
    if plot_file is not None:
        keep(plot_file, "savings", page)
    if all(found.refused for found in reports.values()):
        raise SystemExit(3)


def _with_arm(found: Mapping[str, Decisions], baseline: str | None) -> Mapping[str, Decisions]:
    """Of several routes those that have the arm; the others are named."""
    if baseline is None or len(found) == 1:
        return found
    without = []
    kept = {}
    for name, decisions in found.items():
        try:
            find_arm(baseline, decisions.arms)
        except ReplayRefused:
            without.append(name)
        else:
            kept[name] = decisions
    if not kept:
        known = sorted({arm for decisions in found.values() for arm in decisions.arms})
        raise click.ClickException(f"No route has an arm {baseline!r}. The log has: {', '.join(known)}.")
    if without:
        click.echo(f"Left out, because they have no arm {baseline!r}: {', '.join(without)}.", err=True)
    return kept


def _baseline(decisions: Decisions, given: str | None) -> str:
    if given is None:
        usual = usual_baseline(decisions)
        if usual is None:
            raise click.ClickException(
                f"Route {decisions.route!r} logged no baseline; name one with --baseline: "
                f"{', '.join(sorted(decisions.arms))}."
            )
        return usual
    try:
        return find_arm(given, decisions.arms)
    except ReplayRefused as refused:
        raise click.ClickException(f"Route {decisions.route!r}: {refused}") from refused


def _page(found: SavingsReport) -> Page:
    page: list[str | Grid | Plot] = []
    opening = f"Route {found.route!r} against {found.baseline!r} for everything: "
    if found.refused:
        page.append(f"{opening}no verdict: {found.refused}")
    else:
        page.append(opening + _words(found.total))
        gap = found.quality_gap
        if gap is not None and gap.refused:
            page.append(f"No verdict on quality: {gap.refused}")
        elif gap is not None:
            page.append(f"Quality differs by {gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}).")
    page.extend((*found.notes, *left_out(found.left_out)))
    if found.days:
        header = (
            "day (UTC)",
            "requests",
            "paid USD",
            "baseline USD",
            "saved USD",
            "95 % interval",
            "effective",
        )
        page.append(Grid(header, [_day(at, day) for at, day in found.days.items()]))
    if len(found.days) > 1 and not found.refused:
        days = found.days
        lines = (
            ("saved", [day.saved_usd for day in days.values()]),
            ("low", [day.low_usd for day in days.values()]),
            ("high", [day.high_usd for day in days.values()]),
        )
        page.append(
            Plot(
                f"USD saved per day on {found.route}, 95 % intervals",
                tuple(Series(name, y=values, at=tuple(days)) for name, values in lines),
            )
        )
    return page


def _day(at: int, day: Saved) -> tuple[Any, ...]:
    return (
        moment(at)[:10],
        f"{day.requests:,}",
        f"{day.actual_usd:.4g}",
        f"{day.baseline_usd:.4g}",
        f"{day.saved_usd:.4g}",
        f"{day.low_usd:.4g} to {day.high_usd:.4g}",
        f"{day.effective:,.0f}",
    )


def _words(total: Saved) -> str:
    return (
        f"saved {total.saved_usd:.4g} USD ({total.low_usd:.4g} to {total.high_usd:.4g}), "
        f"{100 * total.share:.1f} % of {total.baseline_usd:.4g} USD, over {total.requests:,} requests."
    )


def _saved(total: Saved) -> dict[str, Any]:
    return {
        "requests": total.requests,
        "actual_usd": total.actual_usd,
        "baseline_usd": total.baseline_usd,
        "saved_usd": total.saved_usd,
        "low_usd": total.low_usd,
        "high_usd": total.high_usd,
        "error_usd": total.error_usd,
        "share": total.share,
        "effective": total.effective,
    }


def _answer(found: SavingsReport) -> Mapping[str, Any]:
    return {
        "baseline": found.baseline,
        "refused": found.refused,
        "total": _saved(found.total),
        "days": {moment(at)[:10]: _saved(day) for at, day in found.days.items()},
        "quality_gap": found.quality_gap,
        "served_by_baseline": found.served_by_baseline,
        "left_out": found.left_out,
        "notes": found.notes,
    }
