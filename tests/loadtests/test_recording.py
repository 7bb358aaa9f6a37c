"""The replay's yardstick: means of single models and the best fixed mix, checked against a brute force."""

import random

import orjson
import pytest
import yaml

from loadtests.mock_upstream import unary_document
from loadtests.processes import Skipped
from loadtests.recording import DATA, Outcome, Row, of_rows, read
from loadtests.replay import USD_PER_TOKEN, Course, answers, configuration
from proxy.config.load import load_text

ROWS = [
    Row("a", {"low": Outcome(0.2, 1e-6), "middle": Outcome(0.9, 4e-6), "high": Outcome(1.0, 9e-6)}),
    Row("b", {"low": Outcome(0.4, 3e-6), "middle": Outcome(0.7, 6e-6), "high": Outcome(0.8, 11e-6)}),
]


def test_models_are_ordered_by_their_mean_cost() -> None:
    """Cheap first."""
    recording = of_rows(ROWS)

    assert recording.models == ("low", "middle", "high")
    assert recording.mean("middle") == Outcome(pytest.approx(0.8), pytest.approx(5e-6))


@pytest.mark.parametrize("cost", [1e-6, 2e-6, 3e-6, 5e-6, 8e-6, 10e-6, 1.0])
def test_the_best_mix_is_not_beaten_by_any_mix_of_three(cost: float) -> None:
    """The two-model solution is the optimum of the linear program."""
    recording = of_rows(ROWS)
    means = [recording.mean(model) for model in recording.models]
    reward, parts = recording.best_mix(cost)
    rng = random.Random(0)

    assert sum(parts.values()) == pytest.approx(1.0)
    for _ in range(2000):
        raw = [rng.random() for _ in means]
        mix = [share / sum(raw) for share in raw]
        if sum(share * mean.cost for share, mean in zip(mix, means, strict=True)) <= cost:
            assert sum(share * mean.reward for share, mean in zip(mix, means, strict=True)) <= reward + 1e-12


def test_the_upstream_answers_with_the_recorded_cost() -> None:
    """Usage times the configured price is the recorded cost."""

    recording = of_rows(ROWS)
    body = orjson.dumps({"model": "high", "messages": [{"role": "user", "content": "b"}]})

    reply = answers(recording)(body)

    usage = orjson.loads(reply.partition(b"\r\n\r\n")[2])["usage"]
    assert usage["completion_tokens"] * USD_PER_TOKEN == pytest.approx(11e-6, rel=1e-12)


def test_the_replay_configuration_is_accepted() -> None:
    """One route per weighting, over all recorded models."""

    courses = [Course(1.0, 0.0), Course(0.5, 0.5)]
    loaded = load_text(yaml.safe_dump(configuration(of_rows(ROWS), 9001, courses)), {})

    assert {course.route for course in courses} <= {route.name for route in loaded.settings.routes}


def test_a_missing_recording_is_skipped_by_name(tmp_path) -> None:
    """The data is not part of the project."""
    with pytest.raises(Skipped, match=r"none\.jsonl"):
        read(tmp_path / "none.jsonl")


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not on this machine")
def test_every_recorded_cost_is_a_whole_number_of_tokens() -> None:
    """So that the proxy's cost equals the recorded one to 1e-9."""
    for row in read().rows:
        for outcome in row.outcomes.values():
            tokens = round(outcome.cost / USD_PER_TOKEN)
            assert tokens * USD_PER_TOKEN == pytest.approx(outcome.cost, rel=1e-9)


def test_the_static_reply_has_about_the_size_asked_for() -> None:
    """Throughput is compared with replies of a realistic size."""
    assert 600 <= len(unary_document(700)) <= 720
