"""The effective export with optimizations in place: it loads to the routes that are served."""

from dataclasses import replace

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.rollouts.overlays import digests, effective, named
from optimizer.rollouts.records import Candidate, Optimization, Proposal, Rollout, Status
from optimizer.settings import Constraints, Objective, PolicySettings, RolloutPlan
from proxy.config.export import effective_yaml, export
from proxy.config.load import load_text

TEXT = """\
upstreams: {u: {base_url: 'http://h/v1'}}
models:
  m: {price: {input: 1, output: 2}}
  n: {price: {input: 1, output: 2}}
  o: {price: {input: 1, output: 2}}
prompts: {p: Be brief., q: 'Costs $${MONEY}'}
metrics: {custom: [stars]}
optimization: {model_selection: {models: [m, n]}, cost_reduction: {}}
routes:
  chat:
    match: ['${PATTERN:-chat-*}']
    arms:
    - {model: '${FIRST:-m}', id: a, parameters: {temperature: '${HEAT:-hot}', stop: '$${x}'}}
    - {model: n, prompt: q, id: b}
    - {model: o, id: c}
    - {model: m, prompt: p, id: d}
    baseline: '${BASELINE:-a}'
    fallbacks: [c, '${SPARE:-b}', {model: n, parameters: {top_p: 0.5}}]
    hedge_after_ms: 5
    policy: {floor: '${FLOOR:-0.05}', half_life_hours: 3.7}
    objectives: [{name: quality, weight: '${WEIGHT:-0.3}'}]
  shares:
    arms: [m, n, o]
    policy: {type: fixed, probabilities: {m: 0.5, n: 0.3, o: 0.2}}
"""
LOADED = load_text(TEXT, {})
ROUTES = {route.name: route for route in LOADED.settings.routes}
WEIGHTS = st.floats(0.001, 1000, allow_nan=False)
CONSTRAINTS = st.builds(
    Constraints,
    cost_per_day_usd=st.none() | WEIGHTS,
    # A file says what is saved, so a ratio has no more digits than a share that people write.
    cost_ratio=st.none() | st.floats(0.001, 0.999).map(lambda ratio: round(ratio, 9)),
    quality_floor=st.none() | st.floats(0.001, 1),
    latency_p95_ms=st.none() | WEIGHTS,
)


def record(route, candidate, *, status=Status.DEPLOYED, number=1, name="cheaper"):
    """One that the file allows."""
    return Optimization(
        id=f"opt_{number}",
        name=name,
        strategy="manual",
        route=route,
        parameters={},
        status=status,
        revision=1,
        origin="api",
        created_at=1.0,
        updated_at=1.0,
        proposal=Proposal(candidate, "", (), {}, 0.95, 1.0),
        rollout=Rollout(
            id=f"roll_{number}",
            attempt=1,
            plan=RolloutPlan(),
            base=digests(ROUTES[route], named(candidate)),
            started_at=1.0,
            stage=1,
            stage_started_at=1.0,
            waited_from=1.0,
        ),
        deployed_at=float(number) if status is Status.DEPLOYED else None,
    )


@st.composite
def candidates(draw, route):
    """Any change that a strategy could propose."""
    ids = [arm.id for arm in route.arms]
    arms = draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    weights = draw(st.lists(WEIGHTS, min_size=len(arms), max_size=len(arms)))
    shares = {arm: weight / sum(weights) for arm, weight in zip(arms, weights, strict=True)}
    policies = [
        replace(route.policy, floor=draw(st.floats(0, 1)), fixed={}, name="thompson"),
        PolicySettings("fixed", floor=0.0, fixed=shares),
        PolicySettings("epsilon_greedy", floor=0.0, epsilon=draw(st.floats(0, 1))),
    ]
    objectives = [
        Objective("cost", draw(WEIGHTS), maximize=False, scale=draw(st.none() | WEIGHTS)),
        Objective("stars", draw(WEIGHTS), maximize=True),
    ]
    return Candidate(
        arms=draw(st.none() | st.just(tuple(arms))),
        baseline=draw(st.none() | st.sampled_from(arms)),
        policy=draw(st.none() | st.sampled_from(policies)),
        objectives=draw(st.none() | st.just(tuple(draw(st.permutations(objectives))))),
        constraints=draw(st.none() | CONSTRAINTS),
    )


