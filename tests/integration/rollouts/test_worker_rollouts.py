"""A real worker with a rollout in its table: it counts for the guards, and stops a candidate that fails by itself."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from aiohttp import web

from optimizer.events import WORKER_STATS
from optimizer.guard import renew
from optimizer.rollouts.feed import GuardFeed
from optimizer.rollouts.guards import SideCounts
from optimizer.routing import Guarding, Resilience, Sticky

CHAT = "/v1/chat/completions"


@dataclass
class Rollout:
    """A worker whose route ``chat`` has the control ``a`` and the candidate ``b``, and what is asked of it."""

    proxy: Any
    upstream: Any
    shapes: Any
    feed: GuardFeed
    version: int = 1

    def publish(self, **changes: Any) -> None:
        """The next table; ``candidate=None`` ends the rollout."""
        self.version += 1
        table = self.shapes.table(self.upstream.url, version=self.version)
        fields = {
            "control": self.shapes.side(self.shapes.arm("a")),
            "candidate": self.shapes.side(self.shapes.arm("b")),
            "candidate_fraction": 0.5,
            "rollout": "ro-1",
            "guarding": Guarding(stage=0, reference_ms=5_000.0, threshold_ms=10_000.0),
        } | changes
        if fields["candidate"] is None:
            fields |= {"candidate_fraction": 0.0, "rollout": None, "guarding": None}
        self.proxy.publish(replace(table, routes=(replace(table.routes[0], **fields),)))

    def fail(self, *models: str, status: int = 500) -> None:
        """From now on these models answer with an error."""

        async def handler(request: web.Request) -> web.StreamResponse:
            model = self.upstream.bodies[-1]["model"].removesuffix("-id")
            if model in models:
                return web.json_response({"error": {"message": "no", "type": "server_error"}}, status=status)
            if self.upstream.bodies[-1].get("stream"):
                return await self._stream(request, model)
            return web.json_response(self.shapes.completion(model))

        self.upstream.handler = handler

    async def _stream(self, request: web.Request, model: str) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model}
        for choice in (
            {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        ):
            await reply.write(b"data: " + orjson.dumps(head | {"choices": [choice]}) + b"\n\n")
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def guarded(self, seconds: float = 0.0) -> None:
        """Renew the guard file as of ``seconds`` ago, and wait until the worker has looked at it."""
        renew(self.proxy.state.guard_file, time.time() - seconds)
        await until(lambda: self.proxy.worker.plane.guarded == (seconds < 10))

    async def asked(self, more: int) -> None:
        """Wait until somebody else has asked so often."""
        goal = len(self.upstream.bodies) + more
        await until(lambda: len(self.upstream.bodies) >= goal)

    async def ask(self, times: int = 1, **fields: Any) -> Counter[int]:
        """Requests one after the other; their statuses."""
        headers = fields.pop("headers", {})
        statuses: Counter[int] = Counter()
        for _ in range(times):
            body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]} | fields
            reply = await self.proxy.client.post(CHAT, json=body, headers=headers)
            statuses[reply.status_code] += 1
        return statuses

    async def ask_until_stopped(self, most: int = 200) -> Counter[int]:
        statuses: Counter[int] = Counter()
        while self.stops() == [] and statuses.total() < most:
            statuses += await self.ask()
        return statuses

    def events(self) -> list[dict[str, Any]]:
        return [event["data"] for event in self.proxy.events()]

    def reports(self) -> list[dict[str, Any]]:
        return [event["data"] for event in self.proxy.events(WORKER_STATS)]

    def stops(self) -> list[list[str]]:
        return [stop for report in self.reports() for stop in report["stops"]]

    async def counted(self, ended: int) -> dict[tuple[int, str], SideCounts]:
        """What the feed got by (stage, side), once ``ended`` requests are in it, those that were rejected too."""
        total: dict[tuple[int, str], SideCounts] = {}

        def arrived() -> bool:
            for route, rollout, stage, side, counts in self.feed.poll().observations:
                assert (route, rollout[:3]) == ("chat", "ro-")
                total[stage, side] = total.get((stage, side), SideCounts()) + counts
            return sum(counts.resolved + counts.rejected for counts in total.values()) >= ended

        await until(arrived)
        return total


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)


@pytest.fixture
async def rollout(proxy: Any, upstream: Any, shapes: Any) -> Rollout:
    feed = GuardFeed(proxy.state.log_directory, cursor=None)
    begun = Rollout(proxy, upstream, shapes, feed)
    begun.fail()
    begun.publish()
    await begun.guarded()
    return begun


async def test_what_the_guards_are_told_is_what_happened(rollout):
    """Unary and streamed, completed and failed: the feed's sums are those of the events, side by side."""
    await rollout.ask(20)
    await rollout.ask(10, stream=True)
    rollout.fail("a", "b", status=429)
    await rollout.ask(1)
    rollout.fail("a", "b", status=400)
    await rollout.ask(6)
    await rollout.ask(5, headers={"x-llm-optimizer-pin": "b"})
    total = await rollout.counted(37)

    for side in ("control", "candidate"):
        seen = [e for e in rollout.events() if e["side"] == side and e["reason"] != "pinned"]
        outcomes = Counter(event["outcome"] for event in seen)
        counts = total[0, side]
        assert counts.assigned == len(seen)
        assert counts.resolved == outcomes["completed"] + outcomes["censored"]
        assert counts.errors == outcomes["censored"]
        assert counts.rejected == outcomes["caller_fault"]
        assert counts.timed == counts.priced == outcomes["completed"]
        assert counts.slow == counts.late == counts.invalid == 0
        assert counts.cost_usd == pytest.approx(sum(event["cost_usd"] or 0.0 for event in seen))
    assert sum(counts.assigned for counts in total.values()) == 37


