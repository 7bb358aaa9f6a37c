"""Where people's wishes about optimizations arrive: checked, resolved to a route, and handed to the controller.

The desk decides nothing about traffic. It knows what a request may mean, so that the controller gets only what can be
meant, and every problem of a request is told at once.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from optimizer.rollouts.audit import AuditRow
from optimizer.rollouts.book import Book
from optimizer.rollouts.controller import Controller
from optimizer.rollouts.machine import verbs_for
from optimizer.rollouts.overlays import layer
from optimizer.rollouts.progress import Progress
from optimizer.rollouts.records import SPLITTING, Optimization, Status
from optimizer.settings import RolloutPlan, Settings
from optimizer.strategies.base import Strategy
from proxy.config.problems import Problem, suggest
from proxy.control.answers import Answers, AnswerStore

AUTO: Final = "auto"

_UNDECIDED: Final = frozenset((Status.COLLECTING, Status.PROPOSED))


class Unacceptable(Exception):
    """A request can not be meant; ``problems`` has every reason."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Wish:
    """An optimization that somebody asks for. ``route`` None: the one that can only be meant."""

    name: str
    strategy: str
    route: str | None
    parameters: Mapping[str, Any]
    deploy: bool = False


class OptimizationDesk:
    """People's side of the controller.

    Args:
        controller: Does it.
        book: Which optimizations there are.
        strategies: By name.
        settings: The configuration in use.
        look_at: Asks the strategy of an optimization that has not reached traffic; the record as it is then.
        store: The database.
        progress: How far the stage of a running or paused rollout is.
    """

    def __init__(
        self,
        controller: Controller,
        book: Book,
        strategies: Mapping[str, Strategy],
        *,
        settings: Callable[[], Settings],
        look_at: Callable[[Optimization], Awaitable[Optimization]],
        store: AnswerStore,
        progress: Callable[[Optimization], Progress | None],
    ) -> None:
        self._controller = controller
        self._book = book
        self._strategies = strategies
        self._settings = settings
        self._look_at = look_at
        self._progress = progress
        self.answers = Answers(store)

    async def create(self, wish: Wish, *, actor: str) -> Optimization:
        """Make an optimization and ask its strategy at once.

        Raises:
            Unacceptable: With every problem.
            Conflict: See ``Controller.create``.
        """
        parameters, route = self._checked(wish)
        record = self._controller.create(wish.name, wish.strategy, route, parameters, actor=actor)
        if wish.deploy:
            record = await self._controller.command(record.id, "deploy", actor=actor)
        return await self._look_at(record)

    @property
    def knows_all(self) -> bool:
        """Whether what is not known here does not exist."""
        return self._controller.knows_all

    def get(self, id_: str) -> Optimization | None:
        """One optimization, deleted ones too, as long as they are known."""
        return self._book.get(id_)

    def matching(
        self, *, statuses: Collection[Status], strategy: str | None, route: str | None
    ) -> list[Optimization]:
        """Those that match; None matches all."""
        return [
            record
            for record in self._book.everything()
            if record.status in statuses
            and strategy in (None, record.strategy)
            and route in (None, record.route)
        ]

    async def command(
        self,
        id_: str,
        verb: str,
        *,
        actor: str,
        revision: int | None = None,
        reason: str = "",
        full: bool = False,
        plan: RolloutPlan | None = None,
    ) -> Optimization:
        """What a person orders; raises as ``Controller.command`` does."""
        return await self._controller.command(
            id_, verb, actor=actor, revision=revision, reason=reason, full=full, plan=plan
        )

    def verbs(self, record: Optimization) -> tuple[str, ...]:
        """What a person may order now."""
        return verbs_for(record)

    def plan(self, record: Optimization) -> RolloutPlan:
        """The plan of the record's rollout; before one, what deploying would follow."""
        if record.rollout is not None and record.status not in _UNDECIDED:
            return record.rollout.plan
        return record.plan or self._settings().deployment.plan

    def progress(self, record: Optimization) -> Progress | None:
        """How far the stage of its rollout is at this moment; None while it splits no traffic."""
        return self._progress(record) if record.status in SPLITTING else None

    def rollout_on(self, route: str) -> Optimization | None:
        """The rollout that divides a route's traffic now."""
        return self._book.splitting(route)

    def deployed_on(self, route: str) -> list[Optimization]:
        """Overlays of a route, in the order in which they apply."""
        found = [record for record in self._book.on_route(route) if record.status is Status.DEPLOYED]
        return sorted(found, key=layer)

    def overlaying(self) -> list[Optimization]:
        """Everything that changes a route now."""
        return self._book.overlaying()

    def pending_audit(self) -> Sequence[AuditRow]:
        """Rows of the audit that are on their way to the database."""
        return self._controller.outbox.rows

    def audit(self, actor: str, action: str, target: str, detail: Mapping[str, Any]) -> None:
        """Keep what somebody did elsewhere on the admin surface; never waits for the database."""
        self._controller.audit(actor, action, target, detail)

    def _checked(self, wish: Wish) -> tuple[Mapping[str, Any], str]:
        settings = self._settings()
        name, given, problems = meant_route(wish, settings)
        strategy = self._strategies.get(wish.strategy)
        if strategy is None:
            hint = suggest(wish.strategy, self._strategies)
            problems.append(Problem("strategy", f"there is no strategy {wish.strategy!r}.", hint))
            raise Unacceptable(problems)
        checked, found = strategy.check(given, settings, settings.route(name))
        problems += [
            Problem(f"parameters.{problem.path}" if problem.path else "parameters", problem.message)
            for problem in found
        ]
        if problems:
            raise Unacceptable(problems)
        return checked, name


def meant_route(wish: Wish, settings: Settings) -> tuple[str, dict[str, Any], list[Problem]]:
    """The route that a wish means, its other parameters, and what is wrong with how it says so."""
    given = dict(wish.parameters)
    problems: list[Problem] = []
    route = wish.route
    inner = given.pop("route", None)
    if inner is not None and (not isinstance(inner, str) or (route is not None and inner != route)):
        problems.append(Problem("parameters.route", "must be the name of a route, and the same as `route`."))
    elif inner is not None:
        route = inner
    name, wrong = _route(route, settings)
    if wrong is not None:
        problems.append(wrong)
    return name, given, problems


def _route(asked: str | None, settings: Settings) -> tuple[str, Problem | None]:
    names = [route.name for route in settings.routes]
    if asked is not None:
        if asked in names or (not names and asked == AUTO):
            return asked, None
        return asked, Problem("route", f"there is no route {asked!r}.", suggest(asked, names))
    if len(names) == 1:
        return names[0], None
    if AUTO in names or not names:
        return AUTO, None
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return AUTO, Problem("route", "is required, because there are several routes.", f"Known: {listed}.")
