"""Compares what was seen with what a scenario expects; every difference is one line.

Three views: the caller's, which is also what a plain pass-through is judged by, the upstream's, and the event's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from loadtests.faults.caller import Read, Reply, read
from loadtests.faults.scenario import BACKOFF_S, Expected, Scenario
from loadtests.faults.upstream import Attempt
from optimizer.reward import SUCCESS, lessons

# A hang-up is seen by polling, and the machine may be busy.
GRACE_S = 0.4
_TAUGHT_BY_CONTINUED = frozenset((SUCCESS,))


@dataclass(slots=True)
class Seen:
    """One scenario played once. ``letters`` maps model ids, configuration names and arm ids to letters."""

    scenario: Scenario
    reply: Reply
    attempts: Sequence[Attempt]
    event: Mapping[str, Any] | None
    letters: Mapping[str, str]
    strayed: bool = False
    secret: str = ""

    @property
    def tried(self) -> str:
        """The attempts that reached the upstream, in letters."""
        return "".join(self.letters.get(attempt.model, "?") for attempt in self.attempts)


@dataclass(slots=True)
class Verdict:
    """``misses`` are the expectations that were not met, ``story`` is what happened in a few words."""

    misses: list[str] = field(default_factory=list)
    story: str = ""

    @property
    def passed(self) -> bool:
        return not self.misses


def judge(seen: Seen) -> Verdict:
    """The verdict on the product."""
    said = read(seen.reply, seen.scenario.endpoint)
    misses = [
        *_caller(seen, said),
        *_headers(seen),
        *_upstream(seen),
        *_event(seen),
    ]
    return Verdict(misses, story(seen, said))


def judge_plain(seen: Seen) -> Verdict:
    """The verdict on a pass-through: what its caller sees, and whether its upstream is let go."""
    said = read(seen.reply, seen.scenario.endpoint)
    misses = _caller(seen, said)
    if seen.scenario.expected.ending == "left":
        misses += _cancelled(seen)
    return Verdict(misses, story(seen, said))


def story(seen: Seen, said: Read) -> str:
    """What the caller saw, in a few words."""
    reply = seen.reply
    if reply.left:
        end = "left"
    elif reply.hung:
        end = f"no end after {reply.elapsed_s:.1f} s"
    elif reply.fault:
        end = f"transport failed ({reply.fault})"
    elif said.errors:
        end = f"error {said.errors[0][0] or said.errors[0][1]}"
    elif said.is_stream:
        end = "[DONE]" if said.dones else "ended without [DONE]"
    else:
        end = "whole reply" if said.finishes else "unreadable body"
    tried = f", upstream {seen.tried}" if seen.tried else ""
    words = f", {len(said.text.split())} words" if said.text else ""
    return f"{reply.status or 'no status'}{words}, {end}{tried}, {reply.elapsed_s:.2f} s"


def _caller(seen: Seen, said: Read) -> list[str]:
    expected, reply = seen.scenario.expected, seen.reply
    misses: list[str] = []
    if expected.ending == "left":
        return [] if reply.left else [f"the reply ended before the caller left: {reply.status}"]
    if reply.hung:
        return [f"no end within {reply.elapsed_s:.1f} s"]
    if reply.elapsed_s > expected.within_s + GRACE_S:
        misses.append(f"took {reply.elapsed_s:.2f} s, not {expected.within_s:g} s")
    if bool(reply.fault) != (expected.ending == "cut"):
        misses.append(f"the transport failed: {reply.fault}" if reply.fault else "half a reply looks whole")
    if expected.first_s is not None and (reply.first_s or 0.0) > expected.first_s + GRACE_S:
        misses.append(f"the first content took {reply.first_s:.2f} s, not {expected.first_s:g} s")
    if seen.secret and seen.secret in f"{reply.headers}{reply.body.decode('latin-1')}":
        misses.append("the upstream's key was shown to the caller")
    if seen.strayed:
        misses.append("a redirect was followed")
    if reply.status not in expected.status:
        misses.append(f"status {reply.status}, not {_either(expected.status)}")
    if said.junk and expected.ending not in ("whole or broken", "cut"):
        misses.append(f"unreadable: {said.junk[0]!r}")
    check = _ENDINGS.get(expected.ending)
    return misses if check is None else misses + check(expected, said, seen.scenario)


def _complete(expected: Expected, said: Read, scenario: Scenario) -> list[str]:
    misses = []
    if said.errors:
        misses.append(f"an error was told: {said.errors[0][0]}")
    if said.text != expected.text:
        misses.append(f"text {said.text!r}, not {expected.text!r}")
    if said.finishes != [expected.finish]:
        misses.append(f"finish reasons {said.finishes}")
    if scenario.stream:
        if not said.is_stream:
            misses.append("no event stream")
        if said.dones != 1:
            misses.append(f"{said.dones} terminal events")
        if said.after_end:
            misses.append("events after the terminal one")
        if len(said.ids) > 1:
            misses.append(f"several ids: {sorted(said.ids)}")
        if said.roles > 1:
            misses.append(f"{said.roles} role chunks")
        asked = bool((scenario.body.get("stream_options") or {}).get("include_usage"))
        if scenario.endpoint == "chat" and said.usages != asked:
            misses.append(f"{said.usages} usage events, {'1' if asked else 'none'} asked for")
    return misses


def _refused(expected: Expected, said: Read, scenario: Scenario) -> list[str]:
    misses = []
    if said.is_stream:
        misses.append("an event stream instead of an error reply")
    if not said.errors:
        misses.append("no error object")
    else:
        code, _, proper = said.errors[0]
        if not proper:
            misses.append("the error is not in OpenAI's shape")
        if expected.code and code not in expected.code:
            misses.append(f"code {code!r}, not {_either(expected.code)}")
    return misses


def _broken(expected: Expected, said: Read, scenario: Scenario) -> list[str]:
    misses = []
    if expected.text != "*" and said.text != expected.text:
        misses.append(f"text {said.text!r}, not {expected.text!r}")
    if said.dones:
        misses.append("a terminal event: failure passed off as success")
    if said.finishes:
        misses.append(f"a finish reason: {said.finishes}")
    if len(said.errors) != 1:
        misses.append(f"{len(said.errors)} error events")
    else:
        code, kind, proper = said.errors[0]
        if expected.code and code not in expected.code:
            misses.append(f"code {code!r}, not {_either(expected.code)}")
        if not code and not kind:
            misses.append("the error event says nothing")
        if not proper and scenario.endpoint == "chat":
            misses.append("the error event is not in OpenAI's shape")
    if said.after_end:
        misses.append("events after the error")
    return misses


def _whole_or_broken(expected: Expected, said: Read, scenario: Scenario) -> list[str]:
    """Skipped or failed clean: either everything else came, or it says that it failed."""
    whole = said.dones == 1 and said.finishes == ["stop"] and not said.errors
    broken = not said.dones and len(said.errors) == 1 and not said.finishes
    if not whole and not broken:
        return [f"{said.dones} terminal events, {len(said.errors)} errors, {said.finishes}"]
    return [] if said.text.startswith(expected.text) else [f"text {said.text!r}"]


_ENDINGS = {
    "complete": _complete,
    "refused": _refused,
    "broken": _broken,
    "whole or broken": _whole_or_broken,
}


def _headers(seen: Seen) -> list[str]:
    expected, headers = seen.scenario.expected, seen.reply.headers
    if seen.reply.left or not headers:
        return []
    misses = []
    if "x-llm-optimizer-request-id" not in headers:
        misses.append("no request id")
    tries = expected.tries.split("|")
    counts = {str(expected.header or len(letters)) for letters in tries}
    if headers.get("x-llm-optimizer-attempts") not in counts:
        misses.append(f"attempts: {headers.get('x-llm-optimizer-attempts')}, not {_either(sorted(counts))}")
    if expected.ending in ("complete", "broken"):
        served = {expected.served_by or letters[-1] for letters in tries}
        for name in ("model", "arm"):
            told = seen.letters.get(headers.get(f"x-llm-optimizer-{name}", ""), "none")
            if told not in served:
                misses.append(f"header {name} names {told}, not {_either(sorted(served))}")
    if expected.retry_after is not None:
        low, high = expected.retry_after
        value = headers.get("retry-after", "")
        if not value.isdigit() or not low <= int(value) <= high:
            misses.append(f"Retry-After {value!r}, not {low:g} to {high:g}")
    return misses


def _upstream(seen: Seen) -> list[str]:
    expected, scenario = seen.scenario.expected, seen.scenario
    misses = []
    reachable = {
        letter for letter in set(expected.tries) - {"|"} if scenario.arms["abcdef".index(letter)].reachable
    }
    wanted = [
        expected.sees or "".join(letter for letter in letters if letter in reachable)
        for letters in expected.tries.split("|")
    ]
    if seen.tried not in wanted:
        misses.append(f"upstream saw {seen.tried or 'nothing'}, not {_either(wanted)}")
    if expected.sees is None:
        misses += _gaps(seen)
    misses += [f"the upstream itself is broken: {one.defect}" for one in seen.attempts if one.defect]
    misses += [
        f"the arm {letter} was sent different bodies"
        for letter in sorted(set(seen.tried))
        if len({orjson.dumps(one.body) for one in seen.attempts if seen.letters.get(one.model) == letter}) > 1
    ]
    return misses + _cancelled(seen)


def _gaps(seen: Seen) -> list[str]:
    expected, attempts = seen.scenario.expected, seen.attempts
    least_s = seen.scenario.resilience.get("backoff_s", BACKOFF_S) / 2
    misses = []
    for index, (before, after) in enumerate(pairwise(attempts)):
        if expected.gaps is not None:
            wanted = expected.gaps[index] if index < len(expected.gaps) else 0.0
        else:
            wanted = least_s if before.model == after.model else 0.0
        gap = after.at - before.at
        if gap < wanted - 0.005:
            misses.append(f"attempt {index + 2} came after {gap * 1000:.0f} ms, not {wanted * 1000:.0f} ms")
    return misses


def _cancelled(seen: Seen) -> list[str]:
    return [
        f"the attempt on {letter} was not cancelled"
        for letter in seen.scenario.expected.cancelled
        for attempt in seen.attempts
        if seen.letters.get(attempt.model) == letter and attempt.gone_at is None
    ]


def _event(seen: Seen) -> list[str]:
    expected, event = seen.scenario.expected, seen.event
    if event is None:
        return ["no event was logged"]
    misses = []
    if seen.secret in str(event):
        misses.append("the upstream's key was logged")
    if expected.billed and not event.get("cost_usd"):
        misses.append("what was said before the end is not in the cost")
    outcomes = expected.outcome or (("completed",) if expected.ending == "complete" else ())
    if outcomes and event["outcome"] not in outcomes:
        misses.append(f"outcome {event['outcome']}, not {_either(outcomes)}")
    logged = "".join(seen.letters.get(str(attempt["arm"]), "?") for attempt in event["attempts"])
    if logged not in expected.tries.split("|"):
        misses.append(f"the event's attempts are {logged}, not {_either(expected.tries.split('|'))}")
    misses += _attempt_facts(event, expected)
    if expected.ending != "left" and expected.continued != bool(event.get("continued")):
        misses.append(f"continued: {event.get('continued')}")
    if len(set(logged)) > 1 and expected.ending == "complete":
        told = seen.letters.get(str(event.get("served_by") or event["arm"]))
        wanted = expected.served_by if not expected.continued and expected.served_by else logged[-1]
        if told != wanted:
            misses.append(f"served_by {told}, not {wanted}")
    if expected.taught is not None:
        taught = taught_by(event, seen.letters)
        if taught != expected.taught:
            misses.append(f"taught {taught or 'nothing'!r}, not {expected.taught or 'nothing'!r}")
    if expected.continued:
        misses += _continued(event)
    return misses


def _attempt_facts(event: Mapping[str, Any], expected: Expected) -> list[str]:
    attempts = event["attempts"]
    misses = []
    for index, attempt in enumerate(attempts):
        served = index == len(attempts) - 1 and expected.ending == "complete"
        if served == bool(attempt["error"]) and expected.ending != "whole or broken":
            misses.append(f"attempt {index + 1} has error {attempt['error']!r}")
        if len(attempts) > 1 and served and attempt.get("cost_usd") is None:
            misses.append("the serving attempt has no cost")
    costs = [attempt.get("cost_usd") for attempt in attempts]
    known = [cost for cost in costs if cost is not None]
    if len(attempts) > 1 and known and abs((event.get("cost_usd") or 0.0) - sum(known)) > 1e-12:
        misses.append(f"cost {event.get('cost_usd')}, the attempts' sum is {sum(known)}")
    return misses


def _continued(event: Mapping[str, Any]) -> list[str]:
    """Success only, and what both attempts cost."""
    found = lessons(event, keys_of=lambda arm: (arm, arm), cost_of=lambda _: [("cost", 0.0)])
    signals = {signal for _, taught in found for signal, _ in taught}
    misses = [] if signals <= _TAUGHT_BY_CONTINUED else [f"a continued answer taught {sorted(signals)}"]
    if any(attempt.get("cost_usd") is None for attempt in event["attempts"][:1]):
        misses.append("the cut attempt has no cost")
    return misses


def taught_by(event: Mapping[str, Any], letters: Mapping[str, str]) -> str:
    """The lessons of success in letters, such as ``a0 b1``."""
    found = lessons(event, keys_of=lambda arm: (f"key-{arm}", ""), cost_of=lambda _: ())
    return " ".join(
        f"{letters.get(keys[0].removeprefix('key-'), '?')}{value:.0f}"
        for keys, taught in found
        for signal, value in taught
        if signal == SUCCESS
    )


def _either(choices: Sequence[object]) -> str:
    return " or ".join(str(choice) for choice in choices)
