"""Plays the seeds of ``llm-optimizer simulate``, side by side, and prints what came of them."""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from optimizer.settings import Constraints
from optimizer.simulating.experiment import Experiment, Trial, perform, trial
from optimizer.simulating.playing import Feedback
from optimizer.simulating.product import product_loop
from proxy.cli.output import console
from proxy.cli.recorded import BadRecording, Recording, read
from proxy.cli.simulated_policy import ROUTE, Asked, BadPolicy, experiment
from proxy.cli.simulated_report import answer, as_csv, show
from proxy.config.problems import ConfigProblems, describe_problems, problems_of_block


def run(data: Path, form: str, seeds: int, category: str | None, options: Mapping[str, Any]) -> None:
    """The whole command; ``options`` by the names of its parameters.

    Raises:
        click.ClickException: A file is not what it should be.
    """
    try:
        recording = read(data, category=category)
        burn_in = _burn_in(options["burn_in"], category)
        played = experiment(recording, _asked(options, burn_in))
    except BadRecording as bad:
        raise click.ClickException(f"{data}: {bad}") from bad
    except BadPolicy as bad:
        raise click.ClickException(str(bad)) from bad
    except ConfigProblems as refused:
        own = problems_of_block(refused.problems, "routes", ROUTE)
        raise click.ClickException(describe_problems(own, origin="the policy")) from refused
    numbers = list(range(seeds))
    result = answer(played, numbers, _play(played, numbers))
    if form == "json":
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    elif form == "csv":
        click.echo(as_csv(result), nl=False)
    else:
        show(result)


def _asked(options: Mapping[str, Any], burn_in: Recording | float) -> Asked:
    reduction = options["target_reduction"]
    return Asked(
        policy=options["policy"],
        constraints=Constraints(
            cost_per_request_usd=options["cost_target"],
            cost_ratio=None if reduction is None else 1.0 - reduction,
            max_request_usd=options["max_request_usd"],
            quality_floor=options["quality_floor"],
            quality_ratio=options["quality_threshold"],
            latency_p95_ms=options["latency_p95_ms"],
        ),
        burn_in=burn_in,
        feedback=Feedback(options["feedback_rate"], options["feedback_delay"]),
        baseline=options["baseline"],
    )


def _burn_in(text: str, category: str | None) -> Recording | float:
    try:
        share = float(text)
    except ValueError:
        path = Path(text)
        if not path.is_file():
            raise click.BadParameter(
                f"{text!r} is neither a file nor a share.", param_hint="--burn-in"
            ) from None
        try:
            return read(path, category=category)
        except BadRecording as bad:
            raise click.ClickException(f"{path}: {bad}") from bad
    if not 0.0 <= share < 1.0:
        raise click.BadParameter("a share lies in [0, 1).", param_hint="--burn-in")
    return share


def _play(played: Experiment, seeds: list[int]) -> list[Trial]:
    """Every seed, side by side where there are cores for it, with a progress bar on a terminal."""
    screen = console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        if len(seeds) == 1:
            total = len(played.burn_in) * played.passes + len(played.report)
            task = progress.add_task("requests", total=total)
            return [_one(played, seeds[0], lambda done: progress.update(task, completed=done))]
        task = progress.add_task("seeds", total=len(seeds))
        found = []
        with ProcessPoolExecutor(min(len(seeds), os.cpu_count() or 1)) as pool:
            for result in pool.map(partial(_one, played), seeds):
                found.append(result)
                progress.advance(task)
        return found


def _one(played: Experiment, seed: int, show: Callable[[int], None] | None = None) -> Trial:
    _, course = perform(played, product_loop, seed, show)
    limit = played.route.constraints.latency_p95_ms
    return trial(course, played.world.arms, limit_s=None if limit is None else limit / 1000.0)
