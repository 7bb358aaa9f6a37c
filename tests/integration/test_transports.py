"""How requests reach an upstream, and what a caller is told when they do not: TLS, sockets, proxies, deadlines."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from aiohttp import web

CHAT = "/v1/chat/completions"
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
DONE = b"data: [DONE]\n\n"


def chunk(text: str | None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    entry = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + orjson.dumps(entry) + b"\n\n"


STREAM = chunk("Hel") + chunk("lo") + chunk(None, "stop") + DONE


@dataclass
class Hop:
    """A TCP hop that counts and forwards: to one port, or, with port 0, to where CONNECT says."""

    port: int = 0
    verdict: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    accepted: int = 0
    carried: bytearray = field(default_factory=bytearray)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        port = self.port
        if not port:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            writer.write(self.verdict)
            if b" 200 " not in self.verdict:
                return
            port = int(head.split(b" ")[1].rpartition(b":")[2])
        there, onward = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(self.copy(reader, onward), self.copy(there, writer))
        finally:
            onward.close()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.carried += data
            writer.write(data)
        writer.close()


@pytest.fixture
async def hop() -> AsyncIterator[Callable[..., Awaitable[Hop]]]:
    """``await hop(port)`` forwards there; ``await hop()`` is a CONNECT proxy."""
    servers: list[asyncio.Server] = []
    tasks: list[asyncio.Task[None]] = []

    async def start(port: int = 0, **changes: Any) -> Hop:
        made = Hop(port, **changes)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await made.serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(
            lambda reader, writer: tasks.append(asyncio.ensure_future(serve(reader, writer))), "127.0.0.1", 0
        )
        servers.append(server)
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return made

    yield start
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Identity:
    """A private authority and a server context for one name."""

    ca_file: str
    context: ssl.SSLContext


@pytest.fixture
def identity(tmp_path: Path) -> Callable[[str], Identity]:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))

    def issue(name: str) -> Identity:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return Identity(str(file), context)

    return issue


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def check_both_ways(sdk, upstream) -> None:
    """One unary and one streamed call through the SDK."""
    answer = await sdk.chat.completions.create(**HELLO)
    assert answer.choices[0].message.content == "Hello"

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=STREAM, content_type="text/event-stream")

    upstream.handler = handler
    parts = [part async for part in await sdk.chat.completions.create(**HELLO, stream=True)]
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "Hello"


async def test_tls_with_a_private_authority(proxy, upstream, serve, sdk, reach, identity):
    """``ca_file`` is trusted, and one connection carries several requests."""
    mine = identity("127.0.0.1")
    peers = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        peers.add(request.transport.get_extra_info("peername"))
        assert request.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        return await upstream.serve(request)

    url = await serve(handler, tls=mine.context)
    reach(url + "/v1", ca_file=mine.ca_file)
    await check_both_ways(sdk, upstream)

    assert len(peers) == 1
    assert upstream.headers[0]["host"] == url.removeprefix("https://")
    assert (await proxy.event(2))["outcome"] == "completed"


@pytest.mark.parametrize(
    ("name", "trusted", "words"),
    [("127.0.0.1", False, "certificate verify failed"), ("other.example", True, "not valid for")],
    ids=["unknown authority", "wrong name"],
)
async def test_tls_that_does_not_verify(
    failure, upstream, serve, sdk, hop, reach, identity, name, trusted, words
):
    """A certificate that is not right ends the request at once, with the reason, after one connection."""
    mine = identity(name)
    url = await serve(upstream.serve, tls=mine.context)
    counter = await hop(port_of(url))
    there = counter.url.replace("http://", "https://") + "/v1"
    reach(there, ca_file=mine.ca_file if trusted else None)
    status, code, message = await failure()

    assert (status, code) == (502, "upstream_connect_error")
    assert words in message
    assert counter.accepted == 1
    assert upstream.raw == []
    assert b"sk-planted" not in counter.carried
    reach(there, verify_tls=False)
    await check_both_ways(sdk, upstream)


async def test_unix_socket(upstream, serve, sdk, reach, tmp_path):
    """The same requests, over a socket in the file system."""
    path = tmp_path / "up.sock"
    url = await serve(upstream.serve, unix=path)
    reach(url + "/v1", unix_socket=str(path))
    await check_both_ways(sdk, upstream)

    assert upstream.paths == [CHAT, CHAT]
    assert upstream.headers[0]["host"] == "localhost"


async def test_no_socket_there(failure, reach, tmp_path):
    """A server that is not running reads like one."""
    reach("http://localhost/v1", unix_socket=str(tmp_path / "none.sock"))
    status, code, message = await failure()

    assert (status, code) == (502, "upstream_connect_error")
    assert "No such file" in message


@pytest.mark.parametrize("user", ["", "me:p%40ss@"], ids=["open", "with password"])
async def test_connect_proxy(upstream, serve, sdk, hop, reach, identity, user):
    """https goes through CONNECT: the proxy learns the target, its own credential, and nothing else."""
    mine = identity("127.0.0.1")
    url = await serve(upstream.serve, tls=mine.context)
    tunnel = await hop()
    reach(url + "/v1", ca_file=mine.ca_file, proxy=tunnel.url.replace("://", f"://{user}"))
    await check_both_ways(sdk, upstream)

    target = url.removeprefix("https://").encode()
    line = b"proxy-authorization: Basic bWU6cEBzcw==\r\n" if user else b""
    assert tunnel.heads == [b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (target, target, line)]
    assert tunnel.accepted == 1
    assert b"sk-planted" not in tunnel.carried
    assert all("proxy-authorization" not in sent for sent in upstream.headers)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", "status 407"),
        (b"", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
    ],
    ids=["refused", "silent", "garbage"],
)
async def test_a_proxy_that_does_not_let_us_through(
    failure, upstream, serve, hop, reach, identity, verdict, words
):
    """The caller learns that it was the proxy, and the upstream nothing."""
    mine = identity("127.0.0.1")
    url = await serve(upstream.serve, tls=mine.context)
    tunnel = await hop(verdict=verdict)
    reach(url + "/v1", ca_file=mine.ca_file, proxy=tunnel.url)
    status, code, message = await failure()

    assert (status, code) == (502, "upstream_connect_error")
    assert words in message
    assert tunnel.accepted == 1
    assert upstream.raw == []


async def test_http_through_a_proxy(raw_proxy, raw_upstream, shapes):
    """Plain http goes to the proxy in absolute form, with the proxy's own credential."""
    body = orjson.dumps(shapes.completion("m"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    raw_upstream.script = answer
    table = shapes.table("http://models.invalid:8080/v1", version=2)
    there = raw_upstream.url.removesuffix("/v1").replace("://", "://me:secret@")
    raw_proxy.publish(replace(table, upstreams=(replace(table.upstreams[0], proxy=there),)))
    for _ in range(2):
        assert (await raw_proxy.client.post(CHAT, json=HELLO)).status_code == 200

    for head in raw_upstream.heads:
        assert head.startswith(b"POST http://models.invalid:8080/v1/chat/completions HTTP/1.1\r\n")
        assert b"\r\nhost: models.invalid:8080\r\n" in head
        assert b"\r\nproxy-authorization: Basic bWU6c2VjcmV0\r\n" in head


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
async def test_streams_that_end_with_the_connection(raw_proxy, raw_upstream, version, whole):
    """Without framing only the stream's own end tells whole from cut."""
    close = b"connection: close\r\n" if version == b"1.1" else b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/%b 200 OK\r\ncontent-type: text/event-stream\r\n%b\r\n" % (version, close))
        writer.write(STREAM if whole else chunk("Hel"))
        writer.close()

    raw_upstream.script = answer
    for _ in range(2):
        reply = await raw_proxy.client.post(CHAT, json=HELLO | {"stream": True})
        assert (reply.content == STREAM) is whole
        assert (b'"upstream_protocol_error"' in reply.content) is not whole
    logged = await raw_proxy.event()
    assert logged["outcome"] == ("completed" if whole else "upstream_fault")


async def test_http_1_0_whole_reply(raw_proxy, raw_upstream, shapes):
    """A JSON reply that ends with the connection is a reply."""
    body = orjson.dumps(shapes.completion("m", "old school"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + body)
        writer.close()

    raw_upstream.script = answer
    for _ in range(2):
        reply = await raw_proxy.client.post(CHAT, json=HELLO)
        assert reply.json()["choices"][0]["message"]["content"] == "old school"


@pytest.mark.parametrize("recovers", [True, False])
async def test_keep_alive_race(raw_proxy, raw_upstream, shapes, recovers):
    """An idle connection that closes as we send costs one retry on a fresh one, and never a second."""
    body = orjson.dumps(shapes.completion("m"))
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = len(raw_upstream.heads)
        if seen == 1 or (seen == 3 and recovers):
            writer.write(whole)
        else:
            writer.close()

    raw_upstream.script = answer
    first = await raw_proxy.client.post(CHAT, json=HELLO)
    second = await raw_proxy.client.post(CHAT, json=HELLO | {"user": "second"})

    assert first.status_code == 200
    assert [b"second" in sent for sent in raw_upstream.bodies] == [False, True, True]
    logged = await raw_proxy.event(2)
    if recovers:
        assert second.status_code == 200
        assert logged["outcome"] == "completed"
    else:
        assert (second.status_code, second.json()["error"]["code"]) == (502, "upstream_reset")
        assert logged["outcome"] == "upstream_fault"


async def test_no_retry_on_a_fresh_connection(raw_proxy, raw_upstream, failure):
    """A server that takes the request and hangs up may have done the work: it is not asked again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    raw_upstream.script = answer
    status, code, _ = await failure(raw_proxy)

    assert (status, code) == (502, "upstream_reset")
    assert len(raw_upstream.heads) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(proxy, upstream, serve, status):
    """Neither the request nor its credential goes where an upstream points; pass-through tells the caller."""
    met = []

    async def trap(request: web.Request) -> web.StreamResponse:
        met.append(request.headers)
        return web.json_response({})

    location = await serve(trap) + "/v1/chat/completions"

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"location": location})

    upstream.handler = handler
    reply = await proxy.client.post(CHAT, json=HELLO)
    other = await proxy.client.get("/v1/files/f1", follow_redirects=False)

    assert reply.status_code == 502
    assert "location" not in reply.headers
    assert (other.status_code, other.headers["location"]) == (status, location)
    assert met == []
    assert len(upstream.raw) == 2


async def test_two_accounts_at_one_host_are_never_mixed(proxy, upstream, shapes):
    """Connections belong to an upstream, not to an address: each carries one credential only."""
    proxy.worker.learn_secrets({"literal:one": "key-one", "literal:two": "key-two"})
    table = shapes.table(upstream.url, version=2)
    one, two = (
        replace(table.upstreams[0], name=name, secret=f"literal:{name}", max_connections=3)
        for name in ("one", "two")
    )
    models = (shapes.model("a", upstream="one"), shapes.model("b", upstream="two"))
    proxy.publish(replace(table, upstreams=(one, two), models=models, passthrough=(("/v1/", "two"),)))
    seen: dict[Any, set[str]] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        key = request.headers["authorization"]
        seen.setdefault(request.transport.get_extra_info("peername"), set()).add(key)
        wanted = (
            "two" if request.method == "GET" else {"a-id": "one", "b-id": "two"}[upstream.bodies[-1]["model"]]
        )
        return web.json_response(shapes.completion("m", f"{wanted}:{key}"))

    async def check(number: int) -> None:
        if number % 3 == 2:
            reply = await proxy.client.get("/v1/files/f1")
        else:
            reply = await proxy.client.post(CHAT, json=HELLO | {"model": "ab"[number % 3]})
        wanted, _, key = reply.json()["choices"][0]["message"]["content"].partition(":")
        assert key == f"Bearer key-{wanted}"

    upstream.handler = handler
    for _ in range(3):
        await asyncio.gather(*(check(number) for number in range(12)))

    assert all(len(keys) == 1 for keys in seen.values())
    assert len(set.union(*seen.values())) == 2
    assert len(seen) <= 6
