"""The data plane as its callers see it: a real worker, a real upstream, real clients."""

import asyncio
import gzip
import math
from collections import Counter
from dataclasses import replace

import openai
import orjson
import pytest
from aiohttp import web

CHAT = "/v1/chat/completions"
IMAGE = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


def sse(*events: object) -> bytes:
    """Events as OpenAI frames them."""
    return b"".join(
        b"data: " + (event if isinstance(event, bytes) else orjson.dumps(event)) + b"\n\n" for event in events
    )


def chunk(text: str | None = None, finish: str | None = None) -> dict[str, object]:
    delta = {"content": text} if text is not None else {}
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


async def test_unary_request_is_decided_forwarded_and_recorded(proxy, upstream):
    """One chat call: an arm answers, headers name it, and one event holds cost, tokens and propensity."""
    reply = await proxy.client.post(CHAT, json=HELLO | {"x_unknown": {"kept": [1, 2.50]}})

    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "Hello"
    arm = reply.headers["x-llm-optimizer-arm"]
    assert arm in ("a", "b")
    assert reply.headers["x-llm-optimizer-route"] == "chat"
    assert reply.headers["x-llm-optimizer-model"] == arm
    assert reply.headers["x-llm-optimizer-variant"] == "default"
    assert reply.headers["x-llm-optimizer-side"] == "control"
    assert reply.headers["x-llm-optimizer-attempts"] == "1"
    assert float(reply.headers["x-llm-optimizer-overhead-ms"]) >= 0
    assert float(reply.headers["x-llm-optimizer-cost-usd"]) == pytest.approx(20e-6)
    assert reply.headers["x-request-id"] == reply.headers["x-llm-optimizer-request-id"]
    assert upstream.bodies[0]["model"] == f"{arm}-id"
    assert upstream.bodies[0]["x_unknown"] == {"kept": [1, 2.5]}
    event = await proxy.event()
    assert event["id"] == reply.headers["x-request-id"]
    assert event["arm"] == arm
    assert event["propensity"] == 0.5
    assert event["probabilities"] == [0.5, 0.5]
    assert event["cost_usd"] == pytest.approx(20e-6)
    assert event["gen_ai.usage.input_tokens"] == 10
    assert event["outcome"] == "completed"
    assert event["reason"] == "bandit"
    assert event["randomised"] is True


async def test_messages_are_forwarded_byte_for_byte(proxy, upstream):
    """Only the model's name changes in the caller's bytes; odd spacing and number spellings survive."""
    body = b'{ "messages":[{"role":"user","content":"\\u00e9 \\"model\\""}] ,"temperature":1.0e0,  "model" : "chat" }'
    reply = await proxy.client.post(CHAT, content=body, headers={"content-type": "application/json"})

    assert reply.status_code == 200
    arm = reply.headers["x-llm-optimizer-arm"]
    assert upstream.raw[0] == body.replace(b'"chat"', b'"%s-id"' % arm.encode())


async def test_arms_are_drawn_with_their_propensities(proxy, upstream, shapes):
    """Over 400 requests the shares agree with the table (5 sigma: false alarm < 1e-6)."""
    table = shapes.table(upstream.url, version=2)
    route = replace(
        table.routes[0], control=shapes.side(shapes.arm("a"), shapes.arm("b"), probabilities=(0.8, 0.2))
    )
    proxy.publish(replace(table, routes=(route,)))
    replies = []
    for _ in range(20):
        replies += await asyncio.gather(*(proxy.client.post(CHAT, json=HELLO) for _ in range(20)))

    shares = Counter(reply.headers["x-llm-optimizer-arm"] for reply in replies)
    assert abs(shares["a"] - 320) < 5 * math.sqrt(400 * 0.8 * 0.2)


async def test_the_clients_key_never_reaches_an_upstream(proxy, upstream):
    """The caller's Authorization is ours; the upstream sees its own credential."""
    await proxy.client.post(
        CHAT,
        json=HELLO,
        headers={"authorization": "Bearer client-key", "cookie": "a=b", "x-forwarded-for": "1.2.3.4"},
    )

    sent = upstream.headers[0]
    assert sent["authorization"].startswith("Bearer sk-planted-upstream")
    assert "cookie" not in sent
    assert "x-forwarded-for" not in sent
    assert sent["accept-encoding"] == "identity"


