"""The server as seen through a raw socket: persistence, order, framing, expectations, streaming."""

import asyncio
import json

import pytest

HOST = b"host: h\r\n"


async def test_requests_on_one_connection_are_answered_in_turn(serve):
    served = await serve()
    raw = await served.raw()
    for number in range(3):
        await raw.send(
            b"POST /echo?n=%d HTTP/1.1\r\n%bContent-Length: 2\r\nX-A: 1\r\nx-a: 2\r\n\r\nhi" % (number, HOST)
        )
        status, headers, body = await raw.reply()
        facts = json.loads(body)
        assert status == 200
        assert facts["query"] == f"n={number}"
        assert facts["body"] == "hi"
        assert facts["headers"]["x-a"] == "1, 2"
        assert facts["peer"] == "127.0.0.1"
        assert "date" in headers
        assert "connection" not in headers
    assert served.server.open_connections == 1
    assert served.server.inflight == 0


async def test_pipelined_requests_are_answered_in_order_whatever_finishes_first(serve):
    served = await serve()
    raw = await served.raw()
    wanted = []
    burst = b""
    for number in range(300):
        path = b"/later/%d" % number if number % 3 else b"/chunks/1"
        wanted.append(b"later %d" % number if number % 3 else b"chunk 0\nlast\n")
        burst += b"GET %b HTTP/1.1\r\n%b\r\n" % (path, HOST)
    await raw.send(burst)
    for body in wanted:
        assert (await raw.reply())[2] == body


async def test_pipelined_bodies_of_every_kind(serve):
    served = await serve()
    raw = await served.raw()
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nTrailer: t\r\n\r\n"
    await raw.send(
        b"POST /later/a HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
        b"POST /echo HTTP/1.1\r\n"
        + HOST
        + chunked
        + b"POST /stream HTTP/1.1\r\n"
        + HOST
        + chunked
        + b"POST /stream HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 0\r\n\r\n"
        b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n"
    )
    assert (await raw.reply())[2] == b"later a"
    facts = json.loads((await raw.reply())[2])
    assert facts["body"] == "hello!"
    assert "trailer" not in facts["headers"]
    status, headers, body = await raw.reply()
    assert (status, headers["x-streamed"], body) == (200, "yes", b"hello!")
    assert (await raw.reply())[2] == b""
    assert json.loads((await raw.reply())[2])["method"] == "GET"


async def test_a_deep_pipeline_behind_a_slow_request_is_held_back_not_parsed(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /hang HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: served.app.pending)
    one = b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n"
    raw.writer.write(one * 800_000)
    await asyncio.sleep(0.05)
    assert raw.writer.transport.get_write_buffer_size() > 0  # the server stopped reading
    served.app.pending[0].reply(200, b"", b"done")
    assert (await raw.reply())[2] == b"done"
    for _ in range(20):
        assert (await raw.reply())[0] == 200
    raw.reset()


async def test_large_bodies_arrive_whole(serve):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"POST /size HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
    assert (await raw.reply())[2] == b"3000000"
    chunk = b"4000\r\n" + b"y" * 0x4000 + b"\r\n"
    await raw.send(
        b"POST /size HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 100 + b"0\r\n\r\n"
    )
    assert (await raw.reply())[2] == b"%d" % (0x4000 * 100)


@pytest.mark.parametrize("path", ["/echo", "/stream"])
async def test_expect_100_continue(serve, path):
    served = await serve()
    raw = await served.raw()
    for _ in range(2):
        await raw.send(
            b"POST %b HTTP/1.1\r\n%bExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n" % (path.encode(), HOST)
        )
        interim = await raw.exactly(25)
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        await raw.send(b"ok")
        assert (await raw.reply())[0] == 200


