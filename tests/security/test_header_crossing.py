"""Which headers cross, both ways, byte for byte: allow-lists, never deny-lists (delivery.md 6.2).

What is not named stays on its side: hop-by-hop headers, cookies, alt-svc, the provider's organisation, and everything
nobody has thought of.
"""

import json
import re

import pytest

BODY = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
HOP_BY_HOP = (
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "x-hop",
)
FORWARDED = {
    "idempotency-key": "k-1",
    "openai-beta": "assistants=v2",
    "anthropic-beta": "b-1",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=b",
    "baggage": "c=d",
}
KEPT_BACK = {
    "cookie": "session=1",
    "authorization": "Bearer sk-of-the-caller",
    "x-api-key": "sk-of-the-caller",
    "proxy-authorization": "Basic eDp5",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-host": "evil.example",
    "forwarded": "for=1",
    "via": "1.1 x",
    "referer": "http://intranet/secret",
    "origin": "http://intranet",
    "user-agent": "curl",
    "openai-organization": "org-1",
    "openai-project": "proj-1",
    "x-stainless-lang": "python",
    "te": "trailers",
    "keep-alive": "timeout=5",
    "x-nobody-thought-of": "1",
    "x-llm-optimizer-peer": "127.0.0.1",
    "x-llm-optimizer-worker": "token",
}
RETURNED = {
    "cache-control": "no-store",
    "content-language": "de",
    "openai-processing-ms": "12",
    "openai-version": "2020-10-01",
    "x-should-retry": "false",
    "x-ratelimit-remaining-requests": "9",
    "anthropic-ratelimit-tokens-remaining": "8",
}
WITHHELD = {
    "set-cookie": "__cf_bm=abc; path=/; HttpOnly",
    "set-cookie2": "a=b",
    "alt-svc": 'h3=":443"; ma=86400',
    "openai-organization": "org-of-the-operator",
    "anthropic-organization-id": "org-of-the-operator",
    "openai-project": "proj-of-the-operator",
    "strict-transport-security": "max-age=1",
    "server": "cloudflare",
    "via": "1.1 google",
    "cf-ray": "1",
    "x-served-by": "10.0.0.7",
    "access-control-allow-origin": "*",
    "access-control-allow-credentials": "true",
    "link": "</x>; rel=preload",
    "refresh": "0; url=http://evil.example",
    "clear-site-data": '"*"',
    "report-to": "{}",
    "nel": "{}",
    "p3p": "x",
    "www-authenticate": 'Bearer realm="provider"',
    "proxy-authenticate": "Basic",
    "proxy-connection": "keep-alive",
    "keep-alive": "timeout=5",
    "upgrade": "h2c",
    "trailer": "x-checksum",
    "x-hop": "1",
    "x-llm-optimizer-arm": "forged",
    "x-llm-optimizer-route": "forged",
    "x-llm-optimizer-request-id": "forged",
    "x-nobody-thought-of": "1",
}
OURS = re.compile(r"x-llm-optimizer-[a-z-]+")


def replying(status, headers, body, *, stream=False):
    """A script that answers with exactly these headers."""
    kind = "text/event-stream" if stream else "application/json"

    async def script(reader, writer):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{lines}content-length: {len(body)}\r\n"
            "connection: x-hop\r\n\r\n".encode()
            + body
        )

    return script


