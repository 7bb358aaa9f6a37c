"""From samples, traffic and log to figures, each with what it must be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtests.figures import Figure
from loadtests.soak.traffic import Traffic
from loadtests.soak.watch import Sample, slope
from optimizer import events
from optimizer.ingest import Ingest
from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader

MEBIBYTE: Final = 1024 * 1024
FLAT_MB_PER_H: Final = 10.0
"""Growth that an interval must not exclude from below. The log's page index and the learner's SQLite cache settle
within an hour; a leak of 100 bytes a request at 100 requests a second is 36 MB an hour."""
SETTLED: Final = 0.4
"""Share of the run after which growth is measured: restarts, kills and warm-up are over by then."""


@dataclass(slots=True)
class LogCount:
    """What the log holds at the end. ``last`` are the last facts of every worker."""

    requests: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    last: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)


def count_log(state: Path) -> LogCount:
    """Read all of the log of a product that has ended."""
    reader = LogReader(state / "log")
    cursor: dict[str, tuple[int, int]] = {}
    found = LogCount()
    while True:
        batch = reader.poll(cursor, 4 * MEBIBYTE)
        if batch.cursor == cursor:
            break
        found.entries += len(batch.entries)
        for _, event in batch.events():
            if event["type"] == events.REQUEST:
                found.requests[event["id"]] += 1
            elif event["type"] == events.WORKER_STATS:
                found.last[event["data"]["worker"]] = event["data"]
        cursor = batch.cursor
    for facts in found.last.values():
        found.lost.update(facts["lost"])
    found.lost.update({kind: count for kind, count in reader.counts.items() if count})
    return found


def learned(state: Path) -> int:
    """Events that the learner has counted over all its lives, the rest of the log included."""
    ingest = Ingest(StateDirectory(state))
    try:
        while ingest.step():
            pass
        return ingest.counts["events"]
    finally:
        ingest.close()


def delivery(traffic: Traffic, log: LogCount, learned_events: int) -> list[Figure]:
    """Requests, failures, events: what was asked, answered, logged, learned."""
    missing = sum(1 for request_id in traffic.answered if request_id not in log.requests)
    unasked = len(log.requests) - traffic.sent
    return [
        Figure("requests sent", traffic.sent, note=_tally(traffic.by_kind)),
        Figure("replies", sum(traffic.replies.values()), note=_tally(traffic.replies)),
        _must("failures no fault explains", sum(traffic.failures.values()), 0, _tally(traffic.failures)),
        _must("answered requests missing in the log", missing, 0),
        _must("requests logged twice", sum(1 for count in log.requests.values() if count > 1), 0),
        _must("logged requests nobody sent", max(unasked, 0), 0),
        _at_most(
            "sent and not logged", max(-unasked, 0), traffic.uncertain, "given up before anything came back"
        ),
        _must("log lines lost or damaged", sum(log.lost.values()), 0, _tally(log.lost)),
        _must("events learned minus events logged", learned_events - log.entries, 0, f"{log.entries} events"),
    ]


def growth(samples: Sequence[Sample], total_s: float) -> list[Figure]:
    """Memory slope, descriptors and threads of every process that lived to the end of the load."""
    figures = []
    last_look = max((sample.at for sample in samples), default=0.0)
    alive = {(s.role, s.pid) for s in samples if s.at > last_look - 10}
    for role, pid in sorted(alive):
        own = [s for s in samples if s.pid == pid]
        settled = [s for s in own if SETTLED * total_s <= s.at <= total_s]
        found = slope([(s.at, s.rss / MEBIBYTE) for s in settled])
        if found is not None:
            low = found.per_hour - found.half_width
            note = f"95 % interval +- {found.half_width:.1f}, {settled[-1].at - settled[0].at:.0f} s"
            verdict = "" if low <= FLAT_MB_PER_H else f"grows: more than {FLAT_MB_PER_H:g} for certain"
            figures.append(Figure(f"{role} memory slope", round(found.per_hour, 2), "MB/h", note, verdict))
        figures.append(Figure(f"{role} memory at most", round(max(s.rss for s in own) / MEBIBYTE, 1), "MB"))
        figures.append(Figure(f"{role} descriptors at most", max(s.descriptors for s in own)))
        figures.append(Figure(f"{role} threads at most", max(s.threads for s in own)))
    return figures


def leftovers(before: Mapping[str, Sample], after: Mapping[str, Sample], log: LogCount) -> list[Figure]:
    """What is still held when nobody has asked for anything for a while."""
    ended = max(log.last) if log.last else 0
    last = [facts for worker, facts in log.last.items() if worker > ended - 2]
    figures = [
        _must("requests still in flight", sum(int(facts["in_flight"]) for facts in last), 0),
        _must("upstream calls still busy", sum(_upstream(facts, 0) for facts in last), 0),
        _must("upstream calls still waiting", sum(_upstream(facts, 2) for facts in last), 0),
    ]
    for role, sample in sorted(after.items()):
        first = before.get(role)
        if first is not None:
            extra = sample.descriptors - first.descriptors
            figures.append(Figure(f"{role} descriptors more than before the load", extra))
    return figures


def _upstream(facts: Mapping[str, Any], column: int) -> int:
    return sum(int(row[column]) for row in facts["upstreams"].values())


def _must(name: str, value: int, wanted: int, note: str = "") -> Figure:
    return Figure(name, value, note=note, void="" if value == wanted else f"must be {wanted}")


def _at_most(name: str, value: int, most: int, note: str) -> Figure:
    return Figure(
        name, value, note=f"{note}: {most}", void="" if value <= most else f"must be {most} or less"
    )


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
