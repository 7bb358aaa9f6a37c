"""The optimizer killed at random moments while people command a rollout: all places agree and none gives too much.

The record is in the log, in the database, in the table and in the answers of the API. Whatever somebody was told has
happened; what the candidate gets never exceeds what the log says, but for the moment workers have to follow.
"""

import asyncio
import os
import random
import signal
import sqlite3
import statistics
import time
from contextlib import suppress
from typing import Any

import httpx
import orjson
import pytest

from optimizer.log.reader import LogReader
from optimizer.rollouts.book import Book
from optimizer.rollouts.codec import record_of, to_plain
from optimizer.rollouts.history import event_time
from tests.integration.rollouts.conftest import Crowd, until_asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TRANSITION = "llm_optimizer.optimization.transition.v1"
STAGES = [
    {"percentage": 30, "duration_sec": 600},
    {"percentage": 60, "duration_sec": 600},
    {"percentage": 100},
]
VERBS = ("pause", "resume", "promote", "rollback", "abort", "retry", "retry", "promote")
ACKNOWLEDGED_S = 0.5
LASTS_S = 20.0


class Commander:
    """Says random verbs to one optimization and remembers what it was told."""

    def __init__(self, url: str, id_: str, rng: random.Random) -> None:
        self.told: list[dict[str, Any]] = []
        self._url = url
        self._id = id_
        self._rng = rng

    async def run(self, until: float) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=5.0) as client:
            while time.monotonic() < until:
                verb = self._rng.choice(VERBS)
                with suppress(httpx.HTTPError):
                    reply = await client.post(f"/api/v1/optimize/{self._id}/{verb}", json={})
                    assert reply.status_code in (200, 202, 409, 502, 503), reply.text
                    if reply.status_code < 300:
                        shown = await client.get(f"/api/v1/optimize/{self._id}")
                        if shown.status_code == 200:
                            self.told.append(shown.json())
                await asyncio.sleep(self._rng.uniform(0.0, 0.15))


async def killing(product: Any, rng: random.Random, until: float) -> int:
    kills = 0
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(0.3, 2.0))
        with suppress(ProcessLookupError, TypeError, OSError, ValueError):
            os.kill(product.pids()["optimizer"], signal.SIGKILL)
            kills += 1
    return kills


def allowed(history: list[tuple[float, float]], begun: float, ended: float) -> float:
    """The highest percentage that the log gave at any time of a request, or shortly before it."""
    before = [share for at, share in history if at <= begun - ACKNOWLEDGED_S]
    during = [share for at, share in history if begun - ACKNOWLEDGED_S < at <= ended]
    return max([*before[-1:], *during], default=0.0)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
async def test_all_places_agree_after_kills_at_random_moments(start, faulty, seed):
    product = await start(more="deployment: {guard_lease_sec: 5}")
    admin = product.admin
    rng = random.Random(seed)
    offset = time.time() - time.monotonic()
    async with Crowd(product.url, people=4).asking() as crowd:
        id_ = await admin.create(STAGES)
        await admin.until(id_, "running")
        end = time.monotonic() + LASTS_S / 2.0
        commanders = [Commander(product.url, id_, random.Random(seed * 10 + number)) for number in range(2)]
        kills, *_ = await asyncio.gather(killing(product, rng, end), *(one.run(end) for one in commanders))
        await asyncio.sleep(1.0)

        async def agreed() -> bool:
            with suppress(httpx.HTTPError):
                reply = await admin.http.get(f"/api/v1/optimize/{id_}")
                return reply.status_code == 200 and stored(product, id_) == replayed(product, id_)
            return False

        limit = time.monotonic() + 30.0
        while not await agreed():
            assert time.monotonic() < limit, (stored(product, id_), replayed(product, id_))
            await asyncio.sleep(0.1)
        shown = await admin.get(f"/api/v1/optimize/{id_}")
        (route,) = (await admin.get("/api/v1/routes"))["routes"]
    assert kills >= 4
    assert crowd.failed == []
    assert {answer.status for answer in crowd.answers} == {200}

    record = replayed(product, id_)
    assert (shown["status"], shown["revision"]) == (record["status"], record["revision"])
    percentage = record_of(record).candidate_percentage if record["status"] != "deployed" else 0.0
    assert route.get("candidate", {}).get("percentage", 0.0) == percentage

    events = [e for e in product.events(TRANSITION) if e["data"]["optimization"] == id_]
    revisions = [event["data"]["revision"] for event in events]
    assert len(revisions) == len(set(revisions)), "no transition twice"
    by_revision = {event["data"]["revision"]: event["data"] for event in events}
    for told in [told for one in commanders for told in one.told]:
        assert by_revision[told["revision"]]["to"] == told["status"], "what somebody was told has happened"
    for before, after in zip(sorted(by_revision), sorted(by_revision)[1:], strict=False):
        if by_revision[before]["to"] == "aborted":
            assert by_revision[after]["verb"] in ("retry", "withhold", "recover")

    # ``new`` is the candidate while the route is divided and the control once it is deployed.
    history = [(event_time(event), event["data"]["percentage"]) for event in events]
    shares = [allowed(history, one.begun + offset, one.at + offset) / 100.0 for one in crowd.answers]
    got = [answer.arm == "new" for answer in crowd.answers]
    above = [
        answer for answer, share, new in zip(crowd.answers, shares, got, strict=True) if new and share == 0.0
    ]
    assert above == [], "the candidate got a request that nobody gave it"
    expected, spread = sum(shares), sum(share * (1.0 - share) for share in shares) ** 0.5
    assert sum(got) <= expected + 5.0 * spread + 1.0


