"""``llm-optimizer rebuild``: learn all statistics again, from the local log or from the cluster's topic.

On one node it is done while nothing runs, because a server never lets go of what it has learned: the file is put aside,
and the next start reads the log from its beginning. Nothing is deleted, so it can be taken back by renaming.
"""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from proxy.cli.client import Away
from proxy.cli.output import TABLE, emit, output_option, say
from proxy.cli.server import Target, target_options

LEARNER = "learner.sqlite3"
_BESIDE = ("", "-wal", "-shm")


@click.command("rebuild")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
@target_options
def rebuild(where: Target, form: str, *, yes: bool) -> None:
    """Learn all statistics again from the events that are still kept.

    A cluster does it while it runs, from the beginning of the Kafka topic: every shard gets a new owner's start, and
    candidates wait meanwhile. A node that is alone does it while it does not run: stop it, call this, start it; it
    then reads its log from the beginning. What only expired events had taught is gone, also from the metrics' totals.
    Optimizations, keys and budgets stay as they are.

    \b
    Examples:
      llm-optimizer rebuild --state-dir /var/lib/llm-optimizer --yes
      llm-optimizer rebuild --url http://node-1:8080 --key-file ~/.llm-admin-key
    """
    answer = _in_cluster(where, form, yes=yes)
    if answer is not None:
        emit(answer, form, lambda: say(f"{len(answer['shards'])} shards are learned again; see `cluster`"))
        return
    _ask(f"Learn everything again from {where.state / 'log'}?", form, yes=yes)
    kept = _put_aside(where.state)
    emit(
        {"put_aside": str(kept)},
        form,
        lambda: say(f"{LEARNER} is now {kept.name}; the next `llm-optimizer serve` learns from the log anew"),
    )


def _in_cluster(where: Target, form: str, *, yes: bool) -> dict[str, Any] | None:
    """Told to the cluster that answers; None where no server runs on this state directory."""
    server = where.connect()
    try:
        found = server.get("/api/v1/cluster")
    except Away:
        if where.url is not None:
            raise
        return None
    if not found["enabled"]:
        raise click.ClickException(
            f"{server.where} runs and is no cluster: stop it, call this again, and start it."
        )
    _ask(f"Learn everything again, on all {len(found['shards'])} shards?", form, yes=yes)
    answer = server.post("/api/v1/cluster/rebuild", {})
    assert isinstance(answer, dict)
    return answer


def _ask(question: str, form: str, *, yes: bool) -> None:
    if yes:
        return
    if form != TABLE or not sys.stdin.isatty():
        raise click.UsageError("Say --yes: nobody can be asked here.")
    click.confirm(question, abort=True, err=True)


def _put_aside(state: Path) -> Path:
    """Rename the learner's file, with what SQLite keeps beside it; where it is now."""
    if any((state / "shards").glob("*")):
        raise click.ClickException(
            f"{state} is a node of a cluster, which keeps what it has learned in its database: "
            "ask a node that runs (--url)."
        )
    if not (state / LEARNER).is_file():
        raise click.ClickException(f"{state} has no {LEARNER}: nothing was learned there. See --state-dir.")
    with _not_served(state):
        number = 1
        while (kept := state / f"{LEARNER}.before-rebuild-{number}").exists():
            number += 1
        for suffix in _BESIDE[1:]:
            # The newest of what was learned may be beside the file; it belongs to the file by its name.
            with contextlib.suppress(FileNotFoundError):
                (state / (LEARNER + suffix)).rename(kept.with_name(kept.name + suffix))
        (state / LEARNER).rename(kept)
    return kept


@contextlib.contextmanager
def _not_served(state: Path) -> Iterator[None]:
    """Hold the lock that `serve` needs, so that none starts meanwhile.

    Raises:
        ClickException: One runs.
    """
    refusal = click.ClickException(f"`llm-optimizer serve` runs on {state}: stop it first.")
    descriptor = os.open(state / "run" / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _answers(state / "run" / "optimizer.sock"):
            raise refusal
        yield
    except BlockingIOError as error:
        raise refusal from error
    finally:
        os.close(descriptor)


def _answers(path: Path) -> bool:
    """Whether a process listens, also one that some mishap has left behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(1.0)
        try:
            asked.connect(str(path))
        except OSError:
            return False
    return True
