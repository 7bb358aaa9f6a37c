"""From logged sketches to files and feature versions, over restarts."""

from base64 import b64encode
from dataclasses import replace

import numpy as np
import pytest

from optimizer import events, selector_file
from optimizer.condenser import Condenser
from optimizer.context.keeper import FIRST_FIT, ProjectionKeeper
from optimizer.context.vector import compile_features, vectorise
from optimizer.context.words import encode_sketch
from optimizer.ingest import Ingest
from optimizer.routing import Arm, ClientFeature
from optimizer.settings import ContextSettings, RouteSettings, Settings

NOON = 1_795_000_000.0
TEXT = "Why does the moon cause tides?"
SMALL = Arm("small/default", "small", "default", "m1", "v1")


def route(context, name="auto"):
    return RouteSettings(name, (SMALL,), SMALL.id, (), context=context)


def settings(*routes):
    return Settings("hash", (), (), (), routes)


WORDS = route(ContextSettings(lexical=True, lexical_size=4))


def feed(keeper, count, name="auto", seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        topic = rng.integers(3)
        buckets = np.unique(rng.integers(1 + 100 * topic, 30 + 100 * topic, size=8)).astype(np.uint16)
        sketch = b64encode(encode_sketch(buckets)).decode()
        data = {"route": name, "sketch": sketch, "started_ms": int(NOON * 1000)}
        keeper.observe({"type": events.REQUEST, "data": data}, None)


@pytest.fixture
def condenser(tmp_path):
    keeper = ProjectionKeeper()
    condenser = Condenser(keeper, tmp_path)
    condenser.configure(settings(WORDS, route(None, "plain")))
    return condenser, keeper, tmp_path


async def test_words_become_features(condenser):
    """The file is there before anybody is told its name, and makes the vectors that the features promise."""
    condenser, keeper, directory = condenser
    before = condenser.features(WORDS)
    assert await condenser.step() == []

    feed(keeper, FIRST_FIT)
    assert await condenser.step() == ["auto"]
    assert await condenser.step() == []

    after = condenser.features(WORDS)
    assert (before.projection, before.lexical) == (None, True)
    assert after.size == before.size + 4
    assert after.version != before.version
    rows = selector_file.load_projection(directory / after.projection)
    assert vectorise(TEXT, compile_features(after, rows)).x.shape == (after.size,)
    assert condenser.files == {after.projection}


async def test_a_route_without_context_has_no_features(condenser):
    """And one whose words do not count has no projection."""
    condenser, _keeper, _directory = condenser

    assert condenser.features(route(None, "plain")) is None
    assert condenser.revision(route(None, "plain")) is None
    assert condenser.features(route(ContextSettings(), "other")).projection is None


async def test_logged_vectors_come_along(condenser):
    """What the log has from before the fit is revised to what workers compute now."""
    condenser, keeper, directory = condenser
    before = condenser.features(WORDS)
    logged = vectorise(TEXT, compile_features(before))
    feed(keeper, FIRST_FIT)
    await condenser.step()

    revision = condenser.revision(WORDS)

    after = condenser.features(WORDS)
    rows = selector_file.load_projection(directory / after.projection)
    expected = vectorise(TEXT, compile_features(after, rows)).x
    assert revision.version == after.version
    assert revision.revise(before.version, logged.x.tobytes(), logged.sketch) == expected.tobytes()
    changed = route(
        ContextSettings(client=(ClientFeature("a", "header", "a"),), lexical=True, lexical_size=4)
    )
    assert condenser.revision(changed).revise(before.version, logged.x.tobytes(), logged.sketch) is None


async def test_restart(condenser):
    """A restored projection is in use at once; without its file it is fitted again, to the same."""
    condenser, keeper, directory = condenser
    feed(keeper, FIRST_FIT)
    await condenser.step()
    features, data = condenser.features(WORDS), keeper.snapshot()

    again = ProjectionKeeper()
    again.restore(data)
    restarted = Condenser(again, directory)
    restarted.configure(settings(WORDS))
    assert restarted.features(WORDS) == features
    assert await restarted.step() == []

    (directory / features.projection).unlink()
    again = ProjectionKeeper()
    again.restore(data)
    restarted = Condenser(again, directory)
    restarted.configure(settings(WORDS))
    assert restarted.features(WORDS).projection is None
    assert await restarted.step() == ["auto"]
    assert restarted.features(WORDS) == features


async def test_a_smaller_size_is_fitted_anew(condenser):
    """Also when the old features say everything that the new ones do."""
    condenser, keeper, _directory = condenser
    feed(keeper, FIRST_FIT)
    await condenser.step()
    smaller = route(ContextSettings(lexical=True, lexical_size=2))

    condenser.configure(settings(smaller))

    assert await condenser.step() == ["auto"]
    assert condenser.features(smaller).size == condenser.features(route(ContextSettings(), "other")).size + 2
    assert len(condenser.files) == 1


async def test_words_that_can_not_be_condensed(condenser, caplog):
    """Sketches without a common word are said once, and waited for."""
    condenser, keeper, _directory = condenser
    for number in range(FIRST_FIT):
        sketch = b64encode(encode_sketch(np.array([1 + number], dtype=np.uint16))).decode()
        data = {"route": "auto", "sketch": sketch, "started_ms": int(NOON * 1000)}
        keeper.observe({"type": events.REQUEST, "data": data}, None)

    assert await condenser.step() == []
    assert await condenser.step() == []

    assert caplog.text.count("can not be condensed") == 1
    assert condenser.features(WORDS).projection is None


async def test_a_route_that_is_gone(condenser):
    """Its projection is no longer kept; the sweep may have the file."""
    condenser, keeper, _directory = condenser
    feed(keeper, FIRST_FIT)
    await condenser.step()

    condenser.configure(settings())

    assert condenser.files == frozenset()


async def test_it_follows_the_log_over_a_restart(node, learning):
    """As a consumer of the reading loop: what was fitted, and the sample, are there again afterwards."""
    configured = replace(learning["settings"](), routes=(WORDS,))
    sketch = b64encode(encode_sketch(np.array([1, 2, 3], dtype=np.uint16))).decode()
    for _ in range(20):
        node.request(sketch=sketch)
    node.request(sketch="/w==")

    for _ in range(2):
        keeper = ProjectionKeeper()
        condenser = Condenser(keeper, node.state.selector_directory)
        ingest = Ingest(node.state)
        ingest.configure(configured)
        ingest.add_consumer(keeper)
        condenser.configure(configured)
        while ingest.step():
            pass
        ingest.close()

        assert [sketch.tolist() for sketch in keeper.sketches("auto")] == [[1, 2, 3]] * 20
        assert ingest.counts["consumer_errors"] == 1