def stored(product: Any, id_: str) -> dict[str, Any] | None:
    with sqlite3.connect(f"file:{product.state}/optimizations.sqlite3?mode=ro", uri=True) as connection:
        row = connection.execute("SELECT record FROM optimizations WHERE id = ?", (id_,)).fetchone()
    connection.close()
    return None if row is None else orjson.loads(row[0])


def replayed(product: Any, id_: str) -> dict[str, Any]:
    """The record as the events of the log rebuild it."""
    book = Book(record_of(event["data"]["record"]) for event in product.events(TRANSITION))
    record = book.get(id_)
    assert record is not None
    return dict(orjson.loads(orjson.dumps(to_plain(record))))


async def test_a_rollback_reaches_every_worker_within_half_a_second(start, faulty, record_property):
    """From the moment it is asked for to the last worker's report with the new table's number, twenty times."""
    product = await start()
    admin = product.admin
    took: list[float] = []
    async with Crowd(product.url, people=4).asking() as crowd:
        for _ in range(20):
            id_ = await admin.create(STAGES)
            await admin.until(id_, "running")
            await until_asked(crowd, "candidate", crowd.sides()["candidate"] + 2)
            reports = Reports(product.state / "log")
            asked = time.monotonic()
            await admin.post(f"/api/v1/optimize/{id_}/rollback")
            version = reports.published()
            while not reports.acknowledged(version, workers=2):
                assert time.monotonic() < asked + 5.0
                await asyncio.sleep(0.005)
            took.append(time.monotonic() - asked)
    record_property("median_s", statistics.median(took))
    record_property("max_s", max(took))
    assert statistics.median(took) < 0.5, took
    assert crowd.failed == []


class Reports:
    """What workers report from now on, and which table was published."""

    def __init__(self, directory: Any) -> None:
        self._reader = LogReader(directory)
        self._cursor: dict[str, tuple[int, int]] = {}
        self._seen: dict[int, int] = {}
        self._version = 0
        self._read()
        self._seen.clear()

    def _read(self) -> None:
        while True:
            batch = self._reader.poll(self._cursor)
            self._cursor = batch.cursor
            for _, event in batch.events():
                if event["type"] == "llm_optimizer.worker.stats.v1":
                    self._seen[event["data"]["worker"]] = event["data"]["table_version"]
                elif event["type"] == "llm_optimizer.table.published.v1":
                    self._version = max(self._version, event["data"]["version"])
            if not batch.more:
                return

    def published(self) -> int:
        self._read()
        return self._version

    def acknowledged(self, version: int, *, workers: int) -> bool:
        self._read()
        return len(self._seen) >= workers and min(self._seen.values()) >= version
