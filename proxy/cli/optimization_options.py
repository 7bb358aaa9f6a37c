"""What ``optimize`` takes: parameters, stages, and what the shell completes."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TextIO
from urllib.parse import urlencode

import click

from proxy.cli.client import Refused
from proxy.cli.options import seconds_of
from proxy.cli.server import KEY_VARIABLE, STATE_VARIABLE, URL_VARIABLE, Target

_COMPLETION_TIMEOUT_S: Final = 1.0
"""A shell that waits longer for a Tab is annoying."""

Complete = Callable[[click.Context, click.Parameter, str], list[Any]]


class Stages(click.ParamType[list[dict[str, Any]]]):
    """``PERCENT[:DURATION[:SAMPLES]],...`` as the API's list of stages."""

    name = "stages"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """How help names it."""
        del param, ctx
        return "STAGES"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[dict[str, Any]]:
        """The stages; fails on the first that is none."""
        if not isinstance(value, str):
            return list(value)
        try:
            return [_stage(part) for part in value.split(",")]
        except ValueError as error:
            self.fail(f"{error} Stages look like 1:300,10:600,50:900,100 (percent:seconds).", param, ctx)


def parameter(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``; the value is JSON where it is JSON, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise click.BadParameter(f"{text!r} is no KEY=VALUE.")
    try:
        return name.strip(), json.loads(value, parse_constant=_no_constant)
    except ValueError:
        return name.strip(), value


def read_parameters(file: TextIO) -> Mapping[str, Any]:
    """The parameters that a JSON or YAML file holds."""
    import yaml  # noqa: PLC0415 - only when asked for

    try:
        found = yaml.safe_load(file.read())
        json.dumps(found, allow_nan=False)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise click.BadParameter(f"{file.name}: {why}", param_hint="--parameters") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise click.BadParameter(
            f"{file.name} holds no mapping of names to values.", param_hint="--parameters"
        )
    return found


def complete_strategies(names: Sequence[str]) -> Complete:
    """Completion among ``names``."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        del ctx, param
        return [name for name in names if name.startswith(incomplete)]

    return complete


def complete_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Ids of the running server's optimizations, with name and status; none when it does not answer."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - in the shell's Tab only

    del param
    answer = _ask(ctx, f"/api/v1/optimize?{urlencode({'limit': 100})}")
    return [
        CompletionItem(row["id"], help=f"{row['status']}: {row['name']}")
        for row in answer.get("optimizations", ())
        if row["id"].startswith(incomplete)
    ]


def complete_routes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of the running server's routes."""
    del param
    answer = _ask(ctx, "/api/v1/routes")
    return [row["name"] for row in answer.get("routes", ()) if row["name"].startswith(incomplete)]


def _ask(ctx: click.Context, path: str) -> Mapping[str, Any]:
    given = {name: ctx.params.get(name) for name in ("state_dir", "url", "key_file", "key")}
    for option in ctx.command.params:
        # Completion stops before defaults and environment are looked at.
        if given.get(option.name or "") is None and option.envvar in (
            URL_VARIABLE,
            KEY_VARIABLE,
            STATE_VARIABLE,
        ):
            given[str(option.name)] = option.type_cast_value(ctx, option.value_from_envvar(ctx))
    try:
        answer = Target(**given).connect(_COMPLETION_TIMEOUT_S).get(path)
    except Refused:
        return {}
    return answer if isinstance(answer, dict) else {}


def _stage(text: str) -> dict[str, Any]:
    parts = text.strip().split(":")
    if len(parts) > 3:
        raise ValueError(f"{text.strip()!r} has more than percentage, duration and samples.")
    try:
        percentage = float(parts[0].strip().removesuffix("%"))
    except ValueError:
        percentage = math.nan
    if not 0 < percentage <= 100:
        raise ValueError(f"{parts[0].strip()!r} is no percentage above 0 and up to 100.")
    stage: dict[str, Any] = {"percentage": percentage}
    if len(parts) > 1:
        seconds = seconds_of(parts[1], bare=True)
        if seconds is None:
            raise ValueError(f"{parts[1].strip()!r} is no duration such as 300 or 5m.")
        stage["duration_sec"] = seconds
    if len(parts) > 2:
        if not parts[2].strip().isdecimal():
            raise ValueError(f"{parts[2].strip()!r} is no number of samples.")
        stage["min_samples"] = int(parts[2])
    return stage


def _no_constant(name: str) -> Any:
    raise ValueError(name)