async def test_model_resolution_order(proxy):
    """Exact route, then pattern (with what was asked for as baseline), then plain model, else 404."""
    matched = await proxy.client.post(CHAT, json=HELLO | {"model": "gpt-4"})
    plain = await proxy.client.post(CHAT, json=HELLO | {"model": "b"})
    missing = await proxy.client.post(CHAT, json=HELLO | {"model": "nope"})

    assert matched.headers["x-llm-optimizer-route"] == "chat"
    assert plain.headers["x-llm-optimizer-arm"] == "b"
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
    assert missing.json()["error"]["param"] == "model"
    assert (await proxy.event(2))["route"] is None
    assert (await proxy.event(3))["outcome"] == "caller_fault"


async def test_pin_chooses_an_arm_and_is_not_randomised(proxy):
    """A pinned request goes where it says; an unknown pin is a clear 400."""
    pinned = await proxy.client.post(CHAT, json=HELLO, headers={"x-llm-optimizer-pin": "b"})
    wrong = await proxy.client.post(CHAT, json=HELLO, headers={"x-llm-optimizer-pin": "zzz"})

    assert pinned.headers["x-llm-optimizer-arm"] == "b"
    event = await proxy.event()
    assert (event["reason"], event["randomised"], event["propensity"]) == ("pinned", False, 1.0)
    assert wrong.status_code == 400
    assert wrong.json()["error"]["code"] == "unknown_arm"


async def test_sticky_units_keep_their_arm(proxy, upstream, shapes, sticky):
    """The same session always meets the same arm, and different sessions meet both."""
    table = shapes.table(upstream.url, version=2)
    proxy.publish(replace(table, routes=(replace(table.routes[0], sticky=sticky("header", "x-session-id")),)))
    arms: dict[str, set[str]] = {}
    for number in range(40):
        session = f"s{number % 20}"
        reply = await proxy.client.post(CHAT, json=HELLO, headers={"x-session-id": session})
        arms.setdefault(session, set()).add(reply.headers["x-llm-optimizer-arm"])

    assert all(len(found) == 1 for found in arms.values())
    assert len({next(iter(found)) for found in arms.values()}) == 2
    event = await proxy.event()
    assert event["unit"] == "header"
    assert "s0" not in orjson.dumps(event).decode()


async def test_arms_that_lack_a_capability_are_not_eligible(proxy, upstream, shapes):
    """Tools go only to arms that have them, long prompts where they fit, and the log says why."""
    table = shapes.table(
        upstream.url,
        version=2,
        models=(
            shapes.model("a", capabilities=frozenset()),
            shapes.model("b", context_tokens=50, capabilities=frozenset(("tools",))),
        ),
    )
    proxy.publish(table)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with_tools = await proxy.client.post(CHAT, json=HELLO | {"tools": tools, "max_tokens": 5})
    long = await proxy.client.post(
        CHAT, json={"model": "chat", "messages": [{"role": "user", "content": "x" * 4000}]}
    )
    neither = await proxy.client.post(
        CHAT, json=HELLO | {"tools": tools, "messages": [{"role": "user", "content": IMAGE}]}
    )

    assert with_tools.headers["x-llm-optimizer-arm"] == "b"
    assert long.headers["x-llm-optimizer-arm"] == "a"
    assert neither.status_code == 400
    assert neither.json()["error"]["code"] == "unsupported_by_route"
    assert "lacks tools" in neither.json()["error"]["message"]
    event = await proxy.event()
    assert event["filtered"] == {"a": "lacks tools"}
    assert event["reason"] == "single"


async def test_prompt_variant_and_parameters_change_the_request(proxy, upstream, shapes):
    """An arm's system text and parameter overrides reach the upstream."""
    table = shapes.table(upstream.url, version=2)
    terse = shapes.arm("a", "terse", parameters={"temperature": 0.25, "top_p": None})
    proxy.publish(replace(table, routes=(replace(table.routes[0], control=shapes.side(terse)),)))
    reply = await proxy.client.post(CHAT, json=HELLO | {"temperature": 1, "top_p": 0.5})

    assert reply.headers["x-llm-optimizer-variant"] == "terse"
    assert upstream.bodies[0]["messages"][0] == {"role": "system", "content": "Be terse."}
    assert upstream.bodies[0]["temperature"] == 0.25
    assert "top_p" not in upstream.bodies[0]


async def stream_of(request: web.Request, *pieces: bytes, pause: float = 0.0) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-request-id": "up-1"})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
        await asyncio.sleep(pause)
    return response


