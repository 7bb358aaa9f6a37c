"""The link against a real Redis that refuses, freezes, dies, forgets and hides behind a stalled network."""

import asyncio
import contextlib
import random
import socket
import time
from urllib.parse import quote

import pytest
import trustme

from loadtests.servers.redis import RedisServer
from optimizer.cluster.redis_link import RedisLink, Script
from optimizer.cluster.types import Away

LIMIT = 0.5
SLACK = 0.2

COUNT = Script("return redis.call('INCR', KEYS[1]) + ARGV[1]")


async def back(link: RedisLink, seconds: float = 15.0) -> None:
    """Until calls are answered again."""
    until = time.monotonic() + seconds
    while True:
        try:
            await link.command("PING")
        except Away:
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        else:
            return


async def test_commands_pipelines_and_scripts(redis_server, make_link):
    link = make_link(redis_server.url)
    assert not link.up
    assert link.key("table", 3) == "llm-optimizer:test:table:3"
    assert await link.command("SET", "a", b"\x00\xff\r\n") == b"OK"
    assert await link.command("GET", "a") == b"\x00\xff\r\n"
    assert await link.command("GET", "nothing") is None
    assert await link.pipeline([("INCR", "n"), ("INCRBY", "n", 5), ("MGET", "n", "a")]) == [
        1, 6, [b"6", b"\x00\xff\r\n"],
    ]  # fmt: skip
    assert await link.pipeline([]) == []
    assert await link.script(COUNT, ["n"], [100]) == 107
    assert await link.script(COUNT, ["n"], [100]) == 108
    assert link.up
    assert link.counts.connects == 1


async def test_a_script_is_sent_again_after_redis_forgot_it(redis_server, make_link):
    link = make_link(redis_server.url)
    await link.script(COUNT, ["n"], [0])
    await link.command("SCRIPT", "FLUSH")
    assert await link.script(COUNT, ["n"], [0]) == 2
    assert link.counts.failures == link.counts.refusals == 0


async def test_an_error_for_an_answer_is_away_but_holds_nobody_back(redis_server, make_link):
    link = make_link(redis_server.url)
    await link.command("SET", "text", "x")
    with pytest.raises(Away, match=r"refused.*WRONGTYPE"):
        await link.command("HGETALL", "text")
    assert not link.up
    assert "WRONGTYPE" in link.last_error
    with pytest.raises(Away, match="not an integer"):
        await link.pipeline(
            [("SET", "one", "1"), ("INCR", "text"), ("HGET", "text", "x"), ("SET", "two", "2")]
        )
    assert await link.command("MGET", "one", "two") == [b"1", b"2"]
    assert link.up
    assert link.counts.connects == 1
    assert link.counts.refusals == 2


async def test_more_calls_than_connections(redis_server, make_link):
    link = make_link(redis_server.url, max_connections=4, timeout_s=5.0)
    replies = await asyncio.gather(*(link.command("ECHO", n) for n in range(300)))
    assert replies == [b"%d" % n for n in range(300)]
    assert link.counts.connects <= 3


async def test_nobody_there(make_link, make_relay, within):
    relay = make_relay("127.0.0.1:1")
    relay.mode = "refuse"
    link = make_link(f"redis://{relay.address}/0")
    with pytest.raises(Away):
        await within(SLACK, link.command("PING"))
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(Away):
            await link.command("PING")
    assert time.monotonic() - began < SLACK
    assert link.counts.held_back >= 45
    assert not link.up


@pytest.mark.parametrize("size", [10, 20_000_000])
async def test_a_black_hole_takes_no_longer_than_the_limit(redis_server, make_link, make_relay, within, size):
    relay = make_relay(redis_server.address)
    link = make_link(redis_server.url_by(relay.address), timeout_s=LIMIT)
    await link.command("PING")
    relay.mode = "stall"
    calls = [within(LIMIT + SLACK, link.command("SET", "a", b"x" * size)) for _ in range(5)]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, Away), result
    await asyncio.sleep(0.06)
    with pytest.raises(Away):
        await within(LIMIT + SLACK, link.command("PING"))  # This one even has to connect.
    relay.mode = "pass"
    await back(link)
    assert not any(socket._transport.get_write_buffer_size() for socket in link._sockets)


async def test_a_frozen_redis(redis_server, make_link, within):
    link = make_link(redis_server.url, timeout_s=LIMIT)
    subscription = link.subscribe("changed")
    await link.command("PING")
    redis_server.pause()
    try:
        with pytest.raises(Away, match=r"no answer within 0\.5 s"):
            await within(LIMIT + SLACK, link.command("INCR", "n"))
        with pytest.raises(Away):
            await within(SLACK, link.command("INCR", "n"))
        assert not await within(0.3 + SLACK, subscription.wait(0.3)) or not await subscription.wait(0.1)
    finally:
        redis_server.resume()
    await back(link)
    # It may have happened, and did once Redis went on; but nothing was said twice.
    assert await link.command("GET", "n") == b"1"


