"""The proof of the cluster: its page shows its results, and its bill finds what is wrong."""

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from loadtests.cluster import ledger, page
from loadtests.cluster.__main__ import OLDER, REQUESTS, SCENES, SEEDS
from loadtests.cluster.convergence import HORIZON, NODES, STALENESS_S, until_share
from loadtests.cluster.shipping import fill
from loadtests.markdown import read, rendered
from optimizer.cluster.sharding import shard_of
from optimizer.log.reader import LogReader

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "events"


def test_the_page_shows_the_kept_results():
    """Tables are never typed in."""
    text = (ROOT / page.PAGE).read_text("utf-8")

    assert set(page.TABLES) == set(SCENES)
    assert all(f"<!-- figures: {name} -->" in text for name in SCENES)
    assert rendered(text, read(ROOT / page.KEPT), page.TABLES) == text


def test_what_is_kept_held():
    """A figure that missed what was asked of it is not kept as if nothing had happened."""
    results = read(ROOT / page.KEPT)

    if "convergence" in results:
        assert len(results["convergence"]["rows"]) == len(NODES) * len(STALENESS_S)
    if "chaos" in results:
        rows = {row["name"]: row for row in results["chaos"]["rows"]}
        assert all(row["holds"] for row in rows.values())
        assert rows["requests sent"]["value"] >= REQUESTS
    if "upgrade" in results:
        rows = {row["name"]: row for row in results["upgrade"]["rows"]}
        assert all(row["holds"] for row in rows.values())
        assert sum(OLDER in name for name in rows) == 2
    assert SEEDS == 20


def test_older_tables_take_longer():
    """One seed is enough to see it between the extremes."""
    young, young_share = until_share((0.1, 8, 0))
    old, old_share = until_share((10.0, 8, 0))

    assert young < old < HORIZON
    assert young_share > old_share


def test_a_filled_log_is_read_whole(tmp_path):
    """What the shipping rate is measured with are events of their own ids."""
    size = fill(tmp_path / "state", 500)

    reader = LogReader(tmp_path / "state" / "log")
    batch = reader.poll({}, 10_000_000)
    assert len(batch.entries) == 500
    assert len({event["id"] for _, event in batch.events()}) == 500
    assert 800 < size < 2000


def _message(event, partition=0):
    return SimpleNamespace(value=lambda: orjson.dumps(event), partition=lambda: partition)


def _broker(*messages):
    return SimpleNamespace(messages=lambda topic: list(messages))


@pytest.fixture
def request_event():
    lines = (GOLDEN / "request.v1.jsonl").read_bytes().splitlines()
    return next(event for event in map(orjson.loads, lines) if event["data"]["route"])


def test_the_bill_knows_repeats_from_differences(request_event):
    """The same event again is fine; the same id with something else is not."""
    other = request_event | {"data": request_event["data"] | {"status": 599}}

    again = ledger.read_topic(_broker(_message(request_event), _message(request_event)), shards=None)
    different = ledger.read_topic(_broker(_message(request_event), _message(other)), shards=None)

    assert (again.repeated, again.differing) == (1, Counter())
    assert different.differing == {request_event["type"]: 1}


def test_the_bill_knows_where_events_belong(request_event):
    """In a cluster the partition is the route's."""
    right = shard_of(request_event["data"]["route"], 4)

    assert not ledger.read_topic(_broker(_message(request_event, right)), shards=4).misplaced
    assert ledger.read_topic(_broker(_message(request_event, (right + 1) % 4)), shards=4).misplaced == 1


def test_the_bill_finds_what_is_no_event_of_ours(request_event):
    """Every shape is checked against the schemas."""
    broken = request_event | {"data": {"route": "r"}}

    assert ledger.read_topic(_broker(_message(broken)), shards=None).problems


def test_differences_are_relative():
    """And what only one side knows is infinitely different."""
    key, other = ("r", "a", "cost"), ("r", "b", "cost")

    assert ledger.largest_difference({key: (1e-6,)}, {key: (1e-6 * (1 + 1e-8),)})[0] == pytest.approx(
        1e-8, rel=1e-3
    )
    assert ledger.largest_difference({key: (0.0,)}, {key: (0.0,)}) == (0.0, "")
    assert math.isinf(ledger.largest_difference({key: (1.0,)}, {other: (1.0,)})[0])
