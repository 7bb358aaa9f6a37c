"""Answers that are given again, over real sockets: the same bytes, to whom they belong, and never the wrong ones."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import openai
import pytest
from aiohttp import web

from optimizer.guard import renew
from optimizer.routing import Caching, Sticky

NAME = "x-llm-optimizer-cache"


async def test_the_same_question_gets_the_same_answer(kept):
    first, again = await kept.ask(), await kept.ask()
    other = await kept.ask("Something else")

    assert [reply.headers[NAME] for reply in (first, again, other)] == ["miss", "hit", "miss"]
    assert again.content == first.content != other.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-llm-optimizer-cost-usd"] == "0"
    assert again.headers["x-llm-optimizer-attempts"] == "0"
    assert again.headers["x-llm-optimizer-arm"] == first.headers["x-llm-optimizer-arm"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert kept.talker.asked == 2


async def test_a_hit_is_recorded_as_one(kept):
    await kept.ask()
    await kept.ask()
    asked, hit = await kept.proxy.event(1), await kept.proxy.event(2)

    assert "cached" not in asked
    assert (hit["cached"], hit["cached_from"], hit["arm"]) == (True, asked["id"], asked["arm"])
    assert (hit["outcome"], hit["status"], hit["cost_usd"], hit["reason"]) == (
        "completed",
        200,
        0.0,
        "cached",
    )
    assert hit["randomised"] is False
    assert not {"propensity", "attempts", "signals", "context", "gen_ai.usage.input_tokens"} & hit.keys()
    assert hit["response_bytes"] > 0 < hit["duration_ms"]


async def test_streams_are_replayed_as_they_were_sent(kept):
    first, again = [await kept.ask(stream=True) for _ in range(2)]
    with_usage = await kept.ask(stream=True, stream_options={"include_usage": True})
    whole = await kept.ask()

    assert [r.headers[NAME] for r in (first, again, with_usage, whole)] == ["miss", "hit", "miss", "miss"]
    assert again.content == first.content
    assert b"[DONE]" in again.content
    assert again.headers["content-type"].startswith("text/event-stream")
    hit = await kept.proxy.event(2)
    assert (hit["cached"], hit["stream"]) == (True, True)


async def test_the_official_client_sees_no_difference(kept, sdk):
    async def said() -> list[tuple[str, str | None]]:
        stream = await sdk.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "Tell"}], stream=True
        )
        return [
            (chunk.id, chunk.choices[0].delta.content if chunk.choices else None) async for chunk in stream
        ]

    assert await said() == await said()
    answers = [
        await sdk.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Tell"}])
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    vectors = [await sdk.embeddings.create(model="chat", input="words") for _ in range(2)]
    assert vectors[0].data == vectors[1].data
    assert kept.talker.asked == 3


async def test_no_caller_gets_anothers_answer(kept):
    """Whatever two callers have in common, each asks for itself until the route lets them share."""
    answers = {key: (await kept.ask(key=key)).content for key in ("one", "other")}
    assert answers["one"] != answers["other"]
    assert await kept.results(kept.ask(key="one"), kept.ask(key="third")) == ["hit", "miss"]

    kept.route(Caching(shared=True))
    assert await kept.results(kept.ask(key="one"), kept.ask(key="other")) == ["miss", "hit"]


@pytest.mark.parametrize("shared", [False, True])
async def test_concurrent_callers_never_meet(kept, shared):
    """Many at once, over the same few questions: nobody is told what was said to somebody else."""
    kept.route(Caching(shared=shared))
    callers, questions = [f"k{number}" for number in range(8)], ["a", "b", "c"]

    async def ask(caller: str, question: str) -> tuple[str, str, bytes, str]:
        reply = await kept.ask(question, key=caller)
        return caller, question, reply.content, reply.headers[NAME]

    told: dict[bytes, set[tuple[str, str]]] = {}
    for _ in range(3):
        for caller, question, content, _ in await asyncio.gather(
            *(ask(caller, question) for caller in callers for question in questions)
        ):
            told.setdefault(content, set()).add((caller, question))
    for heard in told.values():
        assert len({question for _, question in heard}) == 1
        assert shared or len({caller for caller, _ in heard}) == 1


@pytest.mark.parametrize(
    ("headers", "looks", "leaves"),
    [
        ({NAME: "bypass"}, False, False),
        ({"cache-control": "no-store"}, False, False),
        ({"cache-control": "max-age=0, No-Cache"}, False, True),
        ({"cache-control": "max-age=0"}, True, True),
        ({NAME: "hit"}, True, True),
        ({NAME: "Bypass, bypass"}, False, False),
    ],
)
async def test_a_caller_may_do_without(kept, headers, looks, leaves):
    before = await kept.ask()
    fresh = await kept.ask(headers=headers)
    assert fresh.headers[NAME] == ("hit" if looks else "bypass")
    assert (fresh.content == before.content) == looks
    after = await kept.ask()
    assert after.headers[NAME] == "hit"
    assert after.content == (fresh.content if leaves and not looks else before.content)


async def test_a_route_without_a_cache_says_nothing_of_one(proxy, talker):
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
    replies = [await proxy.client.post("/v1/chat/completions", json=body) for _ in range(2)]
    assert talker.asked == 2
    assert all(NAME not in reply.headers for reply in replies)


async def test_what_has_expired_is_asked_anew(kept):
    kept.route(Caching(ttl_s=0.001))
    await kept.ask()
    await asyncio.sleep(0.002)
    assert await kept.results(kept.ask()) == ["miss"]


async def test_an_edited_route_serves_nothing_old(kept):
    assert await kept.results(kept.ask(), kept.ask()) == ["miss", "hit"]
    source = kept.proxy.worker.plane.table.source
    kept.publish(published_at=source.published_at + 1)
    route = source.routes[0]
    selector = replace(route.control.selector, probabilities=(0.25, 0.75))
    kept.route(control=replace(route.control, selector=selector))
    assert await kept.results(kept.ask()) == ["hit"]

    edited = kept.shapes.side(kept.shapes.arm("a", "terse"), kept.shapes.arm("b"))
    kept.route(control=edited)
    assert await kept.results(kept.ask(), kept.ask()) == ["miss", "hit"]
    kept.publish(upstreams=(replace(source.upstreams[0], headers=(("x-other", "1"),)),))
    assert await kept.results(kept.ask()) == ["miss"]


async def test_sides_of_a_rollout_have_answers_of_their_own(kept):
    """And guards count who was drawn, not what was answered from memory."""
    renew(kept.proxy.state.guard_file)
    kept.proxy.worker.plane.guarded = True
    kept.route(
        sticky=Sticky("header", "x-unit"),
        candidate=kept.shapes.side(kept.shapes.arm("b", "terse")),
        candidate_fraction=0.5,
        rollout="opt_1",
    )
    seen: dict[str, set[bytes]] = {"control": set(), "candidate": set()}
    for unit in range(12):
        for _ in range(2):
            reply = await kept.ask(headers={"x-unit": str(unit)})
            seen[reply.headers["x-llm-optimizer-side"]].add(reply.content)
    assert seen["control"]
    assert seen["candidate"]
    assert not seen["control"] & seen["candidate"]
    kept.proxy.worker._append_report()
    stats = kept.proxy.events("llm_optimizer.worker.stats.v1")
    rows = [row[4] for event in stats for row in event["data"]["guards"]]
    assert sum(row.get("assigned", 0) for row in rows) == 24
    assert sum(row.get("resolved", 0) for row in rows) == kept.talker.asked == 12

    # Rolled back: control's answers are there, the candidate's are not.
    kept.route(candidate=None, candidate_fraction=0.0, rollout=None)
    for unit in range(12):
        reply = await kept.ask(headers={"x-unit": str(unit)})
        assert reply.headers["x-llm-optimizer-side"] == "control"
        assert reply.content not in seen["candidate"]


def _without(answer: dict[str, Any], **changes: Any) -> dict[str, Any]:
    answer["choices"][0].update(changes)
    return answer


@pytest.mark.parametrize(
    "shape",
    [
        lambda answer: web.json_response({"error": {"message": "planted"}}, status=500),
        lambda answer: web.json_response({"error": {"message": "planted"}}, status=400),
        lambda answer: web.Response(text="{not json", content_type="application/json"),
        lambda answer: _without(answer, finish_reason="length"),
        lambda answer: _without(answer, finish_reason="content_filter"),
        lambda answer: _without(answer, message={"role": "assistant", "content": ""}),
        lambda answer: _without(answer, message={"role": "assistant", "content": "I'm sorry, but I can't."}),
        lambda answer: {**answer, "filler": "x" * 300_000},
    ],
    ids=("fault", "refused", "broken", "cut", "withheld", "empty", "refusal", "large"),
)  # fmt: skip
async def test_only_whole_answers_are_kept(kept, shape):
    kept.talker.shape = shape
    await kept.ask()
    kept.talker.shape = None
    assert await kept.results(kept.ask(), kept.ask()) == ["miss", "hit"]


async def test_a_cut_stream_is_not_kept(kept):
    kept.talker.cut = True
    await kept.ask(stream=True)
    kept.talker.cut = False
    whole, again = [await kept.ask(stream=True) for _ in range(2)]
    assert [whole.headers[NAME], again.headers[NAME]] == ["miss", "hit"]
    assert b"[DONE]" in again.content
    assert (await kept.proxy.event(1))["outcome"] == "upstream_fault"


async def test_who_leaves_a_stream_leaves_no_answer(kept):
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    hold = asyncio.Event()
    talk = kept.talker._stream

    async def slowly(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"A"}}]}\n\n')
        await hold.wait()
        return reply

    kept.talker._stream = slowly
    headers = {"authorization": "Bearer one"}
    async with kept.proxy.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply:
        assert reply.headers[NAME] == "miss"
    await kept.proxy.event(1)
    hold.set()
    kept.talker._stream = talk
    assert await kept.results(kept.ask(stream=True)) == ["miss"]


async def test_an_answer_of_a_stand_in_is_not_kept(kept):
    """It would outlive the outage."""
    side = kept.shapes.side(kept.shapes.arm("a"))
    source = kept.proxy.worker.plane.table.source
    kept.route(
        control=side,
        fallbacks=(kept.shapes.arm("b"),),
        resilience=replace(source.routes[0].resilience, attempts=3, same_arm=0),
    )

    def refuse(answer: dict[str, Any]) -> Any:
        down = answer["model"] == "a-id"
        return web.json_response({"error": {"message": "down"}}, status=503) if down else answer

    kept.talker.shape = refuse
    replies = [await kept.ask() for _ in range(2)]
    assert [reply.headers[NAME] for reply in replies] == ["miss", "miss"]
    assert [reply.status_code for reply in replies] == [200, 200]


@pytest.mark.parametrize(
    ("fields", "rules", "result"),
    [
        ({"store": True}, {}, "bypass"),
        ({"web_search_options": {}, "tools": [{"type": "web_search"}]}, {}, "bypass"),
        ({"audio": {"voice": "x"}, "modalities": ["audio"]}, {}, "bypass"),
        ({}, {"cold_only": True}, "bypass"),
        ({"temperature": 0.1}, {"cold_only": True}, "bypass"),
        ({"temperature": False}, {"cold_only": True}, "bypass"),
        ({"temperature": 0}, {"cold_only": True}, "hit"),
        ({"temperature": 0.0}, {"cold_only": True}, "hit"),
        ({"path": "/v1/embeddings", "input": "x"}, {"cold_only": True}, "hit"),
        ({"temperature": 1}, {}, "hit"),
    ],
)
async def test_which_requests_are_for_the_cache(kept, fields, rules, result):
    kept.route(Caching(**rules))
    await kept.ask(**fields)
    assert await kept.results(kept.ask(**fields)) == [result]


async def test_two_members_of_one_name_are_not_shared(kept):
    """Upstreams differ in which they take: nobody shall be able to plant an answer under somebody's question."""
    raw = b'{"model":"chat","messages":[{"role":"user","content":"evil"}],"messages":[{"role":"user","content":"Hi"}]}'
    kept.route(Caching(shared=True))
    post: Callable[..., Any] = kept.proxy.client.post
    reply = await post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert reply.headers[NAME] == "bypass"
    assert await kept.results(kept.ask()) == ["miss"]


