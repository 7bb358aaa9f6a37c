"""Webhooks against real receiving servers: slow ones, broken ones, dead ones, and ones that come back."""

import asyncio
import hashlib
import hmac
import json
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from optimizer import events
from optimizer.log.segment import Position
from optimizer.rollouts.transitions import TRANSITIONS
from optimizer.settings import WebhookSettings
from proxy.config.subscriptions import EVENT_NAMES
from proxy.control import webhooks as module
from proxy.control.webhooks import DEAD, DELIVERED, DROPPED, RETRIED, Webhooks, event_name, sign

HERE = Position("0-worker", 1, 0)


class Clock:
    """Unix seconds that the test moves."""

    def __init__(self) -> None:
        self.time = 1_795_000_000.0

    def __call__(self) -> float:
        return self.time


class Receiver:
    """A subscriber. ``answer`` decides what it says; it keeps what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[web.Request], Awaitable[web.Response]] = self.accept
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def accept(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def start(self) -> None:
        async def handle(request: web.Request) -> web.Response:
            self.seen.append((dict(request.headers), await request.read()))
            return await self.answer(request)

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def ids(self) -> list[str]:
        return [json.loads(body)["id"] for _, body in self.seen]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A subscriber that accepts everything."""
    running = Receiver()
    await running.start()
    yield running
    await running.stop()


def _hook(receiver: Receiver, name: str = "ops", **fields: Any) -> WebhookSettings:
    return WebhookSettings(name, f"http://127.0.0.1:{receiver.port}/hook", **fields)


def _transition(number: int = 1, verb: str = "rollback", to: str = "rolled_back") -> dict[str, Any]:
    data = {
        "optimization": "opt_1", "route": "chat", "rollout": "r1", "revision": number, "verb": verb, "from": "running",
        "to": to, "actor": "local", "reason": "guard:error", "explanation": "too many errors", "stage": 0,
        "percentage": 0.0, "measured": {"error": {"verdict": "fail"}},
        "record": {"id": "opt_1", "name": "cheaper", "strategy": "cost_reduction", "parameters": {"secret": 1}},
    }  # fmt: skip
    return {
        "id": f"opt_1:{number}",
        "type": events.TRANSITION,
        "time": "2026-11-22T16:35:00.123Z",
        "data": data,
    }


def _webhooks(hooks: list[WebhookSettings], clock: Clock, secrets: dict[str, str] | None = None) -> Webhooks:
    return Webhooks(
        lambda: hooks, secret=({} if secrets is None else secrets).get, now=clock, jitter=lambda: 1.0
    )