async def test_no_command_is_ever_repeated(redis_server, make_link, make_relay):
    relay = make_relay(redis_server.address)
    slow = make_link(redis_server.url_by(relay.address), timeout_s=0.1)
    await slow.command("PING")
    rng = random.Random(5)
    asked = 0
    for _ in range(20):
        relay.mode = rng.choice(["pass", "stall", "cut", "pass"])
        asked += 1
        try:
            await slow.command("INCR", "n")
        except Away:
            relay.mode = "pass"
            await back(slow)
    direct = make_link(redis_server.url)
    assert int(await direct.command("GET", "n")) <= asked


async def test_killed_and_started_empty(redis_server, make_link, within):
    link = make_link(redis_server.url)
    await link.script(COUNT, ["n"], [0])
    redis_server.wipe()
    with pytest.raises(Away):
        await within(LIMIT + SLACK, link.command("PING"))
    redis_server.start()
    await back(link)
    assert await link.script(COUNT, ["n"], [0]) == 1


async def test_a_restart_between_two_calls_is_not_even_noticed(redis_server, make_link):
    link = make_link(redis_server.url)
    await asyncio.gather(*(link.command("PING") for _ in range(5)))
    redis_server.kill()
    redis_server.start()
    await asyncio.sleep(0.01)
    await link.command("PING")
    assert link.counts.failures == 0


async def test_one_call_tries_while_the_others_are_held_back(redis_server, make_link, make_relay):
    relay = make_relay(redis_server.address)
    now = [0.0]
    link = make_link(redis_server.url_by(relay.address), timeout_s=0.2, clock=lambda: now[0])
    relay.mode = "stall"
    for _ in range(8):
        before = link.counts.calls
        results = await asyncio.gather(*(link.command("PING") for _ in range(10)), return_exceptions=True)
        assert all(isinstance(result, Away) for result in results)
        assert link.counts.calls - before == (10 if before == 0 else 1)
        now[0] += 1.0
    relay.mode = "pass"
    assert await link.command("PING") == b"PONG"
    assert link.up


async def test_a_call_that_is_cancelled_leaves_nothing_behind(redis_server, make_link):
    link = make_link(redis_server.url, max_connections=2)
    for _ in range(5):
        task = asyncio.create_task(link.command("BLPOP", "nothing", 10))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await link.command("ECHO", "mine") == b"mine"
    assert link.counts.failures == 0


async def test_a_probe_that_is_cancelled_lets_the_next_one_try(redis_server, make_link, make_relay):
    relay = make_relay(redis_server.address)
    relay.mode = "refuse"
    link = make_link(
        redis_server.url_by(relay.address), clock=lambda: 0.0 if not link.counts.failures else 9.0
    )
    with pytest.raises(Away):
        await link.command("PING")
    relay.mode = "stall"
    link._retry_at = 0.0
    task = asyncio.create_task(link.command("PING"))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    relay.mode = "pass"
    assert await link.command("PING") == b"PONG"


async def test_connecting_goes_on_when_a_short_call_gives_up(redis_server, make_link, make_relay):
    relay = make_relay(redis_server.address)
    relay.delay_s = 0.03
    link = make_link(redis_server.url_by(relay.address), timeout_s=2.0)
    with pytest.raises(Away):
        await link.command("PING", timeout_s=0.05)
    await asyncio.sleep(0.3)
    assert await link.command("PING", timeout_s=1.5) == b"PONG"
    assert link.counts.connects == 1


