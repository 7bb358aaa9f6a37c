"""Workers are replaced under load: no unary request fails, no stream is cut, no event is lost."""

import asyncio
import os
import re
import signal

import httpx
import openai
import orjson
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is 37 * 12 + 5?"}]
BODY = orjson.dumps({"model": "chat", "messages": QUESTION})


class RawCaller:
    """Keep-alive over a bare socket: it reconnects only when a reply said that the connection closes."""

    def __init__(self, port):
        self.port = port
        self.answered = []
        self.connections = 0

    async def run(self, stop):
        reader = writer = None
        while not stop.is_set():
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                self.connections += 1
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
            self.answered.append(re.search(rb"x-request-id: (\S+)", head)[1].decode())
            if b"connection: close" in head:
                assert await reader.read() == b""
                writer.close()
                writer = None
            await asyncio.sleep(0.002)
        if writer is not None:
            writer.close()


async def test_no_unary_request_fails_and_no_stream_is_cut(start):
    """httpx, the official SDK and raw sockets, all without retries, at hundreds of requests a second."""
    product = await start(workers=2, drain_ms=20_000)
    stop = asyncio.Event()
    answered = []
    streams = []

    async def plain():
        async with httpx.AsyncClient(base_url=product.url, timeout=20, trust_env=False) as http:
            while not stop.is_set():
                reply = await http.post(CHAT, content=BODY, headers={"content-type": "application/json"})
                assert reply.status_code == 200, reply.text
                answered.append(reply.headers["x-request-id"])

    async def sdk():
        async with openai.AsyncOpenAI(base_url=product.url + "/v1", api_key="k", max_retries=0) as client:
            while not stop.is_set():
                raw = await client.chat.completions.with_raw_response.create(model="chat", messages=QUESTION)
                answered.append(raw.headers["x-request-id"])

    async def stream():
        async with openai.AsyncOpenAI(base_url=product.url + "/v1", api_key="k", max_retries=0) as client:
            call = client.chat.completions.with_raw_response
            raw = await call.create(
                model="chat", messages=QUESTION, stream=True, metadata={"chunks": "40", "pause_s": "0.1"}
            )
            answered.append(raw.headers["x-request-id"])
            parts = [part async for part in raw.parse() if part.choices]
            streams.append((len(parts), parts[-1].choices[0].finish_reason))

    raw = [RawCaller(product.port) for _ in range(4)]
    callers = [asyncio.create_task(caller.run(stop)) for caller in raw]
    callers += [asyncio.create_task(plain()) for _ in range(2)] + [asyncio.create_task(sdk())]
    callers += [asyncio.create_task(stream()) for _ in range(6)]
    before = product.pids()["workers"]
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(0.5)
    product.signal(signal.SIGUSR2)
    await product.new_workers(before)
    await asyncio.sleep(0.5)
    took = asyncio.get_running_loop().time() - began
    stop.set()
    await asyncio.gather(*callers)
    for caller in raw:
        answered += caller.answered

    logged = product.logged()
    assert len(answered) / took > 100
    assert len(set(answered)) == len(answered)
    assert streams == [(41, "stop")] * 6
    assert set(answered) == set(logged)
    assert set(logged.values()) == {1}


async def test_connections_that_come_while_a_worker_is_dead_are_served(start):
    """With the only worker killed, what connects meanwhile waits for its successor instead of being reset."""
    product = await start(workers=1)
    (victim,) = product.pids()["workers"]

    async def once():
        async with httpx.AsyncClient(base_url=product.url, timeout=20, trust_env=False) as http:
            reply = await http.post(CHAT, content=BODY)
            return reply.status_code

    os.kill(victim, signal.SIGKILL)
    replies = await asyncio.gather(*(once() for _ in range(50)))

    assert replies == [200] * 50
    assert product.pids()["workers"] != [victim]


async def test_a_stream_longer_than_the_drain_window_ends_with_an_error_event(start):
    """The old worker does not stay for ever: its last stream is told why it ends, and the log says so."""
    product = await start(workers=1, drain_ms=500)
    before = product.pids()["workers"]
    async with httpx.AsyncClient(base_url=product.url, timeout=20, trust_env=False) as http:
        body = {"model": "chat", "messages": QUESTION, "stream": True}
        body["metadata"] = {"chunks": "1000", "pause_s": "0.05"}
        async with http.stream("POST", CHAT, json=body) as reply:
            product.signal(signal.SIGUSR2)
            text = (await reply.aread()).decode()
    await product.new_workers(before)

    *_, last = [line for line in text.splitlines() if line.startswith("data: ")]
    assert "error" in orjson.loads(last.removeprefix("data: "))
    assert "[DONE]" not in text
    (event,) = product.events()
    assert event["data"]["outcome"] != "completed"


async def test_health_checks_do_not_notice_a_rolling_restart(start):
    """Readiness stays on: the product as a whole serves on."""
    product = await start(workers=2)
    before = product.pids()["workers"]
    statuses = set()
    async with httpx.AsyncClient(base_url=product.url, timeout=20, trust_env=False) as http:
        product.signal(signal.SIGUSR2)
        restarted = asyncio.create_task(product.new_workers(before))
        while not restarted.done():
            statuses.add((await http.get("/health/ready", headers={"connection": "close"})).status_code)
            statuses.add((await http.get("/health/ready")).status_code)
        await restarted

    assert statuses == {200}


async def test_a_worker_that_is_signalled_is_replaced_without_a_failure(start):
    """SIGTERM to a worker itself, as a tool may send it: nobody waits for its drain."""

    product = await start(workers=1, drain_ms=20_000)
    stop = asyncio.Event()
    caller = RawCaller(product.port)
    running = asyncio.create_task(caller.run(stop))
    (before,) = product.pids()["workers"]
    os.kill(before, signal.SIGTERM)
    await product.new_workers([before])
    stop.set()
    await running

    assert set(caller.answered) == set(product.logged())


async def test_workers_that_can_not_read_the_table_replace_nobody(start):
    """As after an upgrade whose optimizer still is the old one: who serves goes on serving."""
    product = await start(workers=2)
    before = product.pids()["workers"]
    table = product.state / "table" / "table.json"
    table.write_bytes(b"of another version" + table.read_bytes())
    restarted = asyncio.create_task(product.logs("the old one goes on serving"))
    product.signal(signal.SIGUSR2)

    statuses = []
    while not restarted.done():
        async with httpx.AsyncClient(base_url=product.url, timeout=20, trust_env=False) as http:
            statuses.append((await http.post(CHAT, content=BODY)).status_code)
    await restarted

    assert set(statuses) == {200}
    assert product.pids()["workers"] == before