@asynccontextmanager
async def running(webhooks: Webhooks) -> AsyncIterator[None]:
    """Deliver meanwhile."""
    task = asyncio.create_task(webhooks.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_an_event_is_told_once_and_signed(receiver: Receiver, until: Any) -> None:
    """With what happened, without the rest of the record."""
    clock = Clock()
    webhooks = _webhooks([_hook(receiver, secret="env:HOOK")], clock, {"env:HOOK": "s3cret"})
    webhooks.observe(_transition(), HERE)

    async with running(webhooks):
        await until(lambda: webhooks.counts[DELIVERED] == 1)

    [(headers, body)] = receiver.seen
    document = json.loads(body)
    mac = hmac.new(b"s3cret", f"{int(clock.time)}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["x-llm-optimizer-signature"] == f"t={int(clock.time)},v1={mac}"
    assert headers["x-llm-optimizer-event-id"] == "opt_1:1" == document["id"]
    assert headers["Content-Type"] == "application/json"
    assert document["type"] == "optimization.rolled_back"
    assert document["time"] == "2026-11-22T16:35:00.123Z"
    assert document["data"]["measured"] == {"error": {"verdict": "fail"}}
    assert (document["data"]["name"], document["data"]["strategy"]) == ("cheaper", "cost_reduction")
    assert "record" not in document["data"]
    assert "parameters" not in document["data"]
    assert webhooks.waiting == 0


async def test_only_what_was_subscribed_to(receiver: Receiver, until: Any) -> None:
    """Names and patterns; nothing else of the log, and no inner bookkeeping."""
    hooks = [
        _hook(receiver, "a", events=("optimization.deployed",)),
        _hook(receiver, "b", events=("optimization.*",)),
    ]
    webhooks = _webhooks(hooks, Clock())
    webhooks.observe(_transition(1, "rollback", "rolled_back"), HERE)
    webhooks.observe(_transition(2, "complete", "deployed"), HERE)
    webhooks.observe(_transition(3, "recover", "running"), HERE)
    webhooks.observe({"id": "x", "type": events.REQUEST, "time": "", "data": {}}, HERE)

    async with running(webhooks):
        await until(lambda: webhooks.counts[DELIVERED] == 3)

    assert Counter(receiver.ids()) == {"opt_1:1": 1, "opt_1:2": 2}


async def test_a_failing_subscriber_is_tried_again_with_growing_pauses(
    receiver: Receiver, until: Any
) -> None:
    """500s; the pause doubles up to five minutes, and the event id stays."""
    clock = Clock()
    webhooks = _webhooks([_hook(receiver)], clock)
    webhooks.observe(_transition(), HERE)
    statuses = [500, 503, 404, 302, 200]

    async def answer(request: web.Request) -> web.Response:
        status = statuses[len(receiver.seen) - 1]
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    receiver.answer = answer
    async with running(webhooks):
        for failures, pause in enumerate((1.0, 2.0, 4.0, 8.0), start=1):
            await until(lambda failures=failures: webhooks.counts[RETRIED] == failures)
            clock.time += pause - 0.01
            await asyncio.sleep(0.12)
            assert len(receiver.seen) == failures
            clock.time += 0.02
        await until(lambda: webhooks.counts[DELIVERED] == 1)

    # The redirect was not followed.
    assert receiver.ids() == ["opt_1:1"] * 5


async def test_it_is_given_up_after_a_day(until: Any) -> None:
    """Nobody listens; counted as dead, and gone from the queue."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clock = Clock()
    webhooks = _webhooks([WebhookSettings("ops", f"http://127.0.0.1:{port}/")], clock)
    webhooks.observe(_transition(), HERE)

    async with running(webhooks):
        await until(lambda: webhooks.counts[RETRIED] == 1)
        assert webhooks.waiting == 1
        clock.time += module.GIVE_UP_S
        await until(lambda: webhooks.counts[DEAD] == 1)

    assert webhooks.waiting == 0


async def test_a_slow_subscriber_delays_nobody_else(
    receiver: Receiver, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut off after its time, and takes no more than its share of connections."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    slow = Receiver()
    await slow.start()

    async def never(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    slow.answer = never
    webhooks = _webhooks([_hook(slow, "slow"), _hook(receiver, "quick")], Clock())
    for number in range(20):
        webhooks.observe(_transition(number), HERE)

    async with running(webhooks):
        await until(lambda: webhooks.counts[DELIVERED] == 20)
        assert len(slow.seen) <= 4
        await until(lambda: webhooks.counts[RETRIED] >= 4)
    await slow.stop()

    assert sorted(receiver.ids()) == sorted(f"opt_1:{number}" for number in range(20))


async def test_a_subscriber_that_comes_back_gets_everything(receiver: Receiver, until: Any) -> None:
    """Dead and restarted on the same port."""
    clock = Clock()
    webhooks = _webhooks([_hook(receiver)], clock)
    await receiver.stop()
    for number in range(3):
        webhooks.observe(_transition(number), HERE)

    async with running(webhooks):
        await until(lambda: webhooks.counts[RETRIED] == 3)
        await receiver.start()
        clock.time += 1.0
        await until(lambda: webhooks.counts[DELIVERED] == 3)

    assert sorted(receiver.ids()) == ["opt_1:0", "opt_1:1", "opt_1:2"]


async def test_what_was_not_delivered_outlives_the_process(receiver: Receiver, until: Any) -> None:
    """At least once over restarts: saved with the cursor, also when it was under way."""
    clock = Clock()
    hooks = [_hook(receiver)]
    first = _webhooks(hooks, clock)
    arrived = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    receiver.answer = hang
    first.observe(_transition(), HERE)
    async with running(first):
        await arrived.wait()
    saved = first.snapshot()

    receiver.answer = receiver.accept
    second = _webhooks(hooks, clock)
    second.restore(saved)
    assert second.snapshot() == saved
    async with running(second):
        await until(lambda: second.counts[DELIVERED] == 1)

    assert receiver.ids() == ["opt_1:1", "opt_1:1"]
    third = _webhooks(hooks, clock)
    third.restore(second.snapshot())
    assert (third.waiting, third.counts[DELIVERED]) == (0, 1)


async def test_the_queue_is_bounded(receiver: Receiver) -> None:
    """The oldest go first, counted; the snapshot stays small."""
    webhooks = _webhooks([_hook(receiver)], Clock())
    for number in range(module.MOST_WAITING + 5):
        webhooks.observe(_transition(number), HERE)

    rows = json.loads(webhooks.snapshot())["waiting"]
    assert webhooks.waiting == module.MOST_WAITING
    assert webhooks.counts[DROPPED] == 5
    assert rows[0]["event_id"] == "opt_1:5"
    assert len(webhooks.snapshot()) < 2_000_000


async def test_a_secret_that_is_missing_sends_nothing_unsigned(receiver: Receiver, until: Any) -> None:
    """It waits until the secret is there."""
    clock, secrets = Clock(), dict[str, str]()
    webhooks = _webhooks([_hook(receiver, secret="env:HOOK")], clock, secrets)
    webhooks.observe(_transition(), HERE)

    async with running(webhooks):
        await until(lambda: webhooks.counts[RETRIED] == 1)
        assert receiver.seen == []
        secrets["env:HOOK"] = "later"
        clock.time += 1.0
        await until(lambda: webhooks.counts[DELIVERED] == 1)

    [(headers, body)] = receiver.seen
    assert headers["x-llm-optimizer-signature"] == sign("later", body, at=int(clock.time))


async def test_an_unsubscribed_webhook_is_forgotten(receiver: Receiver, until: Any) -> None:
    """After a reload nothing is sent there any more."""
    hooks = [_hook(receiver)]
    webhooks = _webhooks(hooks, Clock())
    webhooks.observe(_transition(), HERE)
    hooks.clear()

    async with running(webhooks):
        await until(lambda: webhooks.counts[DROPPED] == 1)

    assert receiver.seen == []
    assert webhooks.waiting == 0


async def test_logs_name_the_webhook_and_not_its_address(until: Any, caplog: Any) -> None:
    """An address often holds a token; and one outage is one line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hook = WebhookSettings("ops", f"http://127.0.0.1:{port}/token-1234")
    webhooks = _webhooks([hook], Clock())
    for number in range(3):
        webhooks.observe(_transition(number), HERE)

    async with running(webhooks):
        await until(lambda: webhooks.counts[RETRIED] == 3)

    assert caplog.text.count("webhook ops") == 1
    assert "token-1234" not in caplog.text


def test_every_event_name_may_be_subscribed_to() -> None:
    """The names that are sent are the names that a configuration may ask for, and every verb of the machine has one."""
    assert tuple(EVENT_NAMES) == module.EVENT_NAMES
    inner = {"note", "withhold", "recover"}
    for row in TRANSITIONS:
        name = event_name(row.verb, str(row.target or row.sources[0]))
        assert (name is None) == (row.verb in inner), row.verb
        assert name is None or name in EVENT_NAMES


def test_a_snapshot_of_another_shape_is_refused() -> None:
    """The learner then starts this consumer afresh."""
    webhooks = _webhooks([], Clock())
    for bad in (b"[]", b"{}", b'{"counts": {}, "waiting": [{"webhook": 1}]}', b"x"):
        with pytest.raises((ValueError, TypeError, KeyError)):
            webhooks.restore(bad)
    assert webhooks.waiting == 0


async def test_a_running_node_tells_its_subscribers(
    run_node: Any, config_path: Any, receiver: Receiver, until: Any
) -> None:
    """From the configuration to the signed call; what a dead subscriber missed comes after a restart."""
    block = f"webhooks: [{{name: ops, url: 'http://127.0.0.1:{receiver.port}/hook', secret: '${{HOOK}}'}}]\n"
    config_path.write_text(config_path.read_text() + block)
    wish = {"name": "x", "strategy": "manual", "parameters": {"arms": ["small"], "baseline": "small"}}
    environ = {"HOOK": "s3cret"}

    def types() -> list[str]:
        return [json.loads(body)["type"] for _, body in receiver.seen]

    async with run_node(environ) as node:
        _, made = await node.post("/api/v1/optimize", wish)
        path = f"/api/v1/optimize/{made['id']}"
        await until(lambda: len(receiver.seen) == 2)
        await receiver.stop()
        assert (await node.post(f"{path}/deploy"))[0] == 200
        await until(lambda: node.runtime.webhooks.counts[RETRIED] >= 1)
    receiver_was = list(types())
    await receiver.start()
    async with run_node(environ) as node:
        await until(lambda: len(receiver.seen) == 3)
        assert (await node.post(f"{path}/rollback"))[0] == 200
        await until(lambda: len(receiver.seen) == 4)

    assert sorted(receiver_was) == ["optimization.created", "optimization.proposed"]
    assert types()[2:] == ["optimization.started", "optimization.rolled_back"]
    for headers, body in receiver.seen:
        at = int(headers["x-llm-optimizer-signature"].split(",")[0].removeprefix("t="))
        assert headers["x-llm-optimizer-signature"] == sign("s3cret", body, at=at)
        assert json.loads(body)["data"]["optimization"] == made["id"]


def test_the_documented_receiver_knows_what_is_genuine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies the code of docs/webhooks.md takes what we sign, and nothing else."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "webhooks.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    room: dict[str, Any] = {}
    exec(compile(code, "docs/webhooks.md", "exec"), room)
    is_genuine, body = room["is_genuine"], b'{"id": "opt_1:2"}'
    monkeypatch.setattr(room["time"], "time", lambda: 1_795_000_010.0)

    header = sign("whsec", body, at=1_795_000_000)

    assert is_genuine("whsec", header, body)
    assert not is_genuine("other", header, body)
    assert not is_genuine("whsec", header, body + b" ")
    assert not is_genuine("whsec", sign("whsec", body, at=1_794_000_000), body)
    assert not is_genuine("whsec", "", body)


def test_the_page_names_every_event() -> None:
    """The table of docs/webhooks.md is the list that subscriptions may name."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "webhooks.md").read_text()

    assert set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", page, re.MULTILINE)) == set(EVENT_NAMES)