def answer(stream=False):
    if stream:
        chunk = {
            "id": "c",
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}],
        }
        return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    message = {"role": "assistant", "content": "hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


async def test_only_named_headers_go_up(raw_proxy, raw_upstream, shapes):
    """The head that arrived, whole: ours, and the six that a caller may set."""
    raw_upstream.script = replying(200, {}, answer())
    reply = await raw_proxy.client.post("/v1/chat/completions", json=BODY, headers=FORWARDED | KEPT_BACK)
    assert reply.status_code == 200
    lines = raw_upstream.heads[0].decode().split("\r\n")
    found = {name: value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    own = {"host", "authorization", "content-type", "accept-encoding", "user-agent", "content-length"}
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert len(found) == len([line for line in lines[1:] if line])
    assert set(found) == own | set(FORWARDED)
    assert {name: found[name] for name in FORWARDED} == FORWARDED
    assert (found["authorization"], found["user-agent"]) == (f"Bearer {shapes.secret}", "llm-optimizer")


async def test_connection_does_not_make_a_header_cross(raw_proxy, raw_upstream):
    """``Connection: authorization`` neither drops ours nor lets theirs through."""
    raw_upstream.script = replying(200, {}, answer())
    await raw_proxy.client.post("/v1/chat/completions", json=BODY)
    await raw_proxy.client.post(
        "/v1/chat/completions",
        json=BODY,
        headers={"connection": "keep-alive, authorization, host, content-length, traceparent"},
    )
    assert raw_upstream.heads[0] == raw_upstream.heads[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_only_named_headers_come_down(raw_proxy, raw_upstream, stream):
    raw_upstream.script = replying(200, RETURNED | WITHHELD, answer(stream), stream=stream)
    reply = await raw_proxy.client.post("/v1/chat/completions", json=BODY | {"stream": stream})
    assert reply.status_code == 200
    _came_down(reply, RETURNED)


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500])
async def test_errors_let_no_more_through(raw_proxy, raw_upstream, status):
    body = b'{"error": {"message": "no", "type": "x", "code": "y"}}'
    raw_upstream.script = replying(status, RETURNED | WITHHELD, body)
    reply = await raw_proxy.client.post("/v1/chat/completions", json=BODY)
    assert reply.status_code >= 400
    _came_down(reply, {})


async def test_pass_through_lets_little_more_through(raw_proxy, raw_upstream):
    """What says how to read the body crosses, and how to authenticate at a passthrough upstream; nothing else."""
    described = {"etag": '"1"', "content-disposition": "attachment", "vary": "accept"}
    raw_upstream.script = replying(200, RETURNED | WITHHELD | described, b'{"data":[]}')
    reply = await raw_proxy.client.get("/v1/files", headers=FORWARDED | KEPT_BACK)
    assert reply.status_code == 200
    _came_down(reply, RETURNED | described, {"www-authenticate"})
    head = raw_upstream.heads[0].decode().lower()
    for name in set(KEPT_BACK) - {"authorization", "user-agent"}:
        assert f"\r\n{name}:" not in head, name
    assert "sk-of-the-caller" not in head


def _came_down(reply, expected, also=frozenset()):
    for name, value in expected.items():
        assert reply.headers[name] == value, name
    for name in set(WITHHELD) - set(also):
        if OURS.fullmatch(name):
            assert "forged" not in reply.headers.get(name, ""), name
        elif name != "keep-alive":
            assert name not in reply.headers, name
    own = {
        "content-type",
        "content-length",
        "transfer-encoding",
        "connection",
        "date",
        "x-request-id",
        "retry-after",
    }
    others = {
        name for name in reply.headers if not OURS.fullmatch(name) and not name.startswith("x-ratelimit-")
    }
    assert others <= own | set(RETURNED) | set(expected) | set(also)


@pytest.mark.parametrize("name", ["x-request-id", "openai-model", "retry-after", "openai-version"])
@pytest.mark.parametrize("value", [b"a\x00b", b"a\rb", b"a\x01b", b"\xc2\x85", b"a\x7fb"])
async def test_odd_bytes_of_an_upstream_split_no_head(raw_proxy, raw_upstream, name, value):
    """Response splitting: such a reply is refused, or its bytes arrive as one value."""

    async def script(reader, writer):
        body = answer()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + name.encode() + b": " + value)
        writer.write(b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    raw_upstream.script = script
    reply = await raw_proxy.client.post("/v1/chat/completions", json=BODY)
    assert reply.status_code in (200, 502)
    if reply.status_code == 200:
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join(value for _, value in reply.headers.raw))


@pytest.mark.parametrize("name", ["traceparent", "idempotency-key", "openai-beta"])
async def test_a_callers_value_adds_no_line(raw_proxy, raw_upstream, name):
    """Request splitting through what is forwarded; the engine refuses control bytes (tests/proxy/http1)."""
    raw_upstream.script = replying(200, {}, answer())
    for value in ("a\tb", "a: b", "\u00e9".encode().decode("latin-1"), "x" * 4000):
        await raw_proxy.client.post(
            "/v1/chat/completions", json=BODY, headers={name: value.encode("latin-1")}
        )
    for head in raw_upstream.heads:
        assert head.count(b"\r\n") == 9
        assert head.count(b"\n") == head.count(b"\r") == 9
