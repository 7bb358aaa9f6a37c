"""One optimization, or a list of them, in words and tables: what the API says, arranged for people.

A server may be newer or older than the command, so a field that is missing is left out rather than an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from proxy.cli.output import hint, moment, named, percent, plain, print_table, say, span

_NEXT: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "proposed": (("deploy", "bring it to traffic"),),
    "paused": (("resume", "go on with this stage"), ("rollback", "take the traffic back")),
    "running": (("status --watch", "see it through"), ("rollback", "take the traffic back")),
    "deployed": (("rollback", "undo it"),),
    "rolled_back": (("retry", "try again from the first stage"),),
    "aborted": (("retry", "try again from the first stage"),),
    "superseded": (("retry", "try again from the first stage"),),
}
_APPROVE: Final = (
    ("promote", "approve the next stage"),
    ("promote --full", "approve all of it"),
    ("rollback", "take the traffic back"),
)


def listing(answer: Mapping[str, Any]) -> None:
    """A page of optimizations."""
    found = answer["optimizations"]
    if not found:
        say("no optimizations: llm-optimizer optimize create --name NAME --strategy cost_reduction")
        return
    print_table(
        ("id", "status", "traffic", "route", "what"),
        [
            (
                row["id"],
                f"{row['status']} ({row['reason']})" if row.get("reason") else row["status"],
                percent(share(row)) + (f", {stage_words(row)}" if stage_words(row) else ""),
                row["route"],
                f"{row['name']} ({row['strategy']})",
            )
            for row in found
        ],
        fixed=("id", "traffic"),
    )
    total, offset = answer.get("total", len(found)), answer.get("offset", 0)
    if total > len(found):
        say(f"{offset + 1} to {offset + len(found)} of {total}: --limit and --offset show others")


def detail(row: Mapping[str, Any]) -> None:
    """Everything about one optimization that a person decides by, and what may be done next."""
    say(f"{row['id']}  {row['name']}")
    for label, words in _facts(row):
        say(f"  {label:<10} {words}")
    if row.get("proposal"):
        say("")
        proposal(row)
    rollout = row.get("rollout")
    if rollout:
        say("")
        _stages(row, rollout)
    found = verdicts(row)
    if found:
        say("")
        print_table(("check", "verdict", "candidate", "control", "limit", "samples"), found)
    steps = list(next_steps(row))
    if steps:
        say("")
        for command, purpose in steps:
            hint(command, purpose)


def proposal(row: Mapping[str, Any]) -> None:
    """What would change, what is expected of it, and on what evidence."""
    found = row["proposal"]
    say(f"Proposal: {found['summary']}")
    effects = found.get("effects") or ()
    if effects:
        sure = f"{100 * found['confidence']:g} % interval of the change"
        print_table(("metric", "baseline", "then", "change", sure), [_effect(effect) for effect in effects])
    samples = found.get("samples") or {}
    if samples:
        say("  evidence   " + ", ".join(f"{arm}: {count:,.0f} requests" for arm, count in samples.items()))
    if found.get("saving_usd_per_day") is not None:
        say(f"  saves      {found['saving_usd_per_day']:.2f} USD a day at the present traffic")


def exposure(plan: Mapping[str, Any]) -> Iterator[str]:
    """What a rollout risks at worst, and how long it takes, in sentences.

    A candidate that fails outright is stopped by the workers after a few errors, so the worst case is one that is bad
    in a way that no guard sees: it keeps a stage's share until the stage passes or its waiting time is over.
    """
    stages = [stage for stage in plan["stages"] if stage["percentage"] < 100 or _lasts(stage, "duration")]
    if not stages:
        yield "Deploying it gives it all traffic at once: the plan has no stages."
        return
    steps = " -> ".join(percent(stage["percentage"]) for stage in plan["stages"])
    least = sum(_lasts(stage, "duration") for stage in stages)
    waits = [_lasts(stage, "max_wait") or 10 * _lasts(stage, "duration") for stage in stages]
    yield f"Deploying it goes {steps} and takes at least {span(least)}, {span(sum(waits))} where traffic is scarce."
    exposed = sum(stage["percentage"] / 100 * wait for stage, wait in zip(stages, waits, strict=True))
    yield (
        f"Worst case: {percent(stages[0]['percentage'])} of the requests get it for {span(waits[0])} before the first "
        f"stage is decided; over all stages that is as much as all traffic for {span(exposed)}. A candidate that "
        "fails is taken back long before."
    )
    if plan.get("approval"):
        yield "Before it gets all traffic it waits for a person: llm-optimizer optimize promote."


def next_steps(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Commands that fit the status, with what they are for; only those that the server would take."""
    steps = _NEXT.get(row["status"], ())
    if row["status"] == "paused" and row.get("reason") == "approval":
        steps = _APPROVE
    for words, purpose in steps:
        verb, _, options = words.partition(" ")
        if verb in ("status", *row.get("verbs", (verb,))):
            yield f"llm-optimizer optimize {' '.join(filter(None, (verb, row['id'], options)))}", purpose


def share(row: Mapping[str, Any]) -> float | None:
    """Percentage of the route's traffic that gets the candidate now."""
    if row.get("candidate_percentage") is not None:
        return float(row["candidate_percentage"])
    if row["status"] == "deployed":
        return 100.0
    stage = present_stage(row)
    return float(stage["percentage"]) if stage is not None and row["status"] in ("running", "paused") else 0.0


