"""``llm-optimizer optimize``: create, see, deploy, watch and take back optimizations of a running server."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import click

from proxy.cli import optimization_view as view
from proxy.cli.client import AdminClient
from proxy.cli.following import Outcome, follow, headline, outcome, proposed, screen_for
from proxy.cli.optimization_options import (
    Stages,
    complete_ids,
    complete_routes,
    complete_strategies,
    parameter,
    read_parameters,
)
from proxy.cli.options import Duration
from proxy.cli.output import TABLE, emit, hint, output_option, say
from proxy.cli.server import server_options

STRATEGIES: Final = (
    "model_selection",
    "prompt_optimization",
    "cost_reduction",
    "latency_optimization",
    "multi_objective",
    "manual",
)
STATUSES: Final = (
    "collecting", "proposed", "running", "paused", "deployed", "rolled_back", "aborted", "superseded", "deleted",
)  # fmt: skip

_BASE: Final = "/api/v1/optimize"

_EXIT_STATUSES: Final = """
    \b
    Exit status: 0 deployed, 1 error, 2 usage, 3 rolled back, 4 aborted, 5 waits for a person (paused, or proposed and
    not asked to deploy), 6 timeout, 7 superseded or deleted.
"""

_id_argument = click.argument("optimization_id", metavar="ID", shell_complete=complete_ids)
_reason_option = click.option("--reason", help="Why, for the audit and for whoever looks at it next.")
_yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_watch_option = click.option("--watch", is_flag=True, help="Follow it until the outcome is known.")
_timeout_option = click.option(
    "--timeout",
    type=Duration(bare=True),
    metavar="S",
    help="Stop following after this long (seconds, or 10m, 2h); exit status 6. [default: never]",
)


class _InOrder(click.Group):
    """A group that lists its commands in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names as they were added."""
        del ctx
        return list(self.commands)


@click.group("optimize", cls=_InOrder)
def optimize() -> None:
    """Create optimizations, deploy them gradually, watch them, take them back.

    An optimization is a change to one route: a strategy proposes it from what was measured, a rollout brings it to
    traffic in stages, and guards that compare with the rest of the traffic take it back by themselves.

    \b
    Examples:
      llm-optimizer optimize create --name "Cost Optimization" --strategy cost_reduction
      llm-optimizer optimize list
      llm-optimizer optimize deploy opt_0123 --stages 1:300,10:600,50:900,100 --watch
      llm-optimizer optimize rollback opt_0123 --reason "answers are too short"
    """


@optimize.command("create", short_help="Ask a strategy for a change.")
@click.option("--name", required=True, help="What people will call it.")
@click.option(
    "--strategy",
    required=True,
    shell_complete=complete_strategies(STRATEGIES),
    help=f"How a change is found: {', '.join(STRATEGIES)}.",
)
@click.option(
    "--route", shell_complete=complete_routes, help="Which route to change. [default: the only one there is]"
)
@click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    type=parameter,
    metavar="KEY=VALUE",
    help="A parameter of the strategy; repeatable. A value may be JSON.",
)
@click.option(
    "--parameters",
    "file",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE|-",
    help="Parameters from a JSON or YAML file; --param wins over it.",
)
@click.option("--deploy", "deploy_it", is_flag=True, help="Deploy it as soon as there is a proposal.")
@click.option("--wait", is_flag=True, help="Wait for the proposal; with --deploy, for the outcome.")
@_timeout_option
@output_option
@server_options
def create(
    server: AdminClient,
    form: str,
    *,
    name: str,
    strategy: str,
    route: str | None,
    params: tuple[tuple[str, Any], ...],
    file: Any,
    deploy_it: bool,
    wait: bool,
    timeout: float | None,
) -> None:
    """Ask a strategy for a change, and print what it proposes, what deploying it would risk and how long it takes.

    Nothing changes for any request until it is deployed. Where there is not enough data yet, the answer says how much
    is missing, and the strategy goes on looking.

    \b
    Examples:
      llm-optimizer optimize create --name "Cost Optimization" --strategy cost_reduction
      llm-optimizer optimize create --name cheaper --strategy cost_reduction --route chat \\
          -p target_reduction=0.40 -p quality_threshold=0.95
      llm-optimizer optimize create --name prompts --strategy prompt_optimization --parameters test.yaml --wait
      llm-optimizer optimize create --name large --strategy manual -p 'arms=["large"]' --deploy --wait

    With --wait the exit status is that of `optimize status --watch`; a proposal is success without --deploy.
    """
    wanted: dict[str, Any] = {"name": name, "strategy": strategy}
    if route is not None:
        wanted["route"] = route
    wanted["parameters"] = {**(read_parameters(file) if file is not None else {}), **dict(params)}
    if deploy_it:
        wanted["deploy"] = True
    row = server.post(_BASE, wanted)
    if not wait:
        emit(row, form, lambda: _made(row))
        return
    if form == TABLE:
        say(headline(row))
    end = _followed(server, row["id"], form, timeout, until=outcome if deploy_it else proposed)
    emit(end[0], form, lambda: _made(end[0]))
    sys.exit(end[1])


@optimize.command("list", short_help="Show optimizations.")
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(STATUSES),
    help="Only those in this status; repeatable. [default: all but deleted]",
)
@click.option("--strategy", shell_complete=complete_strategies(STRATEGIES), help="Only of this strategy.")
@click.option("--route", shell_complete=complete_routes, help="Only of this route.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="At most so many.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Leave out so many.")
@output_option
@server_options
def listing(server: AdminClient, form: str, *, status: tuple[str, ...], **filters: Any) -> None:
    """Show optimizations, the newest first."""
    wanted = {**filters, "status": ",".join(status) or None}
    query = urlencode({name: value for name, value in wanted.items() if value is not None})
    answer = server.get(f"{_BASE}?{query}")
    emit(answer, form, lambda: view.listing(answer))


@optimize.command("status", short_help="Show one, or follow it with --watch.", epilog=_EXIT_STATUSES)
@_id_argument
@_watch_option
@_timeout_option
@output_option
@server_options
def status(
    server: AdminClient, form: str, *, optimization_id: str, watch: bool, timeout: float | None
) -> None:
    """Show one optimization: status and why, proposal, stages, what the guards see, what to do next.

    With --watch it is followed until nothing more happens by itself, and the exit status is the outcome. Without it
    the exit status is 0 whenever the optimization exists.
    """
    if watch:
        _watch(server, optimization_id, form, timeout)
    row = server.get(_path(optimization_id))
    emit(row, form, lambda: view.detail(row))


@optimize.command("deploy", short_help="Bring the proposal to traffic, stage by stage.")
@_id_argument
@click.option(
    "--stages",
    type=Stages(),
    help="Own stages: PERCENT[:SECONDS[:SAMPLES]],... such as 1:300,10:600,50:900,100.",
)
@click.option("--no-canary", is_flag=True, help="All traffic at once, without stages.")
@_reason_option
@_watch_option
@_timeout_option
@output_option
@server_options
def deploy(
    server: AdminClient,
    form: str,
    *,
    optimization_id: str,
    stages: list[dict[str, Any]] | None,
    no_canary: bool,
    reason: str | None,
    watch: bool,
    timeout: float | None,
) -> None:
    """Bring the proposal to traffic, stage by stage; guards take it back when it is worse.

    Before there is a proposal this is remembered, and it deploys as soon as there is one.

    \b
    Examples:
      llm-optimizer optimize deploy opt_0123
      llm-optimizer optimize deploy opt_0123 --stages 0.5:10m,5:10m,50:1h,100
      llm-optimizer optimize deploy opt_0123 --watch --timeout 2h

    With --watch the exit status is that of `optimize status --watch`.
    """
    if stages is not None and no_canary:
        raise click.UsageError("--stages and --no-canary exclude each other.")
    body: dict[str, Any] = {}
    if stages is not None:
        body["canary"] = {"enabled": True, "stages": stages}
    if no_canary:
        body["canary"] = {"enabled": False}
    _do(server, "deploy", optimization_id, form, body, reason=reason, watch=watch, timeout=timeout)


@optimize.command("promote", short_help="Go on to the next stage, or to all traffic.")
@_id_argument
@click.option("--full", is_flag=True, help="Skip every stage that is left: all traffic now.")
@_yes_option
@_reason_option
@_watch_option
@_timeout_option
@output_option
@server_options
def promote(
    server: AdminClient,
    form: str,
    *,
    optimization_id: str,
    full: bool,
    yes: bool,
    reason: str | None,
    watch: bool,
    timeout: float | None,
) -> None:
    """Go on to the next stage now, whatever the guards still wait for; also approves what waits for a person.

    --full asks for confirmation on a terminal: it gives the candidate all traffic without any further check.
    """
    revision = None
    if full and _asks(yes):
        row = server.get(_path(optimization_id))
        _confirm(f"{headline(row)}\nGive it all of {row['route']} now?")
        revision = row.get("revision")
    body = {"full": True} if full else {}
    _do(
        server, "promote", optimization_id, form, body,
        reason=reason, watch=watch, timeout=timeout, revision=revision,
    )  # fmt: skip


def _verb(name: str, short: str, text: str, *, watched: bool = False) -> None:
    """Add a verb that needs nothing but the id."""

    def run(
        server: AdminClient, form: str, *, optimization_id: str, reason: str | None, **follow: Any
    ) -> None:
        _do(server, name, optimization_id, form, {}, reason=reason, **follow)

    options = [
        server_options,
        output_option,
        *((_timeout_option, _watch_option) if watched else ()),
        _reason_option,
    ]
    command: Callable[..., Any] = run
    for option in (*options, _id_argument):
        command = option(command)
    optimize.command(name, help=text, short_help=short)(command)


_verb(
    "pause",
    "Hold a running rollout where it is.",
    "Hold a running rollout where it is: its share of the traffic stays, no stage follows, guards go on.",
)
_verb(
    "resume", "Go on with a paused one.", "Go on with a paused rollout, in the stage it was in.", watched=True
)
_verb(
    "rollback",
    "Undo it.",
    "Undo it, in whatever stage it is and after it was deployed: within half a second the route is what it was "
    "before, on every worker. Works while the database is away.",
)
_verb(
    "abort",
    "Take it out of traffic and keep it out.",
    "Take the candidate out of traffic and keep it out: only `retry` starts it again.",
)
_verb(
    "retry",
    "Start again after a rollback or an abort.",
    "Start again from the first stage after a rollback or an abort, with other users in it than before.",
    watched=True,
)


@optimize.command("delete", short_help="Remove one that changes nothing.")
@_id_argument
@_yes_option
@_reason_option
@output_option
@server_options
def delete(server: AdminClient, form: str, *, optimization_id: str, yes: bool, reason: str | None) -> None:
    """Remove an optimization that changes nothing (any more); roll a running or deployed one back first.

    On a terminal it asks for confirmation. The audit keeps what was done.
    """
    revision = None
    if _asks(yes):
        row = server.get(_path(optimization_id))
        _confirm(f"{headline(row)}\nDelete it?")
        revision = row.get("revision")
    query = f"?{urlencode({'reason': reason})}" if reason is not None else ""
    answer = server.delete(_path(optimization_id) + query, revision=revision)
    emit(answer, form, lambda: say(f"deleted: {optimization_id}"))


def _do(
    server: AdminClient,
    verb: str,
    optimization_id: str,
    form: str,
    body: Mapping[str, Any],
    *,
    reason: str | None,
    watch: bool = False,
    timeout: float | None = None,
    revision: int | None = None,
) -> None:
    """Ask for a verb and show what came of it."""
    document = {**body, "reason": reason} if reason is not None else dict(body)
    answer = server.post(f"{_path(optimization_id)}/{verb}", document, revision=revision)
    if watch:
        _watch(server, optimization_id, form, timeout)
    emit(answer, form, lambda: _done(server, optimization_id))


def _done(server: AdminClient, optimization_id: str) -> None:
    row = server.get(_path(optimization_id))
    say(headline(row))
    if row["status"] in ("collecting", "proposed") and row.get("auto_deploy"):
        say("It deploys as soon as there is a proposal and the route is free.")
    for command, purpose in view.next_steps(row):
        hint(command, purpose)


def _made(row: Mapping[str, Any]) -> None:
    view.detail(row)
    if row.get("plan") is not None and row["status"] in ("collecting", "proposed"):
        say("")
        for sentence in view.exposure(row["plan"]):
            say(sentence)


def _watch(server: AdminClient, optimization_id: str, form: str, timeout: float | None) -> None:
    row, result = _followed(server, optimization_id, form, timeout, until=outcome)
    if form != TABLE:
        emit(row, form, lambda: None)
    elif result is Outcome.TIMEOUT:
        say(f"timeout: it goes on; llm-optimizer optimize status {optimization_id}", err=True)
    else:
        for command, purpose in view.next_steps(row):
            hint(command, purpose)
    sys.exit(result)


def _followed(
    server: AdminClient,
    optimization_id: str,
    form: str,
    timeout: float | None,
    *,
    until: Callable[[Mapping[str, Any]], Outcome | None],
) -> tuple[Mapping[str, Any], Outcome]:
    # Beside JSON and YAML progress goes to stderr: stdout is one document.
    aside = form != TABLE
    stream = sys.stderr if aside else sys.stdout
    screen = screen_for(terminal=stream.isatty(), stderr=aside)
    path = _path(optimization_id)
    try:
        return follow(lambda: server.get(path), screen, until=until, timeout_s=timeout)
    except KeyboardInterrupt:
        say(f"no longer watching; it goes on: llm-optimizer optimize status {optimization_id}", err=True)
        sys.exit(130)


def _path(optimization_id: str) -> str:
    return f"{_BASE}/{quote(optimization_id, safe='')}"


def _asks(yes: bool) -> bool:
    return not yes and sys.stdin.isatty()


def _confirm(question: str) -> None:
    first, _, last = question.rpartition("\n")
    say(first, err=True)
    click.confirm(last, abort=True, err=True)
