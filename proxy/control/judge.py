"""The judge: samples from the content directory, one by one before the model that their route names.

A task of the optimizer that no request ever waits for. Invariants: a sample leaves this process for its judge's (or, in
a prompt test, its route's own) upstream only; its file goes once everything in it was settled; a rating is written
under an id that is fixed by request, judge and version, so whatever is repeated after a crash is learned once. A judge
that does not answer is left alone for a while, the longer the more often; what nobody judged within a day is dropped.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Protocol

from optimizer import events
from optimizer.feedback import QUALITY, Feedback, to_event
from optimizer.judging.rubric import source_of
from optimizer.judging.sample import Sample
from optimizer.settings import RouteSettings, Settings
from proxy.content import MAX_AGE_S, closed_segments, read_segment, sweep
from proxy.control.judge_caller import Caller, CallFault
from proxy.control.judge_examiner import (
    EXPIRED,
    PAIR,
    SCORE,
    SCORED,
    Bench,
    Examiner,
    Finding,
    counterpart,
    find_model,
)
from proxy.control.judge_ledger import Ledger
from proxy.logs import LOGGER_NAME

LOOK_S: Final = 0.25
SWEEP_S: Final = 60.0
SAVE_S: Final = 1.0
MOST_WAITING: Final = 2000
"""Samples held in memory; more stay in their files."""
MOST_IN_FLIGHT: Final = 16
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
_UNWRITTEN_S: Final = 5.0

_log = logging.getLogger(LOGGER_NAME)


class Write(Protocol):
    """Appends an event to the log; False when it is lost."""

    def __call__(self, type_: str, data: Mapping[str, Any], *, event_id: str | None = None) -> bool: ...


@dataclass(slots=True)
class _Waiting:
    """A sample on its way. ``findings`` are what is known of it, ``told`` which of them the log has."""

    sample: Sample
    path: Path
    due: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Pause:
    """A judge that does not answer. ``until`` is Unix seconds."""

    failures: int
    until: float
    word: str


class Judge:
    """Judges what workers left in ``directory``.

    Args:
        directory: The content segments.
        ledger: What was spent and done.
        settings: The configuration in use, asked for anew each time.
        caller: Reaches models.
        write: Appends to the event log.
        is_tested: Whether prompts of a route are being compared just now.
        now: Unix seconds.
        jitter: A uniform draw, spreads repetitions.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ledger: Ledger,
        settings: Callable[[], Settings],
        caller: Caller,
        write: Write,
        is_tested: Callable[[str], bool],
        now: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._directory = directory
        self._ledger = ledger
        self._settings = settings
        self._examiner = Examiner(caller)
        self._write = write
        self._is_tested = is_tested
        self._now = now
        self._jitter = jitter
        self._waiting: dict[str, _Waiting] = {}
        self._segments: dict[Path, tuple[frozenset[str], set[str]]] = {}  # all its samples, those left
        self._flying: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._pauses: dict[str, _Pause] = {}
        self._configured = ""
        self._swept_at = float("-inf")
        self._saved_at = float("-inf")

    @property
    def waiting(self) -> int:
        """Samples that were read and not settled."""
        return len(self._waiting)

    @property
    def paused(self) -> dict[str, str]:
        """Judges that do not answer (``judge:<name>@<version>``), and why."""
        return {source: pause.word for source, pause in self._pauses.items()}

    def spent_usd(self, source: str) -> float:
        """What a judge spent today (UTC)."""
        return self._ledger.spent_usd(source)

    async def run(self) -> None:
        """Judge for ever."""
        try:
            while True:
                await self._round()
                await asyncio.sleep(LOOK_S)
        finally:
            await self._land()
            with suppress(OSError):
                await self._ledger.save(exactly=True)

    async def _round(self) -> None:
        now = self._now()
        if abs(now - self._swept_at) >= SWEEP_S:
            self._swept_at = now
            swept = await asyncio.to_thread(sweep, self._directory, now=now)
            self.counts["dropped_segments"] += swept.removed
        if len(self._waiting) < MOST_WAITING:
            await self._discover(now)
        else:
            self._make_room()
        self._begin_due(now)
        if abs(now - self._saved_at) >= SAVE_S:
            self._saved_at = now
            await self._ledger.save_if_changed()

    async def _discover(self, now: float) -> None:
        for path in await asyncio.to_thread(closed_segments, self._directory, now=now):
            if path in self._segments:
                continue
            if len(self._waiting) >= MOST_WAITING:
                return
            samples = {sample.request_id: sample for sample in await asyncio.to_thread(read_segment, path)}
            left = {request_id for request_id in samples if not self._ledger.is_done(request_id)}
            self._segments[path] = (frozenset(samples), left)
            for request_id in left:
                self._waiting.setdefault(request_id, _Waiting(samples[request_id], path))
            if not left:
                await self._remove(path)

    def _begin_due(self, now: float) -> None:
        settings = self._settings()
        if settings.config_hash != self._configured:
            # Perhaps it is just what a judge lacked.
            self._configured = settings.config_hash
            self._pauses.clear()
        routes = {route.name: route for route in settings.routes}
        busy = Counter(source for source, _ in self._flying.values())
        for request_id, waiting in list(self._waiting.items()):
            if len(self._flying) >= MOST_IN_FLIGHT:
                return
            if waiting.due > now or request_id in self._flying:
                continue
            bench = _bench(routes.get(waiting.sample.route), settings)
            source = bench.source if bench is not None else ""
            pause = self._pauses.get(source)
            known = bool(waiting.findings) or self._is_old(waiting, now)
            if pause is not None and (pause.until > now or busy[source]) and not known:
                continue  # One at a time finds out whether it answers again.
            busy[source] += 1
            work = self._judge(waiting, bench, routes.get(waiting.sample.route), settings)
            task = asyncio.get_running_loop().create_task(work)
            self._flying[request_id] = (source, task)
            task.add_done_callback(partial(self._landed, waiting))

    def _make_room(self) -> None:
        """Give up the oldest samples of judges that do not answer: they must not keep those of others waiting."""
        judges = {route.name: route.judge for route in self._settings().routes}
        for waiting in list(self._waiting.values())[: MOST_WAITING // 4]:
            judge = judges.get(waiting.sample.route)
            if judge is not None and source_of(judge.name, judge.version) in self._pauses:
                waiting.findings.setdefault(SCORE, Finding(SCORE, EXPIRED, word="crowded_out"))

    def _is_old(self, waiting: _Waiting, now: float) -> bool:
        return now - waiting.sample.at_ms / 1000.0 > MAX_AGE_S

    def _landed(self, waiting: _Waiting, task: "asyncio.Task[None]") -> None:
        self._flying.pop(waiting.sample.request_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect of ours must not be met four times a second.
            waiting.due = self._now() + LONGEST_PAUSE_S
            self.counts["errors"] += 1
            _log.error("a sample could not be judged", exc_info=error)

    async def _judge(
        self, waiting: _Waiting, bench: Bench | None, route: RouteSettings | None, settings: Settings
    ) -> None:
        if bench is None or route is None:
            # Nobody asks for its judgement any more.
            await self._settle(waiting)
            return
        if SCORE not in waiting.findings and self._is_old(waiting, self._now()):
            waiting.findings[SCORE] = Finding(SCORE, EXPIRED)
        try:
            await self._examine(waiting, bench, route, settings)
        except CallFault as fault:
            self._pause(bench.source, fault.word)
            return
        if waiting.findings[SCORE].result != EXPIRED:
            self._pauses.pop(bench.source, None)
        for kind, finding in waiting.findings.items():
            if kind in waiting.told:
                continue
            if not self._tell(waiting.sample, bench, finding):
                waiting.due = self._now() + _UNWRITTEN_S
                return
            waiting.told.add(kind)
            self.counts[f"{kind}_{finding.result}"] += 1
        await self._settle(waiting)

    async def _examine(
        self, waiting: _Waiting, bench: Bench, route: RouteSettings, settings: Settings
    ) -> None:
        """Find out what is not known yet.

        Raises:
            CallFault: Somebody can not be asked now.
        """
        sample, findings = waiting.sample, waiting.findings
        if SCORE in findings and findings[SCORE].result == EXPIRED:
            return
        if bench.model.price is None:
            raise CallFault("no_price")
        limit = bench.judge.usd_per_day

        async def reserve(usd: float) -> bool:
            return await self._ledger.reserve(bench.source, usd, limit_usd=limit)

        settle = partial(self._ledger.settle, bench.source)
        if SCORE not in findings:
            findings[SCORE] = await self._examiner.score(sample, bench, reserve, settle)
        wanted = PAIR not in findings and self._is_tested(route.name)
        other = counterpart(sample, route, settings) if wanted else None
        # What another arm's upstream does must not keep the judge from rating.
        if other is not None and other.model.price is not None:
            with suppress(CallFault):
                pair = await self._examiner.compare(sample, other, bench, reserve, settle)
                findings[pair.kind] = pair

    def _pause(self, source: str, word: str) -> None:
        before, now = self._pauses.get(source), self._now()
        if before is not None and before.until > now:
            return  # One of several that were under way; the first one has told.
        failures = 1 if before is None else before.failures + 1
        longest = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_S)
        self._pauses[source] = _Pause(failures, now + longest * (0.5 + 0.5 * self._jitter()), word)
        if before is None:
            # Once per outage; the metrics show how long it lasts.
            _log.warning("%s does not answer (%s); it is asked again for a day", source, word)

    def _tell(self, sample: Sample, bench: Bench, finding: Finding) -> bool:
        """Write what was found; False if it has to be written again."""
        source = bench.source
        if finding.kind == SCORE and finding.result == SCORED and finding.value is not None:
            rating = Feedback(sample.request_id, None, QUALITY, finding.value, source, 0)
            event_id, data = to_event(rating, request_id=sample.request_id)
            if not self._write(events.FEEDBACK, data, event_id=event_id):
                return False
        data = {
            "request_id": sample.request_id,
            "route": sample.route,
            "arm": sample.arm,
            "model_key": sample.model_key,
            "variant_key": sample.variant_key,
            "kind": finding.kind,
            "judge": bench.judge.name,
            "version": bench.judge.version,
            "model": bench.model.name,
            "cost_usd": finding.cost_usd,
            "result": finding.result,
            "rate": sample.rate,
        }
        optional = {
            "value": finding.value,
            "word": finding.word,
            "proxy": sample.proxy,
            "consistent": finding.consistent,
            "other_arm": finding.other.id if finding.other is not None else None,
            "other_variant_key": finding.other.variant_key if finding.other is not None else None,
        }
        data |= {name: value for name, value in optional.items() if value is not None}
        identity = "\0".join((sample.request_id, source, finding.kind))
        digest = blake2b(identity.encode(), digest_size=16, person=b"judgement").hexdigest()
        return self._write(events.JUDGEMENT, data, event_id=f"jd_{digest}")

    async def _settle(self, waiting: _Waiting) -> None:
        """Nothing more is to be done for a sample."""
        request_id = waiting.sample.request_id
        self._ledger.finish(request_id)
        self._waiting.pop(request_id, None)
        _, left = self._segments[waiting.path]
        left.discard(request_id)
        if not left:
            await self._remove(waiting.path)

    async def _remove(self, path: Path) -> None:
        await asyncio.to_thread(path.unlink, missing_ok=True)
        samples, _ = self._segments.pop(path)
        self._ledger.forget(samples)

    async def _land(self) -> None:
        """Cut what is under way; its samples are still in their files."""
        for _, task in list(self._flying.values()):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


def _bench(route: RouteSettings | None, settings: Settings) -> Bench | None:
    """The judge of a route; None when it has none that could be asked."""
    if route is None or route.judge is None:
        return None
    found = find_model(settings, route.judge.model)
    return Bench(route.judge, *found) if found is not None else None
