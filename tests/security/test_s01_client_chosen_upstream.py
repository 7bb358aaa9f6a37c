"""S1, the client chooses the upstream and gets the key: LiteLLM CVE-2024-6587 (api_base in the body, later nested),
Portkey CVE-2025-66405 and CVE-2026-110719 (x-portkey-custom-host), LLMGateway CVE-2026-108719 (callback_url).

The invariant is held from outside: the head that the upstream received does not differ by a byte from that of a request
without any of it, and the server that all of it points to is never connected to.
"""

import asyncio
import re
from dataclasses import replace

import orjson
import pytest

from optimizer.routing import Upstream

ENDPOINTS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/responses": {"input": "hi", "store": False},
}
FIELDS = (
    "api_base", "base_url", "baseURL", "api_url", "api_endpoint", "endpoint", "url", "host", "custom_host",
    "customHost",
    "callback_url", "callbackUrl", "webhook", "webhook_url", "proxy", "http_proxy", "https_proxy", "upstream",
    "target_url",
    "forward_url", "organization", "api_version", "model_url", "model_api_base", "litellm_params", "litellm_metadata",
    "user_config", "fallbacks", "fallback_dict", "model_list", "router_settings_override", "client", "http_client",
    "azure_endpoint", "aws_bedrock_runtime_endpoint", "vertex_project", "s3_endpoint_url", "unix_socket", "ca_file",
)  # fmt: skip
HEADERS = (
    "x-portkey-custom-host", "x-portkey-config", "x-portkey-provider", "x-portkey-forward-headers",
    "helicone-target-url",
    "helicone-openai-api-base", "x-api-base", "api-base", "x-base-url", "x-upstream", "x-upstream-url",
    "x-target-url",
    "x-llm-optimizer-upstream", "x-llm-optimizer-base-url", "x-forwarded-host", "x-forwarded-server",
    "x-forwarded-proto",
    "x-forwarded-for", "x-forwarded-port", "x-real-ip", "forwarded", "via", "x-host", "x-original-host",
    "x-original-url",
    "x-rewrite-url", "x-http-host-override", "x-http-method-override", "x-proxy-url", "proxy", "proxy-authorization",
    "destination", "cf-connecting-ip", "true-client-ip", "cookie", "referer", "origin", "user-agent",
    "x-api-key", "api-key",
    "x-goog-api-key", "x-litellm-api-key", "openai-organization", "openai-project", "x-stainless-os", "x-custom-auth",
    "x-llm-optimizer-peer", "x-llm-optimizer-worker", "x-llm-optimizer-request-id", "x-request-id", "from",
    "x-callback-url",
)  # fmt: skip


# Enough of an answer for every endpoint.
ANSWER = orjson.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi"},
                "text": "hi",
                "finish_reason": "stop",
            }
        ],
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)


async def answer_json(reader, writer):
    body = ANSWER
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )


def without_length(head: bytes) -> bytes:
    return re.sub(rb"content-length: \d+\r\n", b"", head)


@pytest.fixture
def steady(raw_proxy, raw_upstream, shapes):
    """A proxy with a single arm, so that every request of an endpoint has the same head."""
    raw_upstream.script = answer_json
    table = shapes.table(raw_upstream.url, version=2)
    raw_proxy.publish(
        replace(table, routes=(replace(table.routes[0], control=shapes.side(shapes.arm("a"))),))
    )
    return raw_proxy