async def test_stream_is_relayed_and_injected_usage_is_stripped(proxy, upstream):
    """The caller gets exactly what it would have got without us asking for usage; the event has the usage."""
    plain = [sse(chunk("Hel")), sse(chunk("lo")), sse(chunk(None, "stop"))]
    usage = {
        **chunk(),
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }

    async def handler(request: web.Request) -> web.StreamResponse:
        marked = [piece.replace(b"}]}\n\n", b'}],"usage":null}\n\n') for piece in plain]
        return await stream_of(request, *marked, sse(usage), sse(b"[DONE]"), pause=0.02)

    upstream.handler = handler
    async with proxy.client.stream("POST", CHAT, json=HELLO | {"stream": True}) as reply:
        received = [piece async for piece in reply.aiter_raw()]

    assert upstream.bodies[0]["stream_options"] == {"include_usage": True}
    assert b"".join(received) == b"".join(plain) + sse(b"[DONE]")
    assert len(received) >= 3, "chunks must not be gathered"
    event = await proxy.event()
    assert event["gen_ai.usage.output_tokens"] == 2
    assert event["cost_usd"] == pytest.approx(11e-6)
    assert event["usage_source"] == "reported"
    assert event["ttft_ms"] <= event["duration_ms"]
    assert event["upstream_request_id"] == "up-1"


async def test_usage_asked_for_by_the_caller_is_kept(proxy, upstream):
    """With include_usage set by the caller, the stream passes through unchanged."""
    usage = {
        **chunk(),
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
    whole = sse(chunk("Hi"), chunk(None, "stop"), usage, b"[DONE]")

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, whole)

    upstream.handler = handler
    reply = await proxy.client.post(
        CHAT, json=HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    )

    assert reply.content == whole


async def test_truncated_stream_is_never_presented_as_success(proxy, upstream):
    """A stream that ends without finish reason or [DONE] ends in an error event and teaches a failure."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, sse(chunk("Hel")))

    upstream.handler = handler
    reply = await proxy.client.post(CHAT, json=HELLO | {"stream": True})

    assert b"[DONE]" not in reply.content
    last = orjson.loads(reply.content.strip().rpartition(b"data: ")[2])
    assert last["error"]["code"] == "upstream_protocol_error"
    assert (await proxy.event())["outcome"] == "upstream_fault"


@pytest.mark.parametrize("after", ["before_headers", "between_tokens"])
async def test_client_hang_up_cancels_the_upstream(proxy, upstream, after):
    """When the caller leaves, the upstream request is cancelled and partial usage is recorded."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if after == "before_headers":
            await asyncio.sleep(30)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(3):
            await response.write(sse(chunk("word ")))
        await asyncio.sleep(30)
        return response

    upstream.handler = handler
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    body = orjson.dumps(HELLO | {"stream": True})
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    if after == "between_tokens":
        await reader.readuntil(b"word ")
    else:
        while not upstream.raw:
            await asyncio.sleep(0.01)
    writer.close()

    await asyncio.wait_for(upstream.gone.wait(), 5)
    event = await proxy.event()
    assert event["outcome"] == "censored"
    assert event["error.type"] == "client_gone"
    assert event["status"] == 499
    if after == "between_tokens":
        assert event["usage_source"] == "estimated"
        assert event["gen_ai.usage.output_tokens"] >= 1


