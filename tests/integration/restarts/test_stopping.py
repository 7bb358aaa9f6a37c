"""SIGTERM, SIGINT and second signals to the whole product, and kill -9 of each of its processes."""

import asyncio
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import httpx
import orjson
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is 37 * 12 + 5?"}]
BODY = {"model": "chat", "messages": QUESTION}


def client(product):
    return httpx.AsyncClient(base_url=product.url, timeout=20, trust_env=False)


def streaming(chunks, pause_s):
    return {**BODY, "stream": True, "metadata": {"chunks": str(chunks), "pause_s": str(pause_s)}}


async def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.02)


def refuses(product):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", product.port)) != 0


def alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_the_phases_of_sigterm(start):
    """Unready but alive and serving for the delay, then no new connection, the stream ends, exit 0, all logged."""
    product = await start(drain_ms=10_000, server=", drain_delay_ms: 1200")
    answered = []
    async with (
        client(product) as http,
        client(product) as health,
        http.stream("POST", CHAT, json=streaming(30, 0.1)) as stream,
    ):
        answered.append(stream.headers["x-request-id"])
        began = time.monotonic()
        product.signal(signal.SIGTERM)

        async def unready():
            while (await health.get("/health/ready", headers={"connection": "close"})).status_code != 503:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(unready(), 5)
        noticed_s = time.monotonic() - began
        live = await health.get("/health/live")
        late = await http.post(CHAT, json=BODY)
        answered.append(late.headers["x-request-id"])
        await until(lambda: refuses(product))
        refused_s = time.monotonic() - began
        is_running = product.process.returncode is None
        text = (await stream.aread()).decode()
    status = await product.ended()

    assert noticed_s < 0.8
    assert (live.status_code, late.status_code) == (200, 200)
    assert live.headers["connection"] == late.headers["connection"] == "close"
    assert 1.0 < refused_s < 4.0
    assert is_running
    assert text.endswith("data: [DONE]\n\n")
    assert status == 0
    assert set(answered) == set(product.logged())
    assert all(event["data"]["outcome"] == "completed" for event in product.events())


async def test_what_does_not_end_within_the_window_is_told_so(start):
    """A stream gets an error event and no `[DONE]`, a unary request an answer; both are logged; exit 0."""
    product = await start(workers=1, drain_ms=600)
    async with client(product) as http:
        waiting = asyncio.create_task(http.post(CHAT, json={**BODY, "metadata": {"pause_s": "60"}}))
        async with http.stream("POST", CHAT, json=streaming(1000, 0.05)) as stream:
            await asyncio.sleep(0.2)
            began = time.monotonic()
            product.signal(signal.SIGTERM)
            text = (await stream.aread()).decode()
        unary = await waiting
    status = await product.ended()

    *_, last = [line for line in text.splitlines() if line.startswith("data: ")]
    assert "error" in orjson.loads(last.removeprefix("data: "))
    assert "[DONE]" not in text
    assert unary.status_code == 503
    assert "error" in unary.json()
    assert status == 0
    assert time.monotonic() - began < 5
    assert len(product.logged()) == 2


async def test_a_second_signal_skips_the_waiting(start):
    """Neither delay nor window is waited for; the stream is still told, its event still written."""
    product = await start(workers=1, drain_ms=30_000, server=", drain_delay_ms: 30000")
    async with client(product) as http, http.stream("POST", CHAT, json=streaming(1000, 0.05)) as stream:
        product.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        began = time.monotonic()
        product.signal(signal.SIGTERM)
        text = (await stream.aread()).decode()
    status = await product.ended(10)

    assert time.monotonic() - began < 5
    assert "error" in text.splitlines()[-2]
    assert status == 0
    assert len(product.logged()) == 1


async def test_sigint_skips_the_drain_delay(start):
    """At a terminal nobody has to be told to send callers elsewhere."""
    product = await start(drain_ms=10_000, server=", drain_delay_ms: 30000")
    began = time.monotonic()
    product.signal(signal.SIGINT)
    status = await product.ended(10)

    assert status == 0
    assert time.monotonic() - began < 5


