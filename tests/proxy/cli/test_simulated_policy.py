"""From a recording and the command line to an experiment."""

from dataclasses import replace

import numpy as np
import pytest

from optimizer.routing import ClientFeature
from optimizer.settings import Constraints
from proxy.cli.recorded import BadRecording, Cell, Query, Recording
from proxy.cli.simulated_policy import Asked, BadPolicy, client_features, experiment
from proxy.config.problems import ConfigProblems


def recording(n=40, *, text="query", arms=("cheap", "org/dear:1"), start=0) -> Recording:
    """``n`` queries; the second arm is better and dearer."""
    queries = [
        Query(
            f"q{number}",
            text and f"{text} number {number}",
            "even" if number % 2 == 0 else "odd",
            {"tier": "gold" if number % 3 else "none", "age": float(number)},
            {arms[0]: Cell(0.4, 0.001, 0.5), arms[1]: Cell(0.9, 0.01, None)},
        )
        for number in range(start, start + n)
    ]
    return Recording(tuple(queries), arms)


def test_without_a_policy_everything_there_is_counts():
    """Text, words and features; a cost target pursues quality."""
    made = experiment(recording(), Asked(constraints=Constraints(cost_per_request_usd=0.005)))

    route = made.route
    assert [arm.id for arm in route.arms] == ["cheap", "org/dear:1"]
    assert route.baseline == "org/dear:1"
    assert [goal.metric for goal in route.objectives] == ["quality"]
    assert route.constraints.cost_per_request_usd == 0.005
    assert route.context is not None
    assert route.context.lexical
    assert [feature.name for feature in route.context.client] == ["tier", "age"]
    assert made.world.size > 10
    assert len(made.burn_in) == 0
    assert len(made.report) == 40
    assert made.world.groups == ("even", "odd")
    assert np.isnan(made.world.latency[:, 1]).all()


def test_a_floor_alone_pursues_cost():
    """A budget beside it pursues quality again."""
    floor = Asked(constraints=Constraints(quality_floor=0.8))
    both = replace(floor, constraints=Constraints(quality_floor=0.8, cost_per_request_usd=0.005))

    assert [goal.metric for goal in experiment(recording(), floor).route.objectives] == ["cost"]
    assert [goal.metric for goal in experiment(recording(), both).route.objectives] == ["quality"]


def test_a_policy_file_is_the_block_of_a_route(tmp_path):
    """Read as in a configuration; constraints of the command line replace its own."""
    path = tmp_path / "route.yaml"
    path.write_text(
        "policy: {type: thompson, floor: 0.1}\nobjectives: [cost]\nbaseline: cheap\ncontext: false\n"
    )

    made = experiment(recording(), Asked(policy=path, constraints=Constraints(max_request_usd=1.0)))

    assert made.route.policy.floor == 0.1
    assert made.route.baseline == "cheap"
    assert [goal.metric for goal in made.route.objectives] == ["cost"]
    assert made.route.context is None
    assert made.world.size == 1
    assert made.route.constraints == Constraints(max_request_usd=1.0)


@pytest.mark.parametrize("text", ["policy: {type: telepathy}\n", "polcy: thompson\n", "baseline: nobody\n"])
def test_a_policy_file_with_mistakes_is_refused(tmp_path, text):
    """By the problems that a configuration would have."""
    path = tmp_path / "route.yaml"
    path.write_text(text)

    with pytest.raises(ConfigProblems):
        experiment(recording(), Asked(policy=path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy: {\n", "cannot read"),
        ("- thompson\n", "not the keys"),
        ("arms: [cheap]\n", "those of the data"),
    ],
)
def test_a_policy_file_that_is_none_is_named(tmp_path, text, said):
    """The file, and why."""
    path = tmp_path / "route.yaml"
    path.write_text(text)

    with pytest.raises(BadPolicy, match=said) as refused:
        experiment(recording(), Asked(policy=path))

    assert str(path) in str(refused.value)


def test_with_too_many_arms_no_request_is_looked_at():
    """As in a configuration, where such a route has no context."""
    many = recording(arms=tuple(f"arm{number}" for number in range(33)))

    assert experiment(many, Asked()).world.size == 1


def test_burn_in_leaves_something_to_report():
    """A share that takes everything is refused."""
    with pytest.raises(BadRecording, match="no query"):
        experiment(recording(3), Asked(burn_in=0.99))


def test_burn_in_is_a_share_or_a_file_of_its_own():
    """Both come first and are not reported."""
    share = experiment(recording(), Asked(burn_in=0.25))
    other = experiment(recording(), Asked(burn_in=recording(10, start=100)))

    assert (len(share.burn_in), len(share.report)) == (10, 30)
    assert not set(share.burn_in) & set(share.report)
    assert list(other.burn_in) == list(range(10))
    assert list(other.report) == list(range(10, 50))
    with pytest.raises(BadRecording, match="other arms"):
        experiment(recording(), Asked(burn_in=recording(arms=("cheap", "other"))))


def test_what_callers_say_becomes_features():
    """Numbers by their range, few words by name; names of everybody and what never differs are no features."""
    queries = [
        Query(
            str(number),
            features={"age": float(number), "same": 3.0, "tier": "ab"[number % 2], "user": f"u{number}"},
        )
        for number in range(40)
    ]

    assert client_features(queries) == (
        ClientFeature("age", "metadata", "age", (), 0.0, 39.0),
        ClientFeature("tier", "metadata", "tier", ("a", "b")),
    )
