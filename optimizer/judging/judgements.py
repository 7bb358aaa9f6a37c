"""What judges found, from the log: totals, comparisons of prompts, and heuristics corrected by ratings.

An ``optimizer.ingest`` consumer, saved with the log's cursor, so that each judgement counts once. Ratings of two
versions of a judge are kept apart for ever.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Final, TypeVar

import orjson

from optimizer import events
from optimizer.reward import is_certain_failure, is_continued
from policies.proxies import Corrected, ProxySums, corrected_mean
from policies.sequential.confidence import Interval, Sample, mean_sequence

MOST_CELLS: Final = 4096
"""Arms and pairs that are remembered, the ones heard of last."""
MOST_SEEN: Final = 20_000.0
"""Answers of an arm after which what is known of it counts half: a heuristic's bias may change with the arm."""

MOST_KNOWN: Final = 256
"""Judgements by id, the newest: many more than can be repeated after a crash."""

_CUT: Final = frozenset(("length", "content_filter"))

ArmCell = tuple[str, str, str]  # route, model key, variant key
Pairing = tuple[str, str, str, str, str]  # route, judge version, model key, one variant key, the other
Cell = TypeVar("Cell", "ProxySums", "PairTally")
Key = TypeVar("Key", bound=tuple[str, ...])


@dataclass(slots=True)
class PairTally:
    """Comparisons of two prompts: 1 for the one named first, 0 for the other, 0.5 for a tie.

    ``torn`` counts verdicts that moved with the order of the answers; they are ties.
    """

    count: int = 0
    total: float = 0.0
    square: float = 0.0
    torn: int = 0

    def add(self, value: float, *, consistent: bool) -> None:
        """One comparison."""
        self.count += 1
        self.total += value
        self.square += value * value
        self.torn += not consistent

    def share(self, alpha: float) -> Interval:
        """The first one's share of wins (ties are halves) with an interval that holds at every look."""
        if not self.count:
            return Interval(0.0, 0.5, 1.0)
        found = mean_sequence(Sample(self.count, self.total, self.square), alpha, unit=True)
        return Interval(max(0.0, found.low), found.estimate, min(1.0, found.high))


