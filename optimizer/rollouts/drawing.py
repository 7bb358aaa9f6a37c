"""The rollout page, drawn from the table: ``python -m optimizer.rollouts.drawing > docs/rollouts.md``.

A test compares the page with what this module writes, so it can't say anything else than the machine does.
"""

import sys
from collections.abc import Iterable
from typing import Final

from optimizer.rollouts.records import OVERLAYING, SPLITTING, Status
from optimizer.rollouts.transitions import EITHER, OPTIMIZER, PERSON, TRANSITIONS, Transition

_HEAD: Final = """\
# Rollouts

<!-- Written by `python -m optimizer.rollouts.drawing > docs/rollouts.md`.
     To change something change optimizer/rollouts/transitions.py or optimizer/rollouts/drawing.py. -->

An optimization proposes a change to one route and brings it to traffic: in stages, watched by guards, and back again
when a guard fails. Everything that may happen to it is a row of one table; the picture and the lists below are drawn
from that table.

"""
_STATES: Final = {
    Status.COLLECTING: "There is no proposal yet; the reason says what is missing.",
    Status.PROPOSED: "There is a proposal with its evidence; nothing has reached traffic.",
    Status.RUNNING: "The route is split: the stage's share of units gets the candidate.",
    Status.PAUSED: "The share is frozen at the stage's; guards go on and may roll back.",
    Status.DEPLOYED: "The candidate is the route.",
    Status.ROLLED_BACK: "Taken back, by a guard or a person.",
    Status.ABORTED: "Stopped by a person; only `retry` leads out.",
    Status.SUPERSEDED: "The file changed below it, or the route below it did.",
    Status.DELETED: "Gone from every list; events and audit keep its history.",
}
_REASONS: Final = (
    ("`manual`", "paused", "A person paused it."),
    ("`insufficient`", "paused", "The stage got too little traffic within `max_wait_sec`."),
    ("`approval`", "paused", "The stages below 100 % passed and a person is to decide; `promote` goes on."),
    ("`baseline_over_threshold`", "paused", "Control breaks the absolute threshold too."),
    ("`baseline_failing`", "paused", "Requests fail on both sides."),
    ("`srm`", "paused", "The units were not split as they should have been."),
    ("`guard:NAME`", "rolled_back", "The guard of that name failed."),
    ("`hard_stop`", "rolled_back", "A worker stopped the candidate after errors in a row."),
    ("`rollback_requested`", "rolled_back", "A person asked for it."),
    ("`abort_requested`", "aborted", "A person asked for it."),
    ("`file_changed`", "superseded", "The file's values under the change were edited."),
    ("`arm_vanished`", "superseded", "The file no longer gives the route an arm that the change names."),
    ("`route_vanished`", "superseded", "The file no longer has the route."),
    (
        "`covered`",
        "superseded",
        "Newer deployments change all that it changes; the newest four such are kept for a rollback, older ones end.",
    ),
    ("`route_taken`", "superseded", "Two databases were joined and both had a rollout on the route."),
)
_ORDER: Final = """
## The order of writes

- **give**: database (committed) → event log → disk → table. If one of them does not confirm, nothing is given, and what
  was before is written again with a higher revision (`withhold`), because the outcome of a commit may be unknown. A
  command gets 503 then.
- **take**: event log → table; then disk and database in the background, for as long as it takes. Nothing is waited for,
  so a rollback works with a dead or silent database. If the table can't be written, it is tried again several times a
  second; meanwhile there is no guard file, so that workers leave every candidate at their next look. Events that the
  log does not take are offered to it again.
- **neutral**: event log; database in the background.

Every transition is one event `optimization.transition.v1` with the whole new record and the id
`OPTIMIZATION:REVISION`. Wherever two places differ the highest revision is right: replaying the log in any order,
reading the last table, or joining with the database gives the same records. A new process joins all of them before it
publishes, and writes to each what it lacks. After a restart the first change of a record leaves out some revisions,
because the process before may have reserved some that nobody has heard of yet.

## Rules

- A route has one rollout at a time; a second `deploy` is a conflict that names the first. Deployed changes stack in the
  order of their deployment, and rolling one back takes off only that one.
- A stage passes when its duration is over, its samples are there and no guard failed. Too little traffic goes on to
  `max_wait_sec` (ten times the duration unless it says otherwise) and then pauses.
- A stage of 100 % without a duration is no stage: the change is deployed instead.
- `retry` draws its units anew; within one attempt a unit that got the candidate keeps it through all stages.
- The optimizer does not propose again what was rolled back or aborted while the configuration is the same; shares that
  differ by less than a tenth of the traffic are the same change.
- A change of the file ends what no longer fits it: rollouts and deployed changes become `superseded`, proposals are
  withdrawn and made anew.
"""
_WHO: Final = {PERSON: "a person", OPTIMIZER: "the optimizer", EITHER: "either"}


def page() -> str:
    """The whole page as Markdown."""
    return "".join((_HEAD, _picture(), _states(), _table(), _reasons(), _ORDER))


def _picture() -> str:
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {row.target}: {row.verb}" for row in TRANSITIONS if not row.sources]
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in TRANSITIONS:
        for source in row.sources:
            if row.target is not None:
                label = _label(row)
                labels = arrows.setdefault((str(source), str(row.target)), [])
                if label not in labels:
                    labels.append(label)
    lines += [
        f"    {source} --> {target}: {', '.join(labels)}" for (source, target), labels in arrows.items()
    ]
    lines.append("    deleted --> [*]")
    return "\n".join((*lines, "```", ""))


def _label(row: Transition) -> str:
    return f"{row.verb} (full)" if row.condition is not None and row.condition.text == "`full`" else row.verb


def _states() -> str:
    rows = ((f"`{status}`", _share(status), _verbs(status), meaning) for status, meaning in _STATES.items())
    return "\n## States\n\n" + _rows(("State", "Candidate's share", "A person may", "Meaning"), rows)


def _share(status: Status) -> str:
    if status in SPLITTING:
        return "the stage's"
    return "all" if status in OVERLAYING else "none"


def _verbs(status: Status) -> str:
    verbs = dict.fromkeys(row.verb for row in TRANSITIONS if status in row.sources and row.who != OPTIMIZER)
    return ", ".join(f"`{verb}`" for verb in verbs) or "nothing"


def _table() -> str:
    rows = (
        (
            f"`{row.verb}`",
            "any" if set(row.sources) == set(Status) else ", ".join(row.sources) or "nothing",
            "the same" if row.target is None else str(row.target),
            str(row.direction),
            _WHO[row.who],
            row.meaning + (f" When {row.condition.text}." if row.condition is not None else ""),
        )
        for row in TRANSITIONS
    )
    return "\n## Transitions\n\n" + _rows(("Verb", "From", "To", "Traffic", "Who", "Meaning"), rows)


def _reasons() -> str:
    return "\n## Reasons\n\n" + _rows(("Reason", "State", "Meaning"), _REASONS)


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