async def test_memory_is_bounded(kept):
    limit = 100_000
    kept.publish(limits=replace(kept.proxy.worker.plane.table.source.limits, cache_bytes=limit))
    kept.talker.shape = lambda answer: {**answer, "filler": "x" * 9_000}
    memory = kept.proxy.worker.plane.cache.memory
    for number in range(30):
        await kept.ask(str(number))
        assert memory.size <= limit
    assert 5 < len(memory) < 12
    kept.publish(limits=replace(kept.proxy.worker.plane.table.source.limits, cache_bytes=0))
    assert (memory.size, len(memory)) == (0, 0)
    assert await kept.results(kept.ask(), kept.ask()) == ["miss", "miss"]


async def test_the_whole_product_counts_hits_and_learns_nothing_from_them(house):
    """Two keys, a route with a cache: metrics, savings, limits, explanation and feedback."""
    mine, theirs = await house.key("mine"), await house.key("theirs")
    clients = [
        openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=key, max_retries=0) for key in (mine, theirs)
    ]
    said: list[list[str | None]] = []
    for client in clients:
        answers = [
            await client.chat.completions.with_raw_response.create(
                model="chat", messages=[{"role": "user", "content": "Hi"}]
            )
            for _ in range(4)
        ]
        said.append([answer.parse().choices[0].message.content for answer in answers])
        last = answers[-1].headers["x-request-id"]
        assert "x-ratelimit-remaining-requests" in answers[-1].headers
        await client.close()
    assert [len(set(each)) for each in said] == [1, 1]
    assert said[0] != said[1]
    assert house.talker.asked == 2

    ingest = house.core.ingest
    counts = house.core.observer.cache
    await house.until(lambda: counts["chat", "hit"] == 6)
    assert (counts["chat", "miss"], counts["chat", "bypass"]) == (2, 0)
    figures = await house.metrics()
    hits = [
        v for name, v in figures.items() if name.startswith('llm_optimizer_cache_requests_total{result="hit"')
    ]
    assert hits == [6.0]
    assert sum(v for name, v in figures.items() if name.startswith("llm_optimizer_cache_bytes{")) > 0
    done = sum(
        v for n, v in figures.items() if n.startswith("llm_optimizer_requests_total{") and 'route="chat"' in n
    )
    assert done == 8
    timed = sum(
        v
        for n, v in figures.items()
        if n.startswith("llm_optimizer_latency_seconds_count{") and 'route="chat"' in n
    )
    assert timed == 2
    learned = [row for row in ingest.learner.statistics.rows() if row[0] == "chat" and row[3] == "success"]
    assert sum(row[-1] for row in learned) == 2

    shown = (await house.http.get(f"/api/v1/decisions/{last}")).json()
    assert any("came from the cache" in sentence for sentence in shown["explanation"])
    rating = {"request_id": last, "metric": "quality", "value": 1}
    reply = await house.http.post("/v1/feedback", json=rating, headers={"authorization": f"Bearer {theirs}"})
    assert reply.status_code == 200, reply.text
    await house.until(lambda: ingest.learner.counts["feedback_cached"] == 1)
    assert ingest.learner.counts["feedback_learned"] == 0