async def test_a_signal_to_the_whole_group_is_one_signal(start):
    """Service managers signal every process of a unit: streams finish all the same."""
    product = await start(drain_ms=10_000)
    async with client(product) as http, http.stream("POST", CHAT, json=streaming(15, 0.1)) as stream:
        pids = product.pids()
        for pid in (*pids["workers"], pids["optimizer"], product.process.pid):
            os.kill(pid, signal.SIGTERM)
        text = (await stream.aread()).decode()
    status = await product.ended()

    assert text.endswith("data: [DONE]\n\n")
    assert status == 0
    assert len(product.logged()) == 1
    assert "starting it again" not in product.log.read_text()


async def test_kill_9_of_a_worker_fails_only_what_it_was_serving(start):
    """What the other worker serves goes on, and callers that come later are served."""
    product = await start(workers=2, drain_ms=10_000)
    victim = product.pids()["workers"][0]
    failed = []
    answered = []

    async def one(http, number):
        del number
        try:
            reply = await http.post(CHAT, json={**BODY, "metadata": {"pause_s": "0.8"}})
            answered.append(reply.headers["x-request-id"])
            assert reply.status_code == 200
        except httpx.TransportError as error:
            failed.append(error)

    async with client(product) as http:
        first = [asyncio.create_task(one(http, number)) for number in range(40)]
        await asyncio.sleep(0.4)
        served_by_victim = len(established(victim, product.port))
        os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(0.05)
        later = [asyncio.create_task(one(client_, 0)) for client_ in [http] * 10]
        await asyncio.gather(*first, *later)

    # Of the later ones, some may have picked a pooled connection of the dead worker before its end was seen.
    assert 0 < len(failed) <= served_by_victim
    assert len(answered) >= 50 - served_by_victim
    assert set(answered) <= set(product.logged())


def established(pid, port):
    """Connections to ``port`` that a process holds, by their inodes."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held.add(os.readlink(link))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        row for row in rows
        if row[1].endswith(f":{port:04X}") and row[3] == "01" and f"socket:[{row[9]}]" in held
    ]  # fmt: skip


async def test_kill_9_of_the_supervisor_ends_its_children_in_order(start):
    """They finish what is under way, give the port back at once, and lose no event."""
    product = await start(workers=2, drain_ms=10_000, server=", drain_delay_ms: 30000")
    pids = product.pids()
    async with client(product) as http, http.stream("POST", CHAT, json=streaming(15, 0.1)) as stream:
        product.signal(signal.SIGKILL)
        await until(lambda: refuses(product), 3)
        text = (await stream.aread()).decode()
    await until(lambda: not any(alive(pid) for pid in (*pids["workers"], pids["optimizer"])))

    assert text.endswith("data: [DONE]\n\n")
    assert len(product.logged()) == 1


@pytest.mark.long
async def test_serving_never_notices_a_stopped_optimizer(start):
    """SIGSTOP, thousands of requests, SIGCONT: all are answered as quickly, and all are learned from, once."""
    product = await start(workers=2)
    optimizer = product.pids()["optimizer"]
    count = 3000
    async with client(product) as http:

        async def some(number):
            took = []
            for _ in range(number):
                began = time.monotonic()
                reply = await http.post(CHAT, json=BODY)
                took.append(time.monotonic() - began)
                assert reply.status_code == 200
            return took

        os.kill(optimizer, signal.SIGSTOP)
        try:
            took = [
                one for part in await asyncio.gather(*(some(count // 4) for _ in range(4))) for one in part
            ]
            away = (await http.get("/health/live")).status_code
        finally:
            os.kill(optimizer, signal.SIGCONT)

        async def learned():
            reply = await http.get("/api/v1/arms")
            return sum(arm["pulls"] for arm in reply.json()["arms"]) if reply.status_code == 200 else -1

        end = time.monotonic() + 30
        while (pulls := await learned()) < count:
            assert time.monotonic() < end, f"{pulls} of {count} were learned from"
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        settled = await learned()

    assert away == 200
    assert max(took) < 2.0
    assert settled == count
    assert len(product.logged()) == count
