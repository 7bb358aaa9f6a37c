"""Totals of attempts at upstreams and of circuit breakers: what the resilience of a node had to do.

As with all totals the number of series is bounded: upstreams and models are those of the configuration, results and
reasons are fixed words, and beyond ``MAX_ARMS`` series of a kind everything is folded into ``other``.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from optimizer.events import FIRST, WHYS
from proxy.control.metrics.totals import MAX_ARMS, OTHER, Vocabulary
from proxy.errors import (
    ConnectFault,
    CredentialsRefused,
    Overloaded,
    ProtocolFault,
    ResetFault,
    TimeoutFault,
)
from proxy.resilience.breaker import CLOSED, HALF_OPEN, OPEN

OK: Final = "ok"
REASONS: Final = tuple(why for why in WHYS if why != FIRST)
STATE_VALUES: Final[Mapping[str, int]] = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}

_RESULT_OF_WORD: Final[Mapping[str, str]] = {
    ConnectFault.code: "connect_error",
    ResetFault.code: "reset",
    TimeoutFault.code: "timeout",
    ProtocolFault.code: "broken",
    CredentialsRefused.code: "credentials",
    Overloaded.code: "overloaded",
    "client_gone": "client_gone",
    "hedged": "hedged",
}

RESULTS: Final = (
    OK,
    *_RESULT_OF_WORD.values(),
    *("rate_limited", "server_error", "refused", OTHER),
)
"""Every word that ``result_of`` gives."""

Pair = tuple[str, str]


class AttemptTotals:
    """``results`` by (upstream, result), ``retries`` by the reason of attempts after the first."""

    def __init__(self) -> None:
        self.results: Counter[Pair] = Counter()
        self.retries: Counter[str] = Counter()

    def use(self, vocabulary: Vocabulary) -> None:
        """Begin the series that every configured upstream has."""
        for upstream in sorted(vocabulary.upstreams)[:MAX_ARMS]:
            self.results[upstream, OK] += 0
        for why in REASONS:
            self.retries[why] += 0

    def count(self, attempts: Iterable[Mapping[str, Any]], vocabulary: Vocabulary) -> None:
        """Count the attempts of one request."""
        for index, attempt in enumerate(attempts):
            upstream = attempt.get("upstream")
            key = (upstream if upstream in vocabulary.upstreams else OTHER, result_of(attempt))
            if key not in self.results and len(self.results) >= MAX_ARMS:
                key = (OTHER, key[1])
            self.results[key] += 1
            if index:
                why = attempt.get("why")
                self.retries[why if why in REASONS else OTHER] += 1

    def save(self) -> dict[str, Any]:
        """JSON-ready state."""
        return {"attempts": [[*key, count] for key, count in self.results.items()], "retries": self.retries}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over saved state; what an older version did not save starts at zero."""
        self.results = Counter({(row[0], row[1]): row[2] for row in saved.get("attempts", ())})
        self.retries = Counter(saved.get("retries", {}))


class BreakerTotals:
    """``opens`` counts openings by (upstream, model id), over all workers."""

    def __init__(self) -> None:
        self.opens: Counter[Pair] = Counter()
        # By worker, then by upstream and model id joined: what its last report said.
        self._seen: dict[str, dict[str, int]] = {}

    def use(self, vocabulary: Vocabulary) -> None:
        """Begin the series of every configured model."""
        for pair in vocabulary.breakers:
            if len(self.opens) < MAX_ARMS:
                self.opens[pair] += 0

    def report(self, worker: int, rows: object) -> None:
        """Read the breakers of a worker's report; only the growth since its last one is new."""
        seen = self._seen.setdefault(str(worker), {})
        for upstream, model, _, count in breaker_rows(rows):
            name = f"{upstream}\0{model}"
            before = seen.get(name, 0)
            # Fewer than before: the breaker was forgotten and made again, so all of these are new.
            self.opens[self.labels(upstream, model)] += count - before if count >= before else count
            seen[name] = count
        if not seen:
            del self._seen[str(worker)]

    def labels(self, upstream: str, model: str) -> Pair:
        """The pair itself if it has a series, else ``other``."""
        return (upstream, model) if (upstream, model) in self.opens else (OTHER, OTHER)

    def forget_workers(self, kept: int) -> None:
        """Keep what the newest ``kept`` workers reported."""
        while len(self._seen) > kept:
            del self._seen[next(iter(self._seen))]

    def save(self) -> dict[str, Any]:
        """JSON-ready state."""
        return {
            "breaker_opens": [[*pair, count] for pair, count in self.opens.items()],
            "opens_by_worker": self._seen,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over saved state; what an older version did not save starts at zero."""
        self.opens = Counter({(row[0], row[1]): row[2] for row in saved.get("breaker_opens", ())})
        self._seen = saved.get("opens_by_worker", {})


def breaker_rows(rows: object) -> Iterator[tuple[str, str, str, int]]:
    """(upstream, model id, state, opens) of the rows of a report that are such."""
    for row in rows if isinstance(rows, list) else ():
        match row:
            case [str(upstream), str(model), str(state), int(count)] if count >= 0:
                yield upstream, model, state, count
            case _:
                continue


def result_of(attempt: Mapping[str, Any]) -> str:
    """One of a few words for how an attempt ended."""
    error, status = attempt.get("error"), attempt.get("status")
    if error is None:
        return OK
    known = _RESULT_OF_WORD.get(error) if isinstance(error, str) else None
    if known is not None:
        return known
    if not isinstance(status, int):
        return OTHER
    if status == 429:
        return "rate_limited"
    if status in (401, 402, 403):
        return "credentials"
    if status >= 500 or status == 408:
        return "server_error"
    return "refused" if status >= 400 else "broken"