@pytest.mark.parametrize(
    ("status", "shown", "outcome"),
    [
        (400, 400, "caller_fault"),
        (404, 404, "caller_fault"),
        (422, 422, "caller_fault"),
        (429, 429, "censored"),
        (401, 502, "censored"),
        (403, 502, "censored"),
        (408, 408, "upstream_fault"),
        (500, 500, "upstream_fault"),
        (503, 503, "upstream_fault"),
        (529, 503, "upstream_fault"),
        (307, 502, "upstream_fault"),
    ],
)
async def test_upstream_errors_are_blamed_and_told(proxy, upstream, status, shown, outcome):
    """Each status of an upstream reaches the caller in OpenAI's shape and teaches what it should."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {"error": {"message": "m", "type": "t", "param": None, "code": "c"}},
            status=status,
            headers={"retry-after": "3", "location": "http://127.0.0.1:1/"},
        )

    upstream.handler = handler
    reply = await proxy.client.post(CHAT, json=HELLO)

    assert reply.status_code == shown
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert reply.headers["retry-after"] == "3"
    assert reply.headers["x-request-id"].startswith("req_")
    event = await proxy.event()
    assert event["outcome"] == outcome
    assert event["attempts"][0]["status"] == status
    assert len(upstream.raw) == 1


async def test_dead_upstream_is_a_502(proxy, upstream, shapes):
    """Nothing listens: the caller gets a clear 502 and the arm a failure."""
    proxy.publish(shapes.table("http://127.0.0.1:9/v1", version=2))
    reply = await proxy.client.post(CHAT, json=HELLO)

    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "upstream_connect_error"
    assert (await proxy.event())["outcome"] == "upstream_fault"


async def test_missing_secret_makes_an_arm_unavailable(proxy, upstream, shapes):
    """An arm without its key is left out; with none left the caller is told why, without the key's value."""
    table = shapes.table(upstream.url, version=2)
    proxy.publish(replace(table, upstreams=(replace(table.upstreams[0], secret="env:NOT_SET_ANYWHERE"),)))
    reply = await proxy.client.post(CHAT, json=HELLO)

    assert reply.status_code == 503
    assert "NOT_SET_ANYWHERE" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"messages":[]}', "model"),
        (b'{"model":5,"messages":[]}', "model"),
        (b'{"model":"chat"}', "messages"),
        (b'{"model":"chat","messages":[],"stream":"yes"}', "stream"),
    ],
)
async def test_bad_input_is_a_clear_400(proxy, body, param):
    """The error names the field."""
    reply = await proxy.client.post(CHAT, content=body)

    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


async def test_embeddings_keep_their_model(proxy, upstream):
    """Vectors are not comparable: an embeddings request always goes to the baseline's model."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
                "model": "e",
                "usage": {"prompt_tokens": 3, "total_tokens": 3},
            }
        )

    upstream.handler = handler
    arms = {
        (await proxy.client.post("/v1/embeddings", json={"model": "chat", "input": "x"})).headers[
            "x-llm-optimizer-arm"
        ]
        for _ in range(12)
    }

    assert arms == {"a"}
    event = await proxy.event()
    assert event["reason"] == "embeddings"
    assert event["randomised"] is False
    assert event["cost_usd"] == pytest.approx(3e-6)


async def test_other_paths_stream_both_ways_untouched(proxy, upstream):
    """Audio, files and the like go through as bytes, are recorded, and carry the upstream's credential."""
    payload = bytes(range(256)) * 4096

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=upstream.raw[-1][::-1], content_type="audio/mpeg")

    upstream.handler = handler
    reply = await proxy.client.post(
        "/v1/audio/transcriptions?x=1", content=payload, headers={"content-type": "audio/wav"}
    )

    assert reply.content == payload[::-1]
    assert reply.headers["content-type"] == "audio/mpeg"
    assert upstream.paths == ["/v1/audio/transcriptions?x=1"]
    assert upstream.headers[0]["authorization"].startswith("Bearer sk-planted")
    event = await proxy.event()
    assert (event["endpoint"], event["route"], event["outcome"]) == ("other", None, "completed")


async def test_models_health_and_method_errors(proxy):
    """The small endpoints answer like OpenAI's."""
    models = (await proxy.client.get("/v1/models")).json()
    one = await proxy.client.get("/v1/models/chat")
    none = await proxy.client.get("/v1/models/none")
    wrong = await proxy.client.get(CHAT)
    options = await proxy.client.options(CHAT)
    nowhere = await proxy.client.get("/nowhere")

    assert [entry["id"] for entry in models["data"]] == ["chat", "a", "b"]
    assert one.json()["object"] == "model"
    assert none.status_code == 404
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, OPTIONS")
    assert options.status_code == 204
    assert nowhere.json()["error"]["code"] == "not_found"
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await proxy.client.get(path)).status_code == 200


async def test_without_the_optimizer_admin_paths_say_so(proxy):
    """The optimizer being away is a 503 with Retry-After; metrics still show this worker."""
    routes = await proxy.client.get("/api/v1/routes")
    metrics = await proxy.client.get("/metrics")

    assert routes.status_code == 503
    assert "retry-after" in routes.headers
    assert "llm_optimizer_optimizer_up 0" in metrics.text


