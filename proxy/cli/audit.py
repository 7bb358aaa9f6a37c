"""``llm-optimizer audit``: who changed what, and when."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import click

from proxy.cli.client import AdminClient
from proxy.cli.output import emit, moment, named, output_option, print_table, say
from proxy.cli.server import server_options


@click.command("audit")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many.")
@click.option("--before", metavar="MARK", help="The next page, as the last one named it.")
@click.option("--actor", help="Only what this actor did: optimizer, local, 'admin key 1a2b3c4d'.")
@click.option("--action", help="Only this action, such as optimization.rollback or keys.create.")
@click.option("--target", help="Only what was done to this id.")
@output_option
@server_options
def audit(server: AdminClient, form: str, **filters: Any) -> None:
    """Show every change that a person, a program or the optimizer made, the newest first.

    \b
    Examples:
      llm-optimizer audit
      llm-optimizer audit --target opt_0123
      llm-optimizer audit --action optimization.rollback -o json
    """
    query = urlencode({name: value for name, value in filters.items() if value is not None})
    answer = server.get(f"/api/v1/audit?{query}")
    emit(answer, form, lambda: _table(answer))


def _table(answer: Mapping[str, Any]) -> None:
    rows = answer["audit"]
    if not rows:
        say("nothing")
        return
    print_table(
        ("when", "who", "did", "to", "detail"),
        [
            (moment(row["at"]), row["actor"], row["action"], row["target"], named(row.get("detail") or {}))
            for row in rows
        ],
        fixed=("when", "did"),
    )
    if answer.get("next"):
        say(f"older ones: --before {answer['next']}")
