"""``llm-optimizer doctor``: everything that can be checked, a line each, with a fix for what is wrong.

It changes nothing, and needs no running server: without one it says so and checks what lies on the disk.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from proxy.cli.findings import FAIL, WARN, Finding
from proxy.cli.output import TABLE, emit, output_option, plain
from proxy.cli.server import Target, target_options

_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@click.option(
    "--config",
    "config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also check this file, with the environment of this shell. [default: what was served last]",
)
@output_option
@target_options
def doctor(where: Target, form: str, *, config: Path | None) -> None:
    """Check this installation: packages, configuration, state, disk, processes, secrets, database, Kafka, clock.

    Every line is a check: ok, warn (works, but look at it) or FAIL, and what to do. Exit status 1 if something is
    broken. Nothing is changed.

    \b
    Examples:
      llm-optimizer doctor
      llm-optimizer doctor --config config.yaml
      llm-optimizer doctor --url https://llm.internal --key-file ~/.llm-admin-key
    """
    found: list[Finding] = []
    for finding in _checks(where, config):
        found.append(finding)
        if form == TABLE:
            _line(finding)
    broken = sum(finding.state == FAIL for finding in found)
    emit(
        {"healthy": not broken, "checks": [finding.plain() for finding in found]},
        form,
        lambda: _summary(found, broken),
    )
    if broken:
        raise SystemExit(1)


def _checks(target: Target, config: Path | None) -> Iterable[Finding]:
    """All checks, in the order in which one would repair."""
    # Imported here because they bring the product along, which help must not wait for.
    from proxy.cli import doctor_config, doctor_local, doctor_server  # noqa: PLC0415

    yield from doctor_local.installation()
    # With another machine's address there is nothing here to look at.
    is_here = target.url is None or target.state_dir is not None
    usable = False
    if is_here:
        for finding in doctor_local.state_directory(target.state):
            usable = finding.state != FAIL
            yield finding
    answers = False
    for finding in doctor_server.server(
        target, running=doctor_local.processes(target.state) if is_here else None
    ):
        answers = answers or (finding.check == doctor_server.ANSWERS and finding.state != FAIL)
        yield finding
    loaded, notes = doctor_config.configuration(config, target.state if usable else None)
    # A server that answers has told about its own configuration.
    if config is not None or not answers:
        yield from notes
        if loaded is not None:
            yield from doctor_config.secrets(loaded)
            yield from doctor_config.dependencies(loaded)
    if usable and not answers:
        yield from doctor_local.databases(target.state)
    if usable:
        yield from doctor_local.clock(target.state)


def _line(finding: Finding) -> None:
    word = "FAIL" if finding.state == FAIL else finding.state
    fix = f" -> {plain(finding.fix)}" if finding.fix else ""
    coloured = click.style(f"{word:<5}", fg=_COLOURS[finding.state])
    click.echo(f"{coloured} {finding.check:<14} {plain(finding.message)}{fix}")


def _summary(found: Sequence[Finding], broken: int) -> None:
    warnings = sum(finding.state == WARN for finding in found)
    words: list[Any] = [f"{len(found)} checks"]
    words += [f"{broken} broken"] if broken else []
    words += [f"{warnings} to look at"] if warnings else []
    click.echo(f"\n{', '.join(words)}" + ("" if broken or warnings else ": all is well"))
