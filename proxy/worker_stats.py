"""What a worker reports every 250 ms besides its events, and at once when it stops a candidate: ``worker.stats.v1``.

Guards read these counts, so that a learner that is behind on its reading never delays a rollback. The fields of
``data``; "so far" counts from the worker's start:

- ``worker``: the incarnation
- ``table_version``: of the table in use, which acknowledges it
- ``routes``: list of [route, arm, side, outcome, count] since the last report
- ``guards``: list of [route, rollout, stage, side, {count}] since the last report, with those counts of
  ``optimizer.rollouts.guards.SideCounts`` that are not 0. Requests that were pinned, or decided while the candidate was
  withheld from its units, are in none; ``assigned`` counts when a side is drawn, all else when the request ends
- ``stops``: list of [route, rollout, reason]: ``hard_stop`` in every report while the candidate is stopped in this
  worker, ``baseline_failing`` once when it would have been stopped if control did not fail as well
- ``in_flight``: requests that are being answered
- ``connections``: of clients, open now
- ``buffered_bytes``: request bodies and unsent replies that are held now
- ``shed``: requests refused so far because the loop was behind; they write no event each
- ``evicted``: slow readers cut so far because memory was short
- ``upstreams``: {name: [busy, idle, waiting]}
- ``lost``: {reason: lines so far that could not be logged}
- ``log``: {``diverted``: 1 while the disk is so slow that lines wait, else 0; ``diversions``: how often so far;
  ``queued_bytes``: what waits now}
- ``refused_tables``: routing tables refused so far
- ``index_refused``: {reason: files of contextual routes refused so far}; their routes draw by mean probabilities
- ``content``: what the judge's samples came to so far, see ``proxy.content.ContentWriter.report``
- ``cache``: {``requests``: list of [route, ``hit|miss|bypass``, count] since the last report, of routes that keep
  answers; ``bytes``, ``entries``: what is kept now}
- ``refused_key_files``: client key files refused so far
- ``guarded``: whether the optimizer is alive, as far as this worker can see
- ``breakers``: list of [upstream, model id, ``closed|half_open|open``, times opened so far] of those that are not
  closed or once were not
- ``loop_lag_ms``: largest since the last report
- ``uptime_s``: age of the worker
- ``rss_bytes``: resident memory
- ``cpu_s``: CPU time so far
"""

import os
from pathlib import Path
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")


class OutcomeCounts:
    """Counts per (route, arm, side, outcome) since they were last taken. Bounded by the configuration."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str, str], int] = {}

    def add(self, route: str, arm: str, side: str, outcome: str) -> None:
        key = (route, arm, side, outcome)
        self._counts[key] = self._counts.get(key, 0) + 1

    def take(self) -> list[list[str | int]]:
        """Rows [route, arm, side, outcome, count]; afterwards all counts are zero."""
        rows: list[list[str | int]] = [[*key, count] for key, count in self._counts.items()]
        self._counts.clear()
        return rows


def rss_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def process_facts() -> dict[str, Any]:
    """Memory and CPU time of this process."""
    return {"rss_bytes": rss_bytes(), "cpu_s": sum(os.times()[:2])}
