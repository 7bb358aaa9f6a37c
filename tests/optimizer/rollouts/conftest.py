"""Settings and records that the tests of rollouts share."""

from dataclasses import replace

import pytest

from optimizer.rollouts.overlays import digests, named
from optimizer.rollouts.records import Candidate, Optimization, Proposal, Rollout, Status
from optimizer.routing import Arm, Model, Upstream, Variant
from optimizer.settings import Objective, PolicySettings, RolloutPlan, RouteSettings, Settings, Stage

PLAN = RolloutPlan(stages=(Stage(10.0, 60.0, 100, 600.0), Stage(50.0, 60.0, 100, 600.0), Stage(100.0)))


def arm(name: str, variant: str = "default") -> Arm:
    return Arm(id=name, model=name, variant=variant, model_key=f"key-{name}", variant_key=variant)


def route(name: str = "chat", arms: tuple[str, ...] = ("big", "mid", "small")) -> RouteSettings:
    return RouteSettings(
        name=name,
        arms=tuple(arm(each) for each in arms),
        baseline=arms[0],
        objectives=(Objective("quality", 1.0, maximize=True),),
        policy=PolicySettings(name="fixed"),
    )


def make_settings(*routes: RouteSettings) -> Settings:
    routes = routes or (route(),)
    names = dict.fromkeys(each.model for one in routes for each in one.arms)
    return Settings(
        config_hash="h",
        upstreams=(Upstream(name="up", provider="openai", base_url="http://127.0.0.1:1/v1"),),
        models=tuple(Model(name=name, upstream="up", model_id=name, key=f"key-{name}") for name in names),
        variants=(Variant("default", "identity"),),
        routes=tuple(routes),
    )


def make_record(
    settings: Settings,
    candidate: Candidate,
    *,
    status: Status = Status.RUNNING,
    stage: int = 0,
    name: str = "opt_1",
    deployed_at: float | None = None,
    plan: RolloutPlan = PLAN,
) -> Optimization:
    """A record as the controller would make it."""
    target = settings.routes[0]
    rollout = Rollout(
        id=f"ro_{name}",
        attempt=1,
        plan=plan,
        base=digests(target, named(candidate)),
        started_at=100.0,
        stage=stage,
        stage_started_at=100.0,
        waited_from=100.0,
    )
    return Optimization(
        id=name,
        name="test",
        strategy="manual",
        route=target.name,
        parameters={"arms": ["small"]},
        status=status,
        revision=3,
        origin="api",
        created_at=90.0,
        updated_at=100.0,
        proposal=Proposal(candidate, "use the small one", (), {"small": 10.0}, 0.95, 95.0),
        rollout=rollout,
        deployed_at=deployed_at,
        attempts=1,
    )


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture
def small() -> Candidate:
    """Everything to the arm ``small``."""
    return Candidate(baseline="small", policy=PolicySettings(name="fixed"))


@pytest.fixture
def running(settings: Settings, small: Candidate) -> Optimization:
    return make_record(settings, small)


def edited(settings: Settings, **changes: object) -> Settings:
    """The same settings with the first route changed, as after a reload."""
    first = replace(settings.routes[0], **changes)  # type: ignore[arg-type]
    return replace(settings, routes=(first, *settings.routes[1:]))