async def head_of(proxy, raw_upstream, path, document, headers=None, query=""):
    reply = await proxy.client.post(path + query, content=orjson.dumps(document), headers=headers)
    assert reply.status_code == 200, reply.text
    return raw_upstream.heads[-1]


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_no_body_field_selects_anything(steady, raw_upstream, trap, path):
    """At the top, in metadata, in extra_body, in extra_headers, inside messages and tools: the head stays the same."""
    plain = {"model": "chat", **ENDPOINTS[path]}
    expected = without_length(await head_of(steady, raw_upstream, path, plain))
    assert b"authorization: Bearer sk-planted-upstream-secret-0123456789\r\n" in expected
    for name in FIELDS:
        nest = {name: trap.url, "headers": {"authorization": "stolen", "host": trap.authority}}
        hostile = plain | {
            name: trap.url,
            "metadata": nest,
            "extra_body": nest | {"extra_body": nest},
            "extra_headers": {"host": trap.authority, "authorization": "Bearer stolen", name: trap.url},
            "extra_query": {name: trap.url},
            "litellm_params": {"metadata": {"headers": nest, "nested": [nest]}},
        }
        assert without_length(await head_of(steady, raw_upstream, path, hostile)) == expected, name
    assert trap.visits == []


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_no_header_selects_anything(steady, raw_upstream, trap, path):
    """Each alone and all at once; the upstream's head has not one byte of them."""
    plain = {"model": "chat", **ENDPOINTS[path]}
    expected = await head_of(steady, raw_upstream, path, plain)
    for name in HEADERS:
        assert await head_of(steady, raw_upstream, path, plain, {name: trap.url}) == expected, name
        assert await head_of(steady, raw_upstream, path, plain, {name: trap.authority}) == expected, name
    everything = dict.fromkeys(HEADERS, trap.url) | {"authorization": "Bearer sk-of-the-caller"}
    assert await head_of(steady, raw_upstream, path, plain, everything) == expected
    assert trap.visits == []


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_no_query_selects_anything(steady, raw_upstream, trap, path):
    plain = {"model": "chat", **ENDPOINTS[path]}
    expected = await head_of(steady, raw_upstream, path, plain)
    query = "?" + "&".join(f"{name}={trap.url}" for name in FIELDS)
    assert await head_of(steady, raw_upstream, path, plain, query=query) == expected
    assert trap.visits == []


@pytest.mark.parametrize(
    "model",
    ["http://{trap}/v1", "openai/http://{trap}", "chat@{trap}", "{trap}/chat", "../../{trap}", "a\r\nhost: {trap}",
     "chat\x00", "custom_openai/{trap}", "//{trap}", "up/a", "file:///etc/passwd", "env:OPENAI_API_KEY"],
)  # fmt: skip
async def test_a_model_name_is_looked_up_and_nothing_else(steady, raw_upstream, trap, model):
    for path, fields in ENDPOINTS.items():
        reply = await steady.client.post(path, json={"model": model.format(trap=trap.authority), **fields})
        assert reply.status_code == 404
    assert (raw_upstream.heads, trap.visits) == ([], [])


@pytest.mark.parametrize("pin", ["http://{trap}", "a@{trap}", "../a", "b", "up"])
async def test_a_pin_names_an_arm_of_the_route_or_is_refused(steady, raw_upstream, trap, pin):
    reply = await steady.client.post(
        "/v1/chat/completions",
        json={"model": "chat", **ENDPOINTS["/v1/chat/completions"]},
        headers={"x-llm-optimizer-pin": pin.format(trap=trap.authority)},
    )
    assert reply.status_code == 400
    assert (raw_upstream.heads, trap.visits) == ([], [])