async def test_a_candidate_whose_upstream_fails_is_stopped_at_once(rollout):
    """Five errors in a row beside a healthy control: no caller gets a sixth, and the report does not wait."""
    await rollout.ask(80)
    rollout.fail("b")
    statuses = await rollout.ask_until_stopped()
    assert statuses[500] == 5
    assert await rollout.ask(60) == {200: 60}

    lines = list(rollout.proxy.lines())
    deciding = max(n for n, line in enumerate(lines) if line["data"].get("side") == "candidate")
    report = lines[deciding + 1]
    assert (report["type"], report["data"]["stops"]) == (WORKER_STATS, [["chat", "ro-1", "hard_stop"]])
    after = [line["data"] for line in lines[deciding + 2 :] if line["type"] != WORKER_STATS]
    assert {event["side"] for event in after} == {"control"}
    assert {event["side_probability"] for event in after} == {1.0}
    marked = sum(event.get("stopped", False) for event in after)
    assert 15 < marked < 45  # half of 60, within 4 sigma
    assert rollout.feed.poll().stops == [("chat", "ro-1", "hard_stop")]


async def test_what_a_fallback_saves_still_counts_against_the_candidate(rollout):
    """By intention to treat: no caller notices anything, and the candidate is stopped all the same."""
    patient = Resilience(attempts=3, same_arm=0)
    both = rollout.shapes.side(
        rollout.shapes.arm("b"), rollout.shapes.arm("a"), probabilities=(0.999999, 0.000001)
    )
    rollout.publish(candidate=both, resilience=patient)
    await rollout.ask(80)
    rollout.fail("b")
    statuses = await rollout.ask_until_stopped()

    assert set(statuses) == {200}
    assert rollout.stops()[0] == ["chat", "ro-1", "hard_stop"]
    total = await rollout.counted(80 + statuses.total())
    # The breaker may have kept the arm out of a draw, which is then served by the other one.
    assert total[0, "candidate"].errors >= 5
    assert total[0, "control"].errors == 0


async def test_a_stop_outlives_tables_but_not_its_rollout(rollout):
    """The next stage, a reload, everything to the candidate: control serves, until there is another rollout or none."""
    await rollout.ask(60)
    rollout.fail("b")
    await rollout.ask_until_stopped()
    rollout.publish(guarding=Guarding(stage=1), candidate_fraction=1.0)
    assert await rollout.ask(20) == {200: 20}
    assert {event["stopped"] for event in rollout.events()[-20:]} == {True}
    rollout.fail()
    rollout.publish(rollout="ro-2", candidate_fraction=1.0)
    await rollout.ask(5)
    assert {event["side"] for event in rollout.events()[-5:]} == {"candidate"}
    rollout.publish(candidate=None)
    await rollout.ask(5)

    assert {(event["side"], event["rollout"]) for event in rollout.events()[-5:]} == {("control", None)}
    assert not any("stopped" in event for event in rollout.events()[-10:])


async def test_an_outage_of_both_sides_is_reported_and_stops_nobody(rollout):
    """Control's upstream fails as well: the baseline is failing, which a person has to know, and traffic stays put."""
    await rollout.ask(60)
    rollout.fail("a", "b")
    await rollout.ask_until_stopped()
    assert rollout.stops() == [["chat", "ro-1", "baseline_failing"]]
    await rollout.ask(40)

    assert rollout.stops() == [["chat", "ro-1", "baseline_failing"]]
    assert "candidate" in {event["side"] for event in rollout.events()[-20:]}