class Judgements:
    """Follows judgements, and the heuristics of requests that might have been judged.

    ``totals`` counts judgements by (route, kind, result), ``cost_usd`` what they cost by route.
    """

    name = "judgements"

    def __init__(self) -> None:
        self.totals: Counter[tuple[str, str, str]] = Counter()
        self.cost_usd: defaultdict[str, float] = defaultdict(float)
        self._seen: OrderedDict[ArmCell, ProxySums] = OrderedDict()
        self._judged: OrderedDict[tuple[str, str, str, str], ProxySums] = OrderedDict()
        self._pairs: OrderedDict[Pairing, PairTally] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._saved: bytes | None = None

    def observe(self, event: Mapping[str, Any], where: object) -> None:
        """See ``ingest.Consumer``."""
        del where
        kind = event["type"]
        if kind == events.REQUEST:
            data = event["data"]
            if "sampling_rate" in data:
                self._saved = None
                self._request(data)
        elif kind == events.JUDGEMENT and event["id"] not in self._known:
            # After a crash the judge is asked again about what it was at; the first answer counts.
            self._saved = None
            self._known[event["id"]] = None
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
            self._judgement(event["data"])

    def corrected(self, route: str, model_key: str, variant_key: str, version: str) -> Corrected | None:
        """A judge's mean rating over all answers of an arm, with the help of their heuristics; None without ratings.

        Certain failures are left out on both sides; see ``optimizer.reward``.
        """
        judged = self._judged.get((route, version, model_key, variant_key))
        if judged is None:
            return None
        seen = self._seen.get((route, model_key, variant_key), judged)
        # Some that were judged may have been forgotten among the seen.
        if seen.seen < judged.judged:
            seen = ProxySums(judged.judged, judged.judged_proxy, judged.judged_proxy_square)
        return corrected_mean(
            replace(judged, seen=seen.seen, proxy=seen.proxy, proxy_square=seen.proxy_square)
        )

    def ratings(self, route: str, model_key: str, variant_key: str, version: str) -> float:
        """How many ratings an arm has of one version of a judge, the old ones counting less."""
        judged = self._judged.get((route, version, model_key, variant_key))
        return judged.judged if judged is not None else 0.0

    def pairs(self, route: str, version: str) -> dict[tuple[str, str, str], PairTally]:
        """Comparisons of a route by one version of its judge: model key, variant key, other variant key."""
        return {
            (model, first, second): tally
            for (name, by, model, first, second), tally in self._pairs.items()
            if (name, by) == (route, version)
        }

    def snapshot(self) -> bytes:
        """See ``ingest.Consumer``."""
        if self._saved is None:
            self._saved = orjson.dumps(self._state())
        return self._saved

    def restore(self, data: bytes) -> None:
        """See ``ingest.Consumer``.

        Raises:
            ValueError, TypeError, KeyError: If the snapshot is none of ours.
        """
        saved = orjson.loads(data)
        self._saved = None
        self._known = OrderedDict.fromkeys(saved["known"])
        self.totals = Counter(
            {(route, kind, result): count for route, kind, result, count in saved["totals"]}
        )
        self.cost_usd = defaultdict(float, saved["cost_usd"])
        self._seen = OrderedDict((tuple(key), ProxySums(*cell)) for key, cell in saved["seen"])
        self._judged = OrderedDict((tuple(key), ProxySums(*cell)) for key, cell in saved["judged"])
        self._pairs = OrderedDict((tuple(key), PairTally(*cell)) for key, cell in saved["pairs"])

    def _state(self) -> dict[str, Any]:
        return {
            "known": list(self._known),
            "totals": [[*key, count] for key, count in self.totals.items()],
            "cost_usd": self.cost_usd,
            "seen": [[key, astuple(cell)] for key, cell in self._seen.items()],
            "judged": [[key, astuple(cell)] for key, cell in self._judged.items()],
            "pairs": [[key, astuple(cell)] for key, cell in self._pairs.items()],
        }

    def _request(self, data: Mapping[str, Any]) -> None:
        if data.get("outcome") != events.COMPLETED or is_certain_failure(data) or is_continued(data):
            return
        reasons = data.get("gen_ai.response.finish_reasons") or ()
        if "tool_calls" in reasons:
            return  # No text, so it is never judged either.
        attempts: Sequence[Mapping[str, Any]] = data.get("attempts") or ()
        serving = attempts[-1] if len(attempts) > 1 else data
        key = (str(data["route"]), str(serving.get("model_key")), str(serving.get("variant_key")))
        signals = data.get("signals") or {}
        cell = _cell(self._seen, key, ProxySums)
        cell.see(0.0 if signals.get("refusal") == 1 or not _CUT.isdisjoint(reasons) else 1.0)
        if cell.seen > MOST_SEEN:
            self._seen[key] = _halved(cell)

    def _judgement(self, data: Mapping[str, Any]) -> None:
        route, kind, result = str(data["route"]), str(data["kind"]), str(data["result"])
        self.totals[route, kind, result] += 1
        self.cost_usd[route] += float(data.get("cost_usd") or 0.0)
        value = data.get("value")
        if value is None:
            return
        version, model_key, variant_key = (
            str(data["version"]),
            str(data["model_key"]),
            str(data["variant_key"]),
        )
        if kind == "pair":
            other = str(data["other_variant_key"])
            # One direction of each pair; the other one is its mirror image.
            first, second = sorted((variant_key, other))
            tally = _cell(self._pairs, (route, version, model_key, first, second), PairTally)
            won = float(value) if first == variant_key else 1.0 - float(value)
            tally.add(won, consistent=bool(data.get("consistent", True)))
        elif data.get("proxy") is not None:
            key = (route, version, model_key, variant_key)
            cell = _cell(self._judged, key, ProxySums)
            cell.judge(float(data["proxy"]), float(value))
            if cell.judged > MOST_SEEN:
                self._judged[key] = _halved(cell)


def _cell(cells: "OrderedDict[Key, Cell]", key: Key, make: type[Cell]) -> Cell:
    cell = cells.get(key)
    if cell is None:
        cell = cells[key] = make()
        if len(cells) > MOST_CELLS:
            cells.popitem(last=False)
    else:
        cells.move_to_end(key)
    return cell


def _halved(cell: ProxySums) -> ProxySums:
    return ProxySums(*(amount / 2.0 for amount in astuple(cell)))