@pytest.mark.parametrize("path", ["/v1/files", "/v1/audio/speech", "/v1/batches/b1/cancel"])
async def test_pass_through_goes_to_the_configured_place(steady, raw_upstream, trap, path):
    """Only the allow-list of headers crosses; the host, the key and the base path are the operator's."""
    for headers in ({}, dict.fromkeys(HEADERS, trap.url) | {"authorization": "Bearer sk-of-the-caller"}):
        reply = await steady.client.post(
            path, content=b"{}", headers=headers | {"content-type": "application/json"}
        )
        assert reply.status_code == 200
    first, second = raw_upstream.heads
    assert first == second
    assert first.startswith(b"POST " + path.encode() + b" HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"sk-of-the-caller" not in first
    assert trap.visits == []


TARGETS = (
    "http://{trap}/v1/chat/completions", "https://{trap}/v1/files", "{trap}/v1/files", "//{trap}/v1/files",
    "/\\{trap}/v1",
    "@{trap}/v1/files", "/v1/files HTTP/1.1\r\nhost: {trap}\r\n\r\nGET /v1/files", "*",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
async def test_a_request_target_names_no_host(steady, raw_upstream, trap, target):
    """Absolute form, network-path references and what else a URL library would find a host in."""
    await raw(
        steady, f"GET {target.format(trap=trap.authority)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    )
    assert not [head for head in raw_upstream.heads if trap.authority.encode() in head]
    assert trap.visits == []


@pytest.mark.parametrize(
    "path", ["/v1//{trap}/x", "/v1/@{trap}/x", "/v1/http://{trap}/x", "/v1/x?url=http://{trap}"]
)
async def test_a_path_below_v1_stays_a_path(steady, raw_upstream, trap, path):
    await raw(steady, f"GET {path.format(trap=trap.authority)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    for head in raw_upstream.heads:
        assert head.startswith(b"GET /v1/")
        assert f"host: {trap.authority}".encode() not in head
    assert trap.visits == []


@pytest.mark.parametrize(
    "host", ["{trap}", "evil.example", "x/docs?a=", "localhost/#@{trap}", "a@{trap}", ""]
)
async def test_the_callers_host_is_not_the_upstreams(steady, raw_upstream, trap, host):
    """The Host table of delivery.md 2.3: refused or ignored."""
    body = orjson.dumps({"model": "chat", **ENDPOINTS["/v1/chat/completions"]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host.format(trap=trap.authority)}\r\n"
    await raw(steady, head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    for seen in raw_upstream.heads:
        assert b"\r\nhost: 127.0.0.1:%d\r\n" % int(raw_upstream.url.split(":")[2].split("/")[0]) in seen
    assert trap.visits == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
async def test_redirects_are_not_followed(steady, raw_upstream, trap, status, path):
    """A 307 would carry body and key to another origin."""

    async def redirect(reader, writer):
        writer.write(f"HTTP/1.1 {status} Moved\r\nlocation: {trap.url}\r\ncontent-length: 0\r\n\r\n".encode())

    raw_upstream.script = redirect
    body = {"model": "chat", **ENDPOINTS["/v1/chat/completions"]}
    reply = await steady.client.post(path, json=body, follow_redirects=False)
    assert reply.status_code in (status, 502)
    assert trap.visits == []


async def test_proxy_variables_of_the_environment_are_not_followed(steady, raw_upstream, trap, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{trap.authority}")
    plain = {"model": "chat", **ENDPOINTS["/v1/chat/completions"]}
    await head_of(steady, raw_upstream, "/v1/chat/completions", plain)
    assert trap.visits == []


async def test_the_callers_key_goes_to_a_passthrough_origin_only(raw_proxy, raw_upstream, shapes, serve):
    """auth: passthrough sends Authorization to that origin, ours to no one else."""
    seen = []

    async def other(request):
        from aiohttp import web

        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.json_response(shapes.completion("b"))

    raw_upstream.script = answer_json
    table = shapes.table(raw_upstream.url, version=2)
    theirs = Upstream(
        name="theirs", provider="openai", base_url=await serve(other) + "/v1", auth="passthrough"
    )
    models = (table.models[0], replace(table.models[1], upstream="theirs"))
    raw_proxy.publish(replace(table, upstreams=(table.upstreams[0], theirs), models=models))
    for model in ("a", "b"):
        reply = await raw_proxy.client.post(
            "/v1/chat/completions",
            json={"model": model, **ENDPOINTS["/v1/chat/completions"]},
            headers={"authorization": "Bearer sk-of-the-caller"},
        )
        assert reply.status_code == 200
    assert b"sk-of-the-caller" not in raw_upstream.heads[0]
    assert shapes.secret.encode() in raw_upstream.heads[0]
    assert seen[0]["authorization"] == "Bearer sk-of-the-caller"
    assert shapes.secret not in str(seen)


async def raw(proxy, data: bytes) -> bytes:
    """Send bytes, read until the proxy has nothing more to say."""
    host, port = proxy.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
