"""Real clients against our server: curl, httpx, aiohttp."""

import asyncio
import json
import shutil

import aiohttp
import httpx
import pytest

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed (apt-get install curl)"
)


async def curl(*arguments, stdin=b""):
    process = await asyncio.create_subprocess_exec(
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        "--noproxy",
        "*",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin)
    return process.returncode, out, err


@needs_curl
async def test_curl_get_post_and_reuse(serve):
    served = await serve()
    code, out, err = await curl(
        "--verbose", f"{served.url}/echo?a=b", f"{served.url}/chunks/3", f"{served.url}/empty"
    )
    assert code == 0
    assert b'"query": "a=b"' in out
    assert out.endswith(b"chunk 0\nchunk 1\nchunk 2\nlast\n")
    assert err.count(b"Re-using") == 2
    code, out, _ = await curl("--data", "x=y", f"{served.url}/echo")
    assert json.loads(out)["body"] == "x=y"


@needs_curl
async def test_curl_expects_100_continue_for_large_bodies(serve):
    served = await serve()
    big = b"x" * 3_000_000
    code, out, err = await curl(
        "--verbose", "--expect100-timeout", "9", "--data-binary", "@-", f"{served.url}/size", stdin=big
    )
    assert (code, out) == (0, b"3000000")
    assert b"< HTTP/1.1 100 Continue" in err


@needs_curl
async def test_curl_chunked_upload_head_1_0_and_http2_offer(serve):
    served = await serve()
    code, out, _ = await curl(
        "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", f"{served.url}/stream", stdin=b"abc" * 9
    )
    assert (code, out) == (0, b"abc" * 9)
    code, out, _ = await curl("--head", f"{served.url}/sized/5")
    assert code == 0
    assert b"content-length: 5" in out
    code, out, _ = await curl("--http1.0", f"{served.url}/chunks/2")
    assert (code, out) == (0, b"chunk 0\nchunk 1\nlast\n")
    code, out, _ = await curl("--http2", "--data", "hello", f"{served.url}/echo")
    assert code == 0
    assert json.loads(out)["body"] == "hello"
    code, out, _ = await curl("--http2-prior-knowledge", f"{served.url}/echo")
    assert code != 0


@needs_curl
async def test_curl_notices_a_cut_reply(serve):
    served = await serve()
    for path in ("/cut", "/cut/100", "/short"):
        code, _, _ = await curl(f"{served.url}{path}")
        assert code == 18  # partial file
    code, _, _ = await curl("--http1.0", f"{served.url}/cut")
    assert code == 56  # reset


@needs_curl
async def test_curl_gets_refusals(serve):
    served = await serve(max_body_bytes=1000)
    code, out, _ = await curl("--data-binary", "@-", f"{served.url}/size", stdin=b"x" * 5_000_000)
    assert code == 0
    assert json.loads(out)["error"]["code"] == "request_too_large"
    _, out, _ = await curl(
        "--write-out",
        "%{http_code}",
        "-H",
        "Connection: Upgrade",
        "-H",
        "Upgrade: websocket",
        f"{served.url}/echo",
    )
    assert out.endswith(b"501")


async def test_httpx(serve):
    served = await serve()
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        for number in range(3):
            answer = await client.post("/echo", content=b"x" * number)
            assert answer.json()["body"] == "x" * number

        async def pieces():
            for _ in range(5):
                yield b"piece "
                await asyncio.sleep(0)

        assert (await client.post("/stream", content=pieces())).content == b"piece " * 5
        async with client.stream("GET", "/chunks/4") as answer:
            assert [line async for line in answer.aiter_lines()] == [
                "chunk 0",
                "chunk 1",
                "chunk 2",
                "chunk 3",
                "last",
            ]
        assert (await client.head("/sized/7")).headers["content-length"] == "7"
        assert (await client.get("/empty")).status_code == 204
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/cut/100")
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/cut")
        assert (await client.options("/echo")).status_code == 200
    assert len({request.peer for request in served.app.requests}) == 1


async def test_aiohttp_many_at_once(serve):
    served = await serve()
    async with aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(limit=20)) as session:

        async def one(number):
            if number % 3 == 0:
                async with session.post("/echo", data=b"n%d" % number) as answer:
                    return (await answer.json())["body"] == f"n{number}"
            if number % 3 == 1:
                async with session.get("/chunks/5") as answer:
                    return (await answer.read()).endswith(b"last\n")
            async with session.post("/size", data=b"x" * 100_000, expect100=True) as answer:
                return await answer.read() == b"100000"

        assert all(await asyncio.gather(*(one(number) for number in range(150))))
    assert served.server.inflight == 0


async def test_a_client_that_hangs_up_mid_stream_is_heard(serve, until):
    served = await serve()
    async with (
        httpx.AsyncClient(base_url=served.url, trust_env=False) as client,
        client.stream("GET", "/begin") as answer,
    ):
        async for piece in answer.aiter_raw():
            assert piece == b"begun"
            break
    await until(lambda: served.app.heard[0].events == ["gone"])