async def test_feedback_is_checked_and_logged(proxy):
    """Feedback for our own request ids is accepted; forged ids and bad values are refused."""
    request_id = (await proxy.client.post(CHAT, json=HELLO)).headers["x-llm-optimizer-request-id"]
    good = await proxy.client.post(
        "/v1/feedback", json={"request_id": request_id, "score": 0.5, "comment": "planted comment"}
    )
    forged = await proxy.client.post(
        "/v1/feedback",
        json={"request_id": request_id[:-1] + ("0" if request_id[-1] != "0" else "1"), "score": 1},
    )
    bad = await proxy.client.post("/v1/feedback", json={"request_id": request_id})

    assert good.json()["accepted"] == 1
    assert forged.status_code == 404
    assert forged.json()["error"]["code"] == "unknown_request_id"
    assert bad.status_code == 400
    (event,) = proxy.events("llm_optimizer.feedback.v1")
    assert event["data"]["value"] == 0.5
    assert "planted" not in orjson.dumps(event).decode()


async def test_no_secret_or_content_in_the_log(proxy):
    """Nothing that was planted in prompt, answer, headers or keys appears anywhere below the state directory."""
    planted = "planted-prompt-7b1f"
    await proxy.client.post(
        CHAT,
        json={"model": "chat", "user": planted, "messages": [{"role": "user", "content": planted}]},
        headers={"authorization": f"Bearer {planted}"},
    )
    await proxy.client.post(CHAT, content=b'{"model":"chat","messages":"' + planted.encode())
    await proxy.event(2)

    for path in proxy.state.path.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert planted.encode() not in text, path
            assert b"sk-planted-upstream" not in text, path
            assert b"Hello" not in text, path


async def test_official_sdk_unary_and_stream(proxy, upstream):
    """The openai SDK works with base_url changed and nothing else."""
    client = openai.AsyncOpenAI(base_url=proxy.url + "/v1", api_key="anything", max_retries=0)
    answer = await client.chat.completions.with_raw_response.create(
        model="gpt-4", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.parse().choices[0].message.content == "Hello"
    assert answer.headers["x-request-id"].startswith("req_")

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, sse(chunk("A")), sse(chunk("B")), sse(chunk(None, "stop"), b"[DONE]"))

    upstream.handler = handler
    stream = await client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    assert "".join([part.choices[0].delta.content or "" async for part in stream]) == "AB"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"
    await client.close()


async def test_compressed_reply_passes_through_and_is_counted(proxy, upstream, shapes):
    """An upstream that compresses anyway: the caller gets its bytes, the event its usage."""
    packed = gzip.compress(orjson.dumps(shapes.completion("m", "squeezed")))

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=packed, headers={"content-encoding": "gzip", "content-type": "application/json"}
        )

    upstream.handler = handler
    reply = await proxy.client.post(CHAT, json=HELLO)

    assert reply.headers["content-encoding"] == "gzip"
    assert reply.json()["choices"][0]["message"]["content"] == "squeezed"
    assert (await proxy.event())["cost_usd"] == pytest.approx(20e-6)


async def test_compression_bomb_costs_a_bounded_amount(proxy, upstream):
    """A bomb passes as the bytes it is; decoding aside gives up at its bound and the cost is unknown."""
    bomb = gzip.compress(b"0" * (64 * 1024 * 1024), 9)

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=bomb, headers={"content-encoding": "gzip", "content-type": "application/json"}
        )

    upstream.handler = handler
    async with proxy.client.stream("POST", CHAT, json=HELLO) as reply:
        received = b"".join([piece async for piece in reply.aiter_raw()])

    assert received == bomb
    assert (await proxy.event())["cost_usd"] is None


async def test_large_reply_is_relayed_and_still_counted(proxy, upstream, shapes):
    """Beyond the buffer bound a reply streams through; its usage is read all the same."""
    text = "x" * (3 * 1024 * 1024)

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(shapes.completion("m", text))

    upstream.handler = handler
    reply = await proxy.client.post(CHAT, json=HELLO)

    assert reply.json()["choices"][0]["message"]["content"] == text
    assert "x-llm-optimizer-cost-usd" not in reply.headers
    assert (await proxy.event())["cost_usd"] == pytest.approx(20e-6)


async def test_leaving_after_the_finish_reason_is_a_complete_answer(proxy, upstream):
    """A client that does not wait for [DONE] has its answer: completed, not censored."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(sse(chunk("whole"), chunk(None, "stop")))
        await asyncio.sleep(30)
        return response

    upstream.handler = handler
    async with proxy.client.stream("POST", CHAT, json=HELLO | {"stream": True}) as reply:
        async for piece in reply.aiter_raw():
            if b'"stop"' in piece:
                break

    await asyncio.wait_for(upstream.gone.wait(), 5)
    event = await proxy.event()
    assert (event["outcome"], event["status"]) == ("completed", 200)
    assert event["gen_ai.response.finish_reasons"] == ["stop"]
