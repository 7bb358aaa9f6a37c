"""Answers in a real Redis: found by others, and never waited for when it is frozen, killed, wiped or holds nonsense."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.servers.redis import RedisServer
from optimizer.cluster.redis_link import RedisLink
from optimizer.routing import CacheStore
from proxy.cache.entry import decode, encode
from proxy.cache.redis_store import ASK_S

NAME = "x-llm-optimizer-cache"
# What a request may take beside asking Redis, on a machine that is busy.
SLACK_S = 1.0


@pytest.fixture
async def link(redis_server: RedisServer) -> AsyncIterator[RedisLink]:
    """A look into Redis beside the worker's."""
    own = RedisLink(redis_server.url, name="test")
    yield own
    await own.close()


async def _names(link: RedisLink, count: int = 1) -> list[bytes]:
    """The names of all answers, once there are so many."""
    deadline = time.monotonic() + 10
    while len(names := await link.command("KEYS", link.key("answer", "*"))) < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return sorted(names)


def _forget(kept):
    """What a worker's memory loses when it is restarted."""
    memory = kept.proxy.worker.plane.cache.memory
    limit = kept.proxy.worker.plane.table.source.limits.cache_bytes
    memory.use(0)
    memory.use(limit)


async def _connected(kept):
    """The first call connects, which may take longer than a request waits."""
    store = kept.proxy.worker.plane.cache._redis
    deadline = time.monotonic() + 10
    while not store._link.up:
        assert time.monotonic() < deadline
        found = asyncio.get_running_loop().create_future()
        store.get(b"k" * 32, found.set_result)
        await found


async def test_a_worker_that_was_restarted_finds_its_answers(kept, redis_server, link):
    kept.use_redis(redis_server.url)
    await _connected(kept)
    first = await kept.ask()
    streamed = await kept.ask(stream=True)
    await _names(link, 2)
    _forget(kept)

    again, replayed = await kept.ask(), await kept.ask(stream=True)
    assert [reply.headers[NAME] for reply in (first, again, streamed, replayed)] == [
        "miss",
        "hit",
        "miss",
        "hit",
    ]
    assert (again.content, replayed.content) == (first.content, streamed.content)
    assert await kept.results(kept.ask(key="other")) == ["miss"]
    hit = await kept.proxy.event(3)
    assert (hit["cached"], hit["cached_from"]) == (True, first.headers["x-request-id"])
    # From now on memory has it again.
    redis_server.flush()
    assert await kept.results(kept.ask(), kept.ask(stream=True)) == ["hit", "hit"]


async def test_what_is_in_redis_expires_there_and_here(kept, redis_server, link):
    """Also when Redis' clock, or that of who left it there, is wrong."""
    kept.use_redis(redis_server.url, ttl_s=60.0)
    await _connected(kept)
    await kept.ask()
    (name,) = await _names(link)
    assert 50_000 < await link.command("PTTL", name) <= 60_000
    secret, key = kept.proxy.state.id_key, bytes.fromhex(name.rpartition(b":")[2].decode())
    entry = decode(await link.command("GET", name), key, secret)
    assert entry is not None

    for age_s, result in ((59.0, "hit"), (61.0, "miss"), (-3600.0, "hit")):
        _forget(kept)
        old = replace(entry, at_ms=int((time.time() - age_s) * 1000))
        await link.command("SET", name, encode(old, key, secret))
        assert await kept.results(kept.ask()) == [result], age_s
        deadline, _ = next(iter(kept.proxy.worker.plane.cache.memory._entries.values()))
        assert deadline - time.monotonic() <= 60.0


async def test_nobody_waits_for_a_frozen_redis(kept, redis_server, link):
    """One request waits its 20 ms, and while Redis is away nearly nobody does; afterwards it is used again."""
    kept.use_redis(redis_server.url)
    await _connected(kept)
    await kept.ask("before")
    await _names(link)
    kept.proxy.worker.plane.cache._redis.ask_s = ASK_S
    redis_server.pause()
    try:
        began = time.monotonic()
        replies = await asyncio.gather(*(kept.ask(f"frozen {number}") for number in range(20)))
        assert {reply.status_code for reply in replies} == {200}
        assert {reply.headers[NAME] for reply in replies} == {"miss"}
        assert time.monotonic() - began < ASK_S + SLACK_S
        # Memory needs no Redis.
        assert await kept.results(kept.ask("before"), kept.ask("frozen 3")) == ["hit", "hit"]
        waits = [(await kept.proxy.event(2 + number))["overhead_ms"] for number in range(20)]
        assert max(waits) < 1000 * (ASK_S + SLACK_S)
    finally:
        redis_server.resume()
    kept.proxy.worker.plane.cache._redis.ask_s = 5.0
    await _connected(kept)
    await kept.ask("after")
    _forget(kept)
    await _names(link, 2)
    assert await kept.results(kept.ask("before")) == ["hit"]