async def test_closing_ends_calls_at_once(redis_server, make_link, make_relay, within):
    relay = make_relay(redis_server.address)
    link = make_link(redis_server.url_by(relay.address), timeout_s=10.0)
    await link.command("PING")
    link.subscribe("changed")
    await asyncio.sleep(0.05)
    relay.mode = "stall"
    waiting = [asyncio.create_task(link.command("SET", "a", b"x" * 10_000_000)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await within(0.3, link.close())
    for result in await within(0.1, asyncio.gather(*waiting, return_exceptions=True)):
        assert isinstance(result, Away), result
    with pytest.raises(Away, match="closed"):
        await link.command("PING")
    assert not link._sockets
    await link.close()
    late = link.subscribe("another")
    assert not await within(0.3, late.wait(0.1))
    assert late.task.done()


async def test_subscriptions(redis_server, make_link, make_relay, within):
    relay = make_relay(redis_server.address)
    link, other = make_link(redis_server.url_by(relay.address)), make_link(redis_server.url)
    subscription = link.subscribe("changed")
    assert link.subscribe("changed") is subscription
    assert await within(1.0, subscription.wait(1.0))  # Connected: something may have been missed before.
    assert not await within(0.3, subscription.wait(0.1))
    await other.command("PUBLISH", "changed", "1")
    await other.command("PUBLISH", "changed", "2")
    assert await within(0.2, subscription.wait(1.0))
    await asyncio.sleep(0.05)
    await subscription.wait(0.01)
    assert not await subscription.wait(0.05)
    for mode in ("cut", "refuse"):
        relay.mode = mode
        assert not await within(0.3, subscription.wait(0.1))
        relay.mode = "pass"
        assert await within(2.0, subscription.wait(2.0))
        await asyncio.sleep(0.02)
        await subscription.wait(0.01)
        await other.command("PUBLISH", "changed", "3")
        assert await within(0.2, subscription.wait(1.0))


async def test_a_subscription_on_a_dead_line_finds_out(redis_server, make_link, make_relay, monkeypatch):
    monkeypatch.setattr("optimizer.cluster.redis_link._SILENCE_S", 0.1)
    relay = make_relay(redis_server.address)
    link = make_link(redis_server.url_by(relay.address), timeout_s=0.2)
    subscription = link.subscribe("changed")
    assert await subscription.wait(1.0)
    assert not await subscription.wait(0.5)  # Several signs of life; the connection stays.
    connects = link.counts.connects
    assert connects == 1
    relay.mode = "stall"
    await asyncio.sleep(0.6)
    relay.mode = "pass"
    assert await subscription.wait(2.0)
    assert link.counts.connects > connects


@pytest.mark.parametrize("password", ["hunter2secret", "p/s:s w@rd%x#"])
async def test_a_password_is_never_shown(tmp_path, make_link, caplog, password):
    server = RedisServer(tmp_path, password="hunter2secret")
    server.start()
    try:
        link = make_link(f"redis://:{quote(password, safe='')}@{server.address}/0")
        if password == "hunter2secret":
            await link.command("PING")
            server.kill()
        with pytest.raises(Away) as caught:
            await link.command("PING")
        shown = f"{caught.value!r} {link.last_error} {caplog.text} {link.place} {link!r}"
        assert password not in shown
        assert quote(password, safe="") not in shown
        assert caught.value.__cause__ is None
    finally:
        server.kill()


@pytest.mark.parametrize(
    "url", ["redis://:hun/ter2@host:1/0", "http://:hunter2@host", "redis://host:x", "hunter2", ""]
)
def test_what_is_no_url(url):
    with pytest.raises(ValueError) as caught:
        RedisLink(url, name="test")
    assert "hun" not in str(caught.value)
    assert caught.value.__cause__ is None


class TlsRedis(RedisServer):
    """Speaks TLS only."""

    def __init__(self, directory) -> None:
        super().__init__(directory)
        authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(directory / "server.pem")
        )

    def _command(self) -> list[str]:
        command = super()._command()
        at = command.index("--port")
        command[at : at + 2] = ["--port", "0", "--tls-port", str(self.port)]
        pem = str(self.directory / "server.pem")
        return [*command, "--tls-cert-file", pem, "--tls-key-file", pem, "--tls-ca-cert-file", str(self.ca_file),
                "--tls-auth-clients", "no"]  # fmt: skip

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


async def test_tls(tmp_path, make_link, make_relay, within):
    server = TlsRedis(tmp_path)
    server.start()
    try:
        relay = make_relay(server.address)
        trusted = f"rediss://{relay.address}/0?ssl_ca_certs={server.ca_file}"
        link = make_link(trusted, timeout_s=1.0)
        assert await link.command("SET", "a", b"x" * 1_000_000) == b"OK"
        assert await link.command("STRLEN", "a") == 1_000_000
        relay.mode = "stall"
        with pytest.raises(Away):
            await within(1.0 + SLACK, link.command("SET", "a", b"x" * 10_000_000))
        relay.mode = "pass"
        await back(link)
        with pytest.raises(Away, match="CERTIFICATE_VERIFY_FAILED"):
            await make_link(f"rediss://{relay.address}/0", timeout_s=1.0).command("PING")
        with pytest.raises(Away):
            await make_link(f"redis://{relay.address}/0", timeout_s=1.0).command("PING")
        relay.mode = "stall"
        await within(0.3, link.close())
    finally:
        server.kill()
