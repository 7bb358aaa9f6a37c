"""The loop over strategies: what the configuration lets run by itself, and what people asked for, looked at again.

Every interval each configured strategy has one optimization per route, made here if there is none, and every one that
has not reached traffic gets its strategy's present answer. Nothing here moves traffic; that is the controller's.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from optimizer.evidence import EvidenceSource
from optimizer.publisher import gather
from optimizer.rollouts.book import Book
from optimizer.rollouts.controller import Controller
from optimizer.rollouts.faults import Conflict, NotFound, Refused
from optimizer.rollouts.overlays import RouteOverlay, effective
from optimizer.rollouts.records import LOOP, SPLITTING, Optimization, Proposal, Status
from optimizer.rollouts.traffic import Rates, p95_ms
from optimizer.settings import RouteSettings, Settings, StrategySettings
from optimizer.strategies.base import NOT_APPLICABLE, NOT_ENOUGH_DATA, NoProposal, Situation
from optimizer.strategies.registry import STRATEGIES, choosing_routes
from optimizer.strategies.trials import PromptTrials

ACTOR: Final = "optimizer"
TRIED: Final = "tried_before"
NO_ROUTE: Final = "no_route"
MOST_NAMED: Final = 6
_UNDECIDED: Final = frozenset((Status.COLLECTING, Status.PROPOSED))
_BUSY: Final = frozenset((*_UNDECIDED, *SPLITTING))

_log = logging.getLogger(__name__)


class Strategist:
    """Asks strategies and hands their answers to the controller.

    Args:
        controller: Takes the answers.
        book: Which optimizations there are.
        settings: The configuration in use.
        source: What is known about arms.
        trials: The randomised slices of prompt tests.
        rates: Traffic of the routes.
        now: Unix seconds.
        published: The control side's share of every arm in the table in use, by route name.
    """

    def __init__(
        self,
        controller: Controller,
        book: Book,
        *,
        settings: Callable[[], Settings],
        source: EvidenceSource,
        trials: PromptTrials,
        rates: Rates,
        now: Callable[[], float],
        published: Callable[[str], Mapping[str, float]] | None = None,
    ) -> None:
        self._controller = controller
        self._book = book
        self._settings = settings
        self._source = source
        self._trials = trials
        self._rates = rates
        self._now = now
        self._published = published

    async def round(self) -> None:
        """One turn of the loop: make what is missing, then look at everything that is undecided."""
        settings = self._settings()
        if settings.optimization.enabled:
            for strategy, route in _wanted(settings):
                self._ensure(strategy, route)
        for record in self._book.live():
            await self.look_at(record)

    async def look_at(self, record: Optimization) -> Optimization:
        """Ask the strategy of one optimization that has not reached traffic, and settle its answer; the record then."""
        if record.status not in _UNDECIDED:
            return record
        answer = await self.ask(record)
        if record.origin == LOOP and not isinstance(answer, NoProposal):
            before = self._controller.blocked(record.route, answer.candidate, self._settings().config_hash)
            if before is not None:
                answer = NoProposal(
                    TRIED, f"The same change was tried: {before.id} is {before.status}; retry that."
                )
        elif isinstance(answer, NoProposal) and answer.reason == NOT_ENOUGH_DATA:
            answer = replace(answer, explanation=f"{answer.explanation}{_still_needed(answer)}")
        try:
            return self._controller.settle(record.id, answer)
        except (Conflict, NotFound) as error:
            # Somebody was quicker; the next round sees what became of it.
            _log.debug("%s was not settled: %s", record.id, error)
            return self._book.get(record.id) or record

    async def ask(self, record: Optimization) -> Proposal | NoProposal:
        """What the strategy of ``record`` answers now: a proposal, or why none."""
        situation = self.situation(record.route)
        strategy = STRATEGIES.get(record.strategy)
        if situation is None:
            return NoProposal(
                NO_ROUTE, f"There is no route {record.route!r} yet; it is looked for again and again."
            )
        if strategy is None:
            return NoProposal(NOT_APPLICABLE, f"This version does not know the strategy {record.strategy!r}.")
        parameters, problems = strategy.check(record.parameters, situation.settings, situation.file)
        if problems:
            told = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
            return NoProposal(NOT_APPLICABLE, f"The parameters no longer fit the configuration: {told}")
        try:
            # It may take tens of milliseconds, and the loop has guards to watch meanwhile.
            return await asyncio.to_thread(strategy.propose, situation, parameters)
        except Exception as error:  # noqa: BLE001 - one strategy's fault must not stop the others
            _log.exception("the strategy %s failed on route %s", record.strategy, record.route)
            return NoProposal(
                "strategy_failed", f"The strategy failed ({type(error).__name__}); the log says why."
            )

    def situation(self, route: str) -> Situation | None:
        """All that a strategy may look at; None without such a route."""
        settings, now = self._settings(), self._now()
        file = settings.route(route)
        if file is None:
            return None
        overlay = self.overlay(route)
        return Situation(
            route=overlay.control if overlay is not None else file,
            file=file,
            evidence=gather(file, self._source, now=now),
            settings=settings,
            requests_per_s=self._rates.per_second(route, now=now),
            now=now,
            trials=self._trials.results(overlay.control if overlay is not None else file),
            published=self._published(route) if self._published is not None else {},
        )

    def overlay(self, route: str) -> RouteOverlay | None:
        """The route as it is published; None without such a route."""
        return effective(self._settings(), self._book.overlaying()).get(route)

    def reference_ms(self, route: str, shares: Mapping[str, float]) -> float | None:
        """The control's own 95th percentile, None while too little is known; ``shares`` by arm."""
        overlay = self.overlay(route)
        if overlay is None:
            return None
        evidence = gather(overlay.control, self._source, now=self._now())
        return p95_ms(evidence, [shares.get(arm.arm, 0.0) for arm in evidence])

    def _ensure(self, strategy: StrategySettings, route: RouteSettings) -> None:
        for record in self._book.on_route(route.name):
            if record.strategy == strategy.name and record.origin == LOOP and record.status in _BUSY:
                return
        try:
            self._controller.create(
                f"{strategy.name} of {route.name}",
                strategy.name,
                route.name,
                strategy.parameters,
                actor=ACTOR,
                origin=LOOP,
            )
        except (Conflict, Refused) as error:
            _log.warning("no optimization %s of route %s: %s", strategy.name, route.name, error)


def _still_needed(answer: NoProposal) -> str:
    """What is missing, in numbers; the greatest gaps first."""
    missing = sorted(answer.needed.items(), key=lambda item: (-item[1], item[0]))[:MOST_NAMED]
    named = ", ".join(f"{count:g} {what}" for what, count in missing if count > 0.0)
    return f" Still needed: {named}." if named else ""


def _wanted(settings: Settings) -> Iterator[tuple[StrategySettings, RouteSettings]]:
    """Every (strategy, route) that the configuration lets run."""
    choosing = choosing_routes(settings)
    for strategy in settings.optimization.strategies:
        for route in choosing:
            if not strategy.routes or route.name in strategy.routes:
                yield strategy, route