async def test_without_a_guard_nothing_is_counted(rollout):
    """Units of the candidate's get control and are marked; neither side is compared with nothing."""
    await rollout.guarded(seconds=30.0)
    await rollout.ask(20)
    await rollout.guarded()
    await rollout.ask(10)
    total = await rollout.counted(10)

    lost, kept = rollout.events()[:20], rollout.events()[20:]
    assert {event["side"] for event in lost} == {"control"}
    assert 0 < sum(event.get("guard_lost", False) for event in lost) < 20
    assert not any("guard_lost" in event for event in kept)
    assert sum(counts.assigned for counts in total.values()) == 10


async def test_slow_answers_are_counted_by_what_the_table_says(rollout):
    """The references come with the table; both counts follow from them."""
    rollout.publish(guarding=Guarding(stage=3, reference_ms=0.0001, threshold_ms=60_000.0))
    await rollout.ask(10)
    await rollout.ask(10, stream=True)
    total = await rollout.counted(20)

    for side in ("control", "candidate"):
        counts = total[3, side]
        assert (counts.slow, counts.late) == (counts.timed, 0)


async def test_a_route_without_a_rollout_counts_nothing(rollout):
    """Its rows in the reports are what they were."""
    rollout.publish(candidate=None)
    await rollout.ask(10)
    await until(lambda: sum(row[4] for report in rollout.reports() for row in report["routes"]) == 10)

    assert all(report["guards"] == report["stops"] == [] for report in rollout.reports())
    rows = [row[:4] for report in rollout.reports() for row in report["routes"]]
    assert {tuple(row) for row in rows} == {("chat", "a", "control", "completed")}


async def test_a_new_table_is_acknowledged_within_half_a_second(rollout):
    """Also while nobody asks for anything, when reports are rare."""
    await until(lambda: bool(rollout.reports()) and rollout.reports()[-1]["table_version"] == rollout.version)
    begun = time.monotonic()
    rollout.publish(candidate=None)
    await until(lambda: rollout.feed.poll().acknowledged.get(1) == rollout.version)

    assert time.monotonic() - begun < 0.5


async def crowd(rollout: Rollout, over: asyncio.Event, people: int = 8) -> None:
    """Each of them asks again and again, under one id, until it is over."""

    async def person(number: int) -> None:
        while not over.is_set():
            assert set(await rollout.ask(headers={"x-session-id": f"person-{number}"})) == {200}

    await asyncio.gather(*(person(number) for number in range(people)))


async def test_after_a_rollback_under_load_the_candidates_share_is_0(rollout):
    """Every request decided by the new table gets control, and once it is acknowledged there are no others."""
    over = asyncio.Event()
    load = asyncio.create_task(crowd(rollout, over))
    await rollout.asked(100)
    rollout.publish(candidate=None)
    await until(lambda: rollout.feed.poll().acknowledged.get(1) == rollout.version)
    at = len(rollout.events())
    await rollout.asked(100)
    over.set()
    await load
    sides = Counter((event["table_version"], event["side"]) for event in rollout.events())

    assert sides[rollout.version - 1, "candidate"] > 0
    assert sides[rollout.version, "candidate"] == 0
    # Those under way when the table changed may end after the acknowledgement, one per person at most.
    late = [event for event in rollout.events()[at + 8 :] if event["table_version"] != rollout.version]
    assert late == []


async def test_people_stay_inside_while_stages_rise_under_load(rollout):
    """Three stages of one rollout while everybody keeps asking: by the log nobody who was in was ever out again."""
    sticky = {"sticky": Sticky("header", "x-session-id")}
    over = asyncio.Event()
    rollout.publish(candidate_fraction=0.0, **sticky)
    load = asyncio.create_task(crowd(rollout, over, people=24))
    for stage, fraction in enumerate((0.2, 0.5, 1.0)):
        rollout.publish(candidate_fraction=fraction, guarding=Guarding(stage=stage), **sticky)
        await rollout.asked(150)
    over.set()
    await load
    sides: dict[str, list[str]] = {}
    for event in sorted(rollout.events(), key=lambda event: event["table_version"]):
        sides.setdefault(event["unit_hash"], []).append(event["side"])
    total = await rollout.counted(150)

    assert len(sides) == 24
    assert all(
        seen == sorted(seen, reverse=True) for seen in sides.values()
    )  # control first, candidate for ever
    assert {seen[-1] for seen in sides.values()} == {"candidate"}
    assert {stage for stage, _ in total} == {0, 1, 2}
    assert total[0, "control"].assigned > total[0, "candidate"].assigned > 0
    assert (2, "control") not in total


async def test_reports_have_ids_of_their_own(rollout):
    """One that is made at once may fall into the same millisecond as another."""
    await rollout.ask(60)
    rollout.fail("b")
    await rollout.ask_until_stopped()
    while len(rollout.reports()) < 3:
        await rollout.ask()
    ids = [event["id"] for event in rollout.proxy.events(WORKER_STATS)]

    assert len(ids) == len(set(ids))