def present_stage(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The stage that the rollout is in."""
    rollout = row.get("rollout") or {}
    stages = (rollout.get("plan") or {}).get("stages") or ()
    index = rollout.get("stage", 0)
    return stages[index] if 0 <= index < len(stages) else None


def stage_words(row: Mapping[str, Any]) -> str:
    """``2 of 4`` while it splits traffic, else nothing."""
    rollout = row.get("rollout")
    if not rollout or row["status"] not in ("running", "paused"):
        return ""
    return f"{rollout['stage'] + 1} of {len(rollout['plan']['stages'])}"


def samples(row: Mapping[str, Any]) -> float | None:
    """Resolved outcomes of the candidate in this stage; None when nobody has counted yet."""
    counts = [verdict.get("samples") for verdict in _guards(row).values()]
    known = [float(count) for count in counts if isinstance(count, int | float)]
    return max(known) if known else None


def verdicts(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What every guard said last: name, verdict, candidate, control, limit, samples of the candidate."""
    fields = ("candidate", "control", "threshold", "samples")
    return [
        (plain(name), plain(verdict.get("verdict")), *(_figure(verdict.get(field)) for field in fields))
        for name, verdict in _guards(row).items()
    ]


def needs(row: Mapping[str, Any]) -> Iterator[str]:
    """What the present stage still waits for, and how long that will take, in sentences."""
    found = (row.get("measured") or {}).get("needs")
    if row["status"] != "running":
        return
    if not found:
        expected = _lasts(row.get("rollout") or {}, "expected")
        if expected:
            yield f"this stage will probably take {span(expected)}"
        return
    missing, lasts = found.get("samples"), _lasts(found, "time")
    wants = [f"{missing:,.0f} more outcomes of the candidate"] if missing else []
    wants += [f"{span(lasts)} more"] if lasts >= 1.0 else []
    if not wants and found.get("waits_for") not in ("margin", "samples"):
        yield "this stage has all that it needs and is looked at shortly"
        return
    text = f"this stage needs {' and '.join(wants)}" if wants else str(found.get("explanation"))
    if found.get("expected_s") is not None:
        text += f": about {span(found['expected_s'])} at the present traffic"
    elif missing:
        text += ", and there is no traffic now"
    yield text
    if found.get("pauses_in_s") is not None and (missing or found.get("waits_for") == "margin"):
        yield f"without them it pauses in {span(found['pauses_in_s'])}"


def amount(value: float | None, unit: str, *, signed: bool = False) -> str:
    """A figure with its unit: ``0.00123 USD``, ``1.2 s``, ``97 %``."""
    if value is None:
        return "-"
    sign = "+" if signed else ""
    if unit == "ratio":
        return f"{100 * value:{sign}.3g} %" if not signed else f"{100 * value:{sign}.3g} points"
    words = {"usd": "USD", "s": "s"}.get(unit, unit)
    return f"{value:{sign}.4g} {words}".rstrip()


def _effect(effect: Mapping[str, Any]) -> tuple[str, ...]:
    unit = effect["unit"]
    change, low, high = (amount(effect[name], unit, signed=True) for name in ("change", "low", "high"))
    now, then = (amount(effect[name], unit) for name in ("baseline", "candidate"))
    return (effect["metric"], now, then, change, f"{low} .. {high}")


def _facts(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    status = str(row["status"])
    if row.get("reason"):
        status += f" ({row['reason']})"
    yield "status", status
    if row.get("explanation"):
        yield "why", str(row["explanation"])
    yield "strategy", f"{row['strategy']} on route {row['route']}"
    if words := named(row.get("parameters") or {}):
        yield "parameters", words
    yield "traffic", f"{percent(share(row))} of {row['route']} gets the candidate"
    if row.get("auto_deploy") and not row.get("rollout"):
        yield "deploy", "as soon as there is a proposal"
    yield "made", f"{moment(row.get('created_at'))} by {row.get('origin', 'api')}"
    yield "changed", f"{moment(row.get('updated_at'))}, revision {row.get('revision', '-')}"


def _stages(row: Mapping[str, Any], rollout: Mapping[str, Any]) -> None:
    say(f"Rollout {rollout['id']}, attempt {rollout.get('attempt', 1)}")
    rows = []
    for index, stage in enumerate(rollout["plan"]["stages"]):
        state = ""
        if row["status"] in ("running", "paused"):
            state = "passed" if index < rollout["stage"] else "now" if index == rollout["stage"] else ""
        elif row["status"] == "deployed":
            state = "passed"
        rows.append(
            (
                index + 1,
                percent(stage["percentage"]),
                span(_lasts(stage, "duration")) if _lasts(stage, "duration") else "-",
                stage.get("min_samples", "-"),
                state,
            )
        )
    print_table(("stage", "traffic", "at least", "samples", ""), rows)
    for sentence in needs(row):
        say(f"  {sentence}")


def _guards(row: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    guards: Mapping[str, Mapping[str, Any]] = (row.get("measured") or {}).get("guards") or {}
    return guards


def _lasts(stage: Mapping[str, Any], name: str) -> float:
    """Seconds that a record's field holds; 0 for none."""
    return float(stage.get(f"{name}_s") or 0.0)


def _figure(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value)
    return f"{value:.4g}" if isinstance(value, float) else plain(value)
