"""From requests over real sockets to a table that tells them apart, and back: learned, logged, explained, kept."""

import asyncio
import signal
import time
from base64 import b64decode
from typing import Any

import numpy as np
import pytest

from optimizer import selector_file
from optimizer.log.node import StateDirectory
from policies.contextual import ContextualSelector
from tests.integration.learning.conftest import CONFIG, People, share

pytestmark = pytest.mark.slow


async def _learn(people: People, *, seconds: float = 60.0) -> None:
    """Go on until hard and easy requests are told apart."""
    end = time.monotonic() + seconds
    good = 0
    while good < 2:
        answered = await people.ask(100)
        told_apart = share(answered, "hard", "large") > 0.85 and share(answered, "easy", "small") > 0.85
        good = good + 1 if told_apart else 0
        assert time.monotonic() < end, answered
        await asyncio.sleep(0.5)


async def test_requests_are_told_apart_and_a_restart_keeps_it(serve: Any, upstream_url: str) -> None:
    """Hard ones end at the large model, easy ones at the small one, for half the money; the log says how."""
    product = await serve(CONFIG.format(url=upstream_url, reduction=0.5))
    people = People(product.url)
    await _learn(people)

    _check_events(product)
    status = await _constraint(product)
    assert status["target"] == pytest.approx(0.5 * (10 * 2.5 + 5 * 10) * 1e-6, rel=0.1)
    assert status["feasible"]
    assert status["expected"] <= 1.6 * status["target"]
    await _check_explained(product)

    product.signal(signal.SIGTERM)
    assert await product.ended() == 0
    again = await serve(CONFIG.format(url=upstream_url, reduction=0.5))
    people.url = again.url
    first = await people.ask(60, rated=False)
    assert share(first, "hard", "large") > 0.75, first
    assert share(first, "easy", "small") > 0.75, first


def _check_events(product: Any) -> None:
    """Every decision that was drawn can be drawn again from the file that it names."""
    directory = StateDirectory(product.state).selector_directory
    drawn = 0
    for event in product.events():
        data = event["data"]
        x = np.frombuffer(b64decode(data["context"]["x"]), "<f4")
        assert x[0] == 1.0
        assert sum(data["probabilities"]) == pytest.approx(1.0, abs=1e-5)
        assert data["propensity"] == data["probabilities"][data["arms"].index(data["arm"])]
        if "draw" not in data:
            continue
        drawn += 1
        path = directory / data["selector"]
        arm, vector = ContextualSelector(path.name, selector_file.load(path)).choose(data["draw"], 0b11, x)
        assert data["arms"][arm] == data["arm"]
        assert data["probabilities"] == pytest.approx(vector, abs=1e-5)
    assert drawn > 100


async def _constraint(product: Any) -> dict[str, Any]:
    arms = await product.admin.get("/api/v1/arms")
    (kept,) = arms["steering"]["auto"]["kept"]
    return dict(kept)


async def _check_explained(product: Any) -> None:
    """The newest decision, in words."""
    id_ = product.events()[-1]["id"]
    answer = await product.admin.get(f"/api/v1/decisions/{id_}")
    assert answer["decision"]["features"][0]["value"] == 1.0
    assert any("held to at most" in sentence for sentence in answer["explanation"]), answer["explanation"]


async def test_settings_that_change_are_kept_at_once(serve: Any, upstream_url: str, tmp_path: Any) -> None:
    """A tighter target is in the next table, without waiting for requests."""
    product = await serve(CONFIG.format(url=upstream_url, reduction=0.1))
    people = People(product.url)
    await people.ask(150)
    before = await _until_target(product, lambda target: target > 0.0)

    (tmp_path / "config.yaml").write_text(CONFIG.format(url=upstream_url, reduction=0.9))
    product.signal(signal.SIGHUP)

    after = await _until_target(product, lambda target: target < 0.2 * before)
    assert after == pytest.approx(before / 9.0, rel=0.2)
    answered = await people.ask(60)
    assert answered["hard-large"] + answered["easy-large"] < 20


async def _until_target(product: Any, holds: Any) -> float:
    end = time.monotonic() + 15.0
    while True:
        arms = await product.admin.get("/api/v1/arms")
        kept = arms["steering"].get("auto", {}).get("kept", [])
        if kept and holds(kept[0]["target"]):
            return float(kept[0]["target"])
        assert time.monotonic() < end, arms["steering"]
        await asyncio.sleep(0.1)
