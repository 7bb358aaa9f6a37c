"""The loop over strategies: one optimization per strategy and route, settled anew each round, nothing tried twice."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from optimizer.evidence import NoEvidence
from optimizer.rollouts.book import Book
from optimizer.rollouts.controller import Controller
from optimizer.rollouts.records import LOOP, Candidate, Optimization, Proposal, Status
from optimizer.rollouts.traffic import Rates
from optimizer.settings import (
    DeploymentSettings,
    HealthChecks,
    OptimizationSettings,
    RolloutPlan,
    Settings,
    StrategySettings,
)
from optimizer.strategies.trials import PromptTrials
from optimizer.strategist import TRIED, Strategist
from tests.optimizer.rollouts.conftest import make_settings, route

CHANGE = {"arms": ["small"], "baseline": "small", "policy": {"type": "fixed"}}


class MemoryStore:
    """Keeps records in memory, as a store does."""

    async def save(self, record: Optimization, audit: object) -> None: ...

    async def load(self) -> list[Optimization]:
        return []

    async def write(self, records: object, audit_rows: object) -> None: ...


class Scene:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.book = Book()
        self.made = 0
        self.time = 100.0
        self.published: dict[str, dict[str, float]] = {}
        self.controller = Controller(
            self.book,
            store=MemoryStore(),
            journal=lambda type_, data, event_id: True,
            sync_log=self._synced,
            publish=lambda taking: None,
            settings=lambda: self.settings,
            now=lambda: self.time,
            new_id=self._id,
            requests_per_s=lambda route: 1.0,
            reference_ms=lambda route: None,
        )
        self.strategist = Strategist(
            self.controller,
            self.book,
            settings=lambda: self.settings,
            source=NoEvidence(),
            trials=PromptTrials(),
            rates=Rates(now=0.0),
            now=lambda: self.time,
            published=lambda route: self.published.get(route, {}),
        )

    async def _synced(self) -> None: ...

    def _id(self) -> str:
        self.made += 1
        return f"{self.made:016x}"

    def only(self) -> Optimization:
        (record,) = self.book.all()
        return record

    async def wait(self) -> None:
        await self.controller.tick()
        await self.controller.settled()


def configured(name: str = "manual", parameters: Mapping[str, Any] = CHANGE) -> Settings:
    strategies = (StrategySettings(name, parameters),)
    return replace(
        make_settings(route("chat"), route("alone", ("big",))),
        optimization=OptimizationSettings(strategies=strategies),
    )


@pytest.fixture
def scene() -> Scene:
    return Scene(configured())


async def test_every_strategy_gets_one_optimization_per_route_with_a_choice(scene):
    await scene.strategist.round()
    record = scene.only()
    assert (record.route, record.origin, record.auto_deploy) == ("chat", LOOP, True)
    assert record.status is Status.PROPOSED
    await scene.strategist.round()
    assert scene.only().id == record.id
    await scene.wait()


def test_strategies_are_shown_the_shares_that_are_published(scene):
    """What a steered route gives its arms is in no evidence."""
    scene.published["chat"] = {"big": 0.3, "small": 0.7}
    assert scene.strategist.situation("chat").published == {"big": 0.3, "small": 0.7}
    assert scene.strategist.situation("alone").published == {}


async def test_what_was_proposed_deploys_by_itself(scene):
    await scene.strategist.round()
    await scene.wait()
    await scene.wait()
    assert scene.only().status is Status.RUNNING
    assert scene.only().candidate_percentage == 1.0


async def test_a_change_that_was_rolled_back_is_not_tried_again_under_the_same_configuration(scene):
    await scene.strategist.round()
    await scene.wait()
    await scene.wait()
    first = scene.only()
    await scene.controller.command(first.id, "rollback", actor="somebody")
    await scene.strategist.round()
    (second,) = [record for record in scene.book.all() if record.id != first.id]
    assert (second.status, second.reason) == (Status.COLLECTING, TRIED)
    assert first.id in second.explanation
    scene.settings = replace(scene.settings, config_hash="another")
    await scene.strategist.round()
    assert scene.book.get(second.id).status is Status.PROPOSED
    await scene.wait()


async def test_too_little_data_is_an_answer():
    scene = Scene(configured("cost_reduction", {"target_reduction": 0.3}))
    await scene.strategist.round()
    record = scene.only()
    assert (record.status, record.reason) == (Status.COLLECTING, "not_enough_data")
    assert record.explanation
    await scene.wait()


async def test_switched_off_the_loop_makes_nothing(scene):
    scene.settings = replace(scene.settings, optimization=replace(scene.settings.optimization, enabled=False))
    await scene.strategist.round()
    assert scene.book.all() == []


async def test_an_optimization_of_a_route_that_is_gone_says_so(scene):
    await scene.strategist.round()
    scene.settings = make_settings(route("other"))
    await scene.strategist.round()
    assert (scene.only().status, scene.only().reason) == (Status.COLLECTING, "no_route")
    await scene.wait()


async def test_a_proposal_about_a_route_that_has_changed_since_waits_for_the_next_round():
    """Two strategies propose in one round; what the second one knew is about a route that is served no more."""
    scene = Scene(configured())
    both = (
        StrategySettings("manual", {"arms": ["big", "small"], "policy": {"floor": 0.1}}),
        StrategySettings("model_selection", {"criteria": ["cost"]}),
    )
    scene.settings = replace(
        scene.settings,
        optimization=OptimizationSettings(strategies=both),
        deployment=DeploymentSettings(plan=RolloutPlan(stages=())),
    )
    await scene.strategist.round()
    first, second = scene.book.all()
    assert (first.status, second.status) == (Status.PROPOSED, Status.PROPOSED)
    scene.time = 101.0
    for _ in range(4):
        await scene.wait()
    deployed = [record for record in scene.book.all() if record.status is Status.DEPLOYED]
    assert len(deployed) == 1
    scene.time = 102.0
    await scene.strategist.round()
    (other,) = [record for record in (first, second) if record.id != deployed[0].id]
    now = scene.book.get(other.id)
    assert now.status is not Status.PROPOSED or now.proposal.made_at == 102.0
    await scene.wait()
    await scene.wait()
    assert scene.book.get(other.id).status in (Status.DEPLOYED, Status.COLLECTING)


@pytest.mark.parametrize(
    ("for_all", "health_check", "asked", "held_to"),
    [
        (None, None, None, None),
        (None, None, 0.9, 0.9),
        (0.99, None, None, 0.99),
        (0.99, None, 0.9, 0.9),
        (0.99, 0.95, 0.9, 0.95),
        (None, 0.95, 0.9, 0.95),
    ],
)
async def test_the_quality_guard_tolerates_what_the_strategy_was_asked_to_keep(
    for_all, health_check, asked, held_to
):
    """Else a strategy's promise (95 % of the quality) would be taken back for the 5 % that it was allowed."""
    scene = Scene(configured())
    # As the file compiles: what holds for all is also the health check's, unless that has its own.
    checks = HealthChecks(quality_ratio=for_all if health_check is None else health_check)
    scene.settings = replace(
        scene.settings,
        optimization=OptimizationSettings(quality_ratio=for_all),
        deployment=DeploymentSettings(plan=RolloutPlan(checks=checks)),
    )
    made = scene.controller.create("a", "cost_reduction", "chat", {}, actor="somebody")
    proposal = Proposal(Candidate(baseline="small"), "so", (), {}, 0.95, 100.0, quality_ratio=asked)
    scene.controller.settle(made.id, proposal)
    begun = await scene.controller.command(made.id, "deploy", actor="somebody")
    assert begun.rollout.plan.checks.quality_ratio == held_to
