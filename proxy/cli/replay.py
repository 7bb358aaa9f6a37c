"""``llm-optimizer replay``: what another policy would have cost on the logged requests, and how good it would be."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import click

from optimizer.replaying.candidate import fixed_target
from optimizer.replaying.refusal import ReplayRefused
from optimizer.replaying.replay import Replay, replay, sentences, usable
from optimizer.replaying.rows import COST, METRICS, QUALITY, Decisions
from optimizer.replaying.targets import Target
from policies.offpolicy import METHODS, Estimate
from proxy.cli.learning_candidate import learning_target
from proxy.cli.offline import Grid, Page, jsonable, keep, left_out, log_options, progress, read_log, show
from proxy.cli.output import emit, output_option
from proxy.cli.plotting import Plot, cross, plot_option, whisker

_NAMES: Mapping[str, str] = {
    "dr": "doubly robust",
    "dr_stabilised": "stabilised",
    "snips": "self-normalised",
    "ips": "importance",
    "switch": "switch",
    "clipped": "clipped",
    "dm": "model only",
}


@click.command("replay")
@click.option(
    "--policy",
    "policy_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML: `arm: NAME`, `probabilities: {ARM: SHARE}`, or keys of a route block.",
)
@click.option("--route", metavar="NAME", help="Which route; needed when the log has several.")
@log_options
@plot_option
@output_option
def replay_command(
    form: str,
    *,
    policy_file: Path,
    route: str | None,
    log: Path,
    since: float | None,
    until: float | None,
    rater: str | None,
    plot_file: Path | None,
) -> None:
    """Estimate what another policy would have cost on the requests in a log, and how good it would have been.

    Nothing is sent anywhere: outcomes come from the requests that were drawn at random, weighted by how likely the
    other policy makes them. It says so when the log can not tell (exit status 3).

    \b
    Examples:
      llm-optimizer replay --policy candidate.yaml
      llm-optimizer replay --log backup/state --policy candidate.yaml --since 7d --plot replay.svg
      echo 'arm: gpt-4o-mini' > cheap.yaml && llm-optimizer replay --policy cheap.yaml -o json
    """
    doc = _document(policy_file)
    found = read_log(log, route=route, since=since, until=until, rater=rater)
    if len(found) > 1:
        raise click.ClickException(
            f"The log has several routes; choose one with --route: {', '.join(found)}."
        )
    (decisions,) = found.values()
    try:
        target, decisions = _target(doc, decisions, policy_file.stem)
    except ReplayRefused as refused:
        raise click.ClickException(str(refused)) from refused
    with progress("estimating") as tell:
        report = replay(decisions, target, progress=tell)
    page = _page(report)
    emit({**jsonable(report), "words": sentences(report)}, form, lambda: show(page))
    if plot_file is not None:
        keep(plot_file, f"{report.policy} on {report.route}", page)
    if report.refused:
        raise SystemExit(3)


def _document(path: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - slow to import

    try:
        doc = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise click.ClickException(f"cannot read {path}: {error}") from error
    if not isinstance(doc, dict) or not doc:
        raise click.ClickException(
            f"{path} must say `arm: NAME`, `probabilities: {{ARM: SHARE}}`, or keys of a route block."
        )
    return doc


def _target(doc: Mapping[str, Any], decisions: Decisions, name: str) -> tuple[Target, Decisions]:
    fixed = fixed_target(doc, decisions.arms, name=name)
    if fixed is not None:
        return fixed, usable(decisions, fixed)
    with progress("learning along the log") as tell:
        return learning_target(doc, decisions, name, tell)


def _page(report: Replay) -> Page:
    page: list[str | Grid | Plot] = [*sentences(report), *report.notes, *left_out(report.left_out)]
    if not report.metrics:
        return page
    metrics = [report.metrics[metric] for metric in METRICS if report.metrics[metric].known]
    rows = [[_NAMES[method], *(_cell(found.estimates[method]) for found in metrics)] for method in METHODS]
    rows.append(["as logged", *(_cell(found.logged) for found in metrics)])
    page.append(Grid(["estimated", *(found.metric for found in metrics)], rows))
    if not report.refused:
        page.extend(_plots(report))
    return page


def _plots(report: Replay) -> list[Plot]:
    cost, quality = report.metrics[COST], report.metrics[QUALITY]
    if not cost.known or cost.refused:
        return []
    logged, other = _interval(cost.logged), _interval(cost.headline)
    if quality.known and not quality.refused:
        return [
            Plot(
                "quality (up) against USD per request (right), 95 % intervals",
                (
                    cross("as logged", logged, _interval(quality.logged)),
                    cross(report.policy, other, _interval(quality.headline)),
                ),
            )
        ]
    return [
        Plot(
            "USD per request, 95 % intervals",
            (whisker("as logged", logged, 2.0), whisker(report.policy, other, 1.0)),
        )
    ]


def _interval(found: Estimate) -> tuple[float, float, float]:
    if not isfinite(found.low):
        return found.mean, found.mean, found.mean
    return found.low, found.mean, found.high


def _cell(found: Estimate) -> str:
    if not isfinite(found.mean):
        return "-"
    return f"{found.mean:.4g} ± {1.96 * found.error:.2g}" if isfinite(found.error) else f"{found.mean:.4g}"