async def test_no_100_when_the_body_is_here_already_or_refused(serve):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok")
    assert (await raw.reply())[0] == 200
    await raw.send(b"POST /deny HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    status, headers, body = await raw.reply()
    assert (status, headers["connection"]) == (403, "close")
    assert json.loads(body)["error"]["code"] == "denied"
    assert await raw.rest() == b""


async def test_100_continue_waits_for_the_reply_before_it(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(
        b"GET /hang HTTP/1.1\r\n" + HOST + b"\r\n"
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    await until(lambda: served.app.pending)
    served.app.pending[0].reply(200, b"", b"first")
    assert (await raw.reply())[2] == b"first"
    assert await raw.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await raw.send(b"ok")
    assert json.loads((await raw.reply())[2])["body"] == "ok"


@pytest.mark.parametrize("path", ["/echo", "/chunks/3", "/sized/10", "/empty"])
async def test_head_has_no_body_and_keeps_the_connection(serve, path):
    served = await serve()
    raw = await served.raw()
    for _ in range(2):
        await raw.send(b"HEAD %b HTTP/1.1\r\n%b\r\n" % (path.encode(), HOST))
        status, _, body = await raw.reply("HEAD")
        assert status in (200, 204)
        assert body == b""


async def test_http_1_0(serve):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    _, headers, _ = await raw.reply()
    assert headers["connection"] == "keep-alive"
    await raw.send(b"GET /chunks/2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    reply = await raw.rest()
    assert b"transfer-encoding" not in reply
    assert reply.endswith(b"\r\n\r\nchunk 0\nchunk 1\nlast\n")


async def test_connection_close_is_honoured_and_what_follows_is_ignored(serve):
    served = await serve()
    raw = await served.raw()
    await raw.send(
        b"GET /later/x HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\nGET /echo HTTP/1.1\r\n\r\n"
    )
    reply = await raw.rest()
    assert reply.count(b"HTTP/1.1") == 1
    assert b"connection: close\r\n" in reply
    assert len(served.app.requests) == 1


@pytest.mark.parametrize("size", [b"", b"/100"])
async def test_an_aborted_reply_is_visibly_incomplete(serve, size):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /cut%b HTTP/1.1\r\n%b\r\n" % (size, HOST))
    reply = await raw.rest()
    assert b"begun" in reply
    assert not reply.endswith(b"0\r\n\r\n")


async def test_an_aborted_close_delimited_reply_is_reset(serve):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /cut HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await raw.rest()


async def test_a_reply_shorter_than_declared_closes_the_connection(serve):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /short HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await raw.rest()).endswith(b"short")


@pytest.mark.parametrize(
    ("path", "status"), [("/boom", 500), ("/boom-mode", 500), ("/fault", 422), ("/deny", 403)]
)
async def test_errors_of_the_application_become_openai_errors(serve, path, status):
    served = await serve()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    raw = await served.raw()
    await raw.send(b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), HOST))
    got, headers, body = await raw.reply()
    assert got == status
    assert headers["content-type"] == "application/json"
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert served.server.inflight == 0
    if path in ("/deny", "/fault", "/boom"):
        await raw.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await raw.reply())[0] == 200


async def test_a_streamed_body_is_delivered_as_it_comes(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"POST /stream HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\n\r\nabc")
    await until(lambda: served.app.heard and served.app.heard[0].body == b"abc")
    await raw.send(b"def")
    status, headers, body = await raw.reply()
    assert (status, body) == (200, b"abcdef")
    assert "connection" not in headers


async def test_an_early_reply_to_a_streamed_body_reaches_a_client_that_still_sends(serve):
    served = await serve()
    raw = await served.raw()
    await raw.send(
        b"POST /stream/early HTTP/1.1\r\n" + HOST + b"Content-Length: 10000000\r\n\r\n" + b"x" * 100_000
    )
    status, headers, body = await raw.reply()
    assert (status, headers["connection"], body) == (413, "close", b"enough")


async def test_pausing_a_streamed_body_stops_the_client(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"POST /stream HTTP/1.1\r\n" + HOST + b"Content-Length: 20000000\r\n\r\nx")
    await until(lambda: served.app.heard)
    heard = served.app.heard[0]
    heard.responder.pause_body()
    raw.writer.write(b"x" * 19_999_999)
    await asyncio.sleep(0.05)
    before = len(heard.body)
    assert before < 10_000_000
    heard.responder.resume_body()
    assert len((await raw.reply())[2]) == 20_000_000


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"\r\n",
    ],
)
@pytest.mark.parametrize("split", [False, True])
async def test_an_offer_of_h2c_is_ignored_body_and_all(serve, body, split):
    served = await serve()
    raw = await served.raw()
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    )
    sent = b"POST /echo HTTP/1.1\r\n" + HOST + offer + body + b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n"
    if split:
        for index in range(len(sent)):
            await raw.send(sent[index : index + 1])
            await asyncio.sleep(0)
    else:
        await raw.send(sent)
    first = json.loads((await raw.reply())[2])
    assert first["body"] == ("hello" if b"hello" in body else "")
    assert json.loads((await raw.reply())[2])["method"] == "GET"


async def test_websocket_is_refused_clearly(serve):
    served = await serve()
    raw = await served.raw()
    await raw.send(
        b"GET /v1/realtime HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    status, headers, body = await raw.reply()
    assert (status, headers["connection"]) == (501, "close")
    assert "WebSocket" in json.loads(body)["error"]["message"]


async def test_unix_socket(serve, tmp_path):
    served = await serve()
    path = tmp_path / "s"
    await served.server.listen_unix(path)
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /echo HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert b'"peer": "unix"' in await reader.read()
    writer.close()


async def test_misuse_of_a_responder_is_an_error_and_lateness_is_not(serve, until):
    served = await serve()
    raw = await served.raw()
    await raw.send(b"GET /begin HTTP/1.1\r\n" + HOST + b"\r\n")
    await until(lambda: served.app.pending)
    responder = served.app.pending[0]
    with pytest.raises(RuntimeError):
        responder.reply(200, b"", b"")
    with pytest.raises(RuntimeError):
        responder.start(200, b"", None)
    responder.finish()
    for late in (responder.finish, responder.abort, lambda: responder.write(b"x"), responder.pause_body):
        late()
    assert (await raw.reply())[2] == b"begun"
    await raw.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await raw.reply())[0] == 200