async def test_requests_go_on_when_redis_is_killed_and_wiped(kept, redis_server, link):
    kept.use_redis(redis_server.url)
    await _connected(kept)
    first = await kept.ask()
    await _names(link)
    redis_server.kill()
    _forget(kept)
    assert await kept.results(kept.ask("a"), kept.ask("b"), kept.ask("a")) == ["miss", "miss", "hit"]
    redis_server.wipe()
    redis_server.start()
    await _connected(kept)
    again = await kept.ask()
    assert again.headers[NAME] == "miss"
    assert again.content != first.content
    await _names(link)
    _forget(kept)
    assert await kept.results(kept.ask()) == ["hit"]


async def test_what_others_wrote_there_is_nothing(kept, redis_server, link):
    """Foreign bytes, cut ones, and an answer under another question's name."""
    kept.use_redis(redis_server.url)
    await _connected(kept)
    answers = [await kept.ask("a"), await kept.ask("b")]
    await _names(link, 2)
    one, other = await _names(link, 2)
    data = [await link.command("GET", name) for name in (one, other)]
    for planted in (data[::-1], (b"", b"junk"), (data[0][:-1], data[1][:20])):
        for name, value in zip((one, other), planted, strict=True):
            await link.command("SET", name, value)
        _forget(kept)
        found = [await kept.ask("a"), await kept.ask("b")]
        assert [reply.headers[NAME] for reply in found] == ["miss", "miss"]
        assert not {reply.content for reply in found} & {reply.content for reply in answers}


async def test_other_places_and_none(kept, redis_server, link):
    """An address that leads nowhere or is none keeps answers in memory; one that is corrected is used."""
    for url in ("redis://127.0.0.1:1/0", "redis://[broken"):
        kept.use_redis(url)
        kept.publish(cache_store=CacheStore("literal:redis", url[-4:], 4))
        assert await kept.results(kept.ask(url), kept.ask(url)) == ["miss", "hit"]
    kept.use_redis(redis_server.url)
    kept.publish(cache_store=CacheStore("literal:redis", "good", 4))
    await _connected(kept)
    kept.publish(cache_store=None)
    assert kept.proxy.worker.plane.cache._redis is None
    assert await kept.results(kept.ask("x"), kept.ask("x")) == ["miss", "hit"]
    source = kept.proxy.worker.plane.table.source
    kept.route(replace(source.routes[0].caching, store="memory"))
    assert await kept.results(kept.ask("x")) == ["hit"]


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_redis_is_imported_only_by_who_asks_for_it(store, tmp_path: Path):
    """A worker that serves a route with a cache in memory has no client of Redis in its process."""
    program = f"""
import asyncio, sys, time
from optimizer.log.node import StateDirectory
from optimizer.routing import *
from optimizer.table_file import write_table
from pathlib import Path
from proxy.config.resolver import SecretResolver
from proxy.worker import Worker

async def main():
    state = StateDirectory(Path({str(tmp_path)!r}) / "state")
    arm = Arm("a", "a", "default", "a", "")
    side = Side((arm,), Selector("s", "fixed", (1.0,)), "a")
    table = RoutingTable(
        1, time.time(), "", (Upstream("up", "openai", "http://127.0.0.1:1", auth="none"),),
        (Model("a", "up", "a", "a"),), (Variant("default", ""),), (Route("r", side, caching=Caching(store={store!r})),),
        cache_store=CacheStore("literal:r", "n") if {store!r} == "redis" else None,
    )
    write_table(state.table_file, table)
    worker = Worker(
        state, incarnation=1, resolver=SecretResolver({{}}, {{"literal:r": "redis://127.0.0.1:1/0"}})
    )
    await worker.start("127.0.0.1", 0)
    print("redis" in sys.modules)
    await worker.stop(0.0)

asyncio.run(main())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(store == "redis")