@st.composite
def overlays(draw):
    """Several on one route, among them one that splits, and some that have ended."""
    numbers = draw(st.permutations(range(1, 5)))
    records = []
    for number in numbers[: draw(st.integers(0, 4))]:
        route = draw(st.sampled_from(["chat", "shares", "auto"]))
        status = draw(st.sampled_from([*[Status.DEPLOYED] * 4, Status.RUNNING, Status.ROLLED_BACK]))
        records.append(
            record(route, draw(candidates(ROUTES[route])), status=status, number=number, name=draw(st.text()))
        )
    return records


def with_possible_floor(route):
    """Floors that need more than all traffic act like those that need all of it, which a file may say."""
    if route.policy.floor is None:
        return route
    floor = min(route.policy.floor, 1.0 / len(route.arms))
    return replace(route, policy=replace(route.policy, floor=floor))


@given(overlays())
@settings(max_examples=60, deadline=None)
def test_the_export_loads_to_the_routes_that_are_served(records):
    """Whatever is deployed on top of the file, in whichever order."""
    served = effective(LOADED.settings, records)

    again = load_text(export(LOADED, overlays=records), {}).settings

    assert {route.name: route for route in again.routes} == {
        name: with_possible_floor(one.control) for name, one in served.items()
    }
    assert again.models == LOADED.settings.models
    assert again.variants == LOADED.settings.variants
    assert again.deployment == LOADED.settings.deployment


def test_only_what_was_changed_loses_its_variables():
    """The rest of the file stays adaptable."""
    deployed = record("chat", Candidate(arms=("c", "b"), baseline="b"))

    route = yaml.safe_load(export(LOADED, overlays=[deployed]))["routes"]["chat"]

    assert [arm["id"] for arm in route["arms"]] == ["c", "b"]
    assert route["baseline"] == "b"
    assert route["match"] == ["${PATTERN:-chat-*}"]
    assert route["policy"]["floor"] == "${FLOOR:-0.05}"
    assert route["objectives"][0]["weight"] == "${WEIGHT:-0.3}"


def test_a_rollout_under_way_is_only_mentioned():
    """As a comment, whatever its name is."""
    running = record(
        "chat", Candidate(baseline="b"), status=Status.PAUSED, name="evil\nserver: {port: 1}\x85x: 1"
    )
    deployed = record("shares", Candidate(arms=("m",), policy=PolicySettings()), number=2)
    ended = record("chat", Candidate(baseline="c"), status=Status.ABORTED, number=3)

    text = export(LOADED, overlays=[running, deployed, ended])
    comments = [line for line in text.splitlines() if line.startswith("#")]

    assert comments[1].endswith(
        "opt_1 (evil server: {port: 1} x: 1) is paused at 10 % as rollout roll_1; not part of this."
    )
    assert comments[2:] == ["# Route shares: optimization opt_2 (cheaper) is deployed and part of this."]
    assert ROUTES["chat"] in load_text(text, {}).settings.routes
    assert load_text(text, {}).listen == LOADED.listen


def test_an_overlay_that_the_file_no_longer_allows_is_no_part_of_it():
    """The file is the operator's word."""
    stale = record("chat", Candidate(baseline="b"))
    assert stale.rollout is not None
    stale = replace(stale, rollout=replace(stale.rollout, base={"baseline": "another"}))

    assert export(LOADED, overlays=[stale]) == effective_yaml(LOADED)


def test_many_arms_with_the_default_floor_survive_the_export():
    """Together their floors need more than all traffic, which only a written floor may not."""
    models = {f"m{number}": {} for number in range(60)}
    text = yaml.safe_dump(
        {"upstreams": {"u": {"base_url": "http://h"}}, "models": models, "routes": {"r": {"arms": [*models]}}}
    )
    loaded = load_text(text, {})

    assert load_text(export(loaded), {}).settings == loaded.settings


def test_the_file_is_exported_as_written_whatever_is_deployed():
    """It is the operator's baseline and never rewritten."""
    deployed = record("chat", Candidate(baseline="b"))

    assert export(LOADED, source="file", overlays=[deployed]) == TEXT
