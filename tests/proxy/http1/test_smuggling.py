"""Ambiguous and broken requests: each row is refused, and nothing after it is taken for a request."""

import json

import pytest

H = b"Host: h\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

ROWS = {
    "cl and te": (
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "te and cl": (
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two equal cl": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    "two cl": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\naa", 400),
    "cl list": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1, 1\r\n\r\na", 400),
    "cl +1": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +1\r\n\r\na", 400),
    "cl -1": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\na", 400),
    "cl hex": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x1\r\n\r\na", 400),
    "cl 1_0": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1_0\r\n\r\na", 400),
    "cl empty": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\na", 400),
    "cl huge": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 99999999999999999999999\r\n\r\na", 400),
    "te xchunked": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "te chunked, identity": (
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    "te gzip, chunked": (
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    "te twice": (
        b"POST / HTTP/1.1\r\n"
        + H
        + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "te on 1.0": (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te vertical tab": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "space before colon": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length : 1\r\n\r\na", 400),
    "tab before colon": (b"GET / HTTP/1.1\r\n" + H + b"X\t: 1\r\n\r\n", 400),
    "obs-fold": (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n", 400),
    "first header folded": (b"GET / HTTP/1.1\r\n X: a\r\n" + H + b"\r\n", 400),
    "bare lf after line": (b"GET / HTTP/1.1\n" + H + b"\r\n", 400),
    "bare lf after header": (b"GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
    "bare lf at end": (b"GET / HTTP/1.1\r\n" + H + b"\n", 400),
    "bare cr in value": (b"GET / HTTP/1.1\r\n" + H + b"X: a\rb\r\n\r\n", 400),
    "nul in value": (b"GET / HTTP/1.1\r\n" + H + b"X: a\x00b\r\n\r\n", 400),
    "nul in name": (b"GET / HTTP/1.1\r\n" + H + b"X\x00: a\r\n\r\n", 400),
    "control in value": (b"GET / HTTP/1.1\r\n" + H + b"X: a\x01\r\n\r\n", 400),
    "empty name": (b"GET / HTTP/1.1\r\n" + H + b": a\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\n" + H + b"X\r\n\r\n", 400),
    "parenthesis in name": (b"GET / HTTP/1.1\r\n" + H + b"X(: a\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", 400),
    "two different hosts": (b"GET / HTTP/1.1\r\n" + H + b"Host: evil\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "host with path": (b"GET / HTTP/1.1\r\nHost: x/docs?a=\r\n\r\n", 400),
    "host with userinfo": (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "host with space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host list": (b"GET / HTTP/1.1\r\nHost: a:b:c\r\n\r\n", 400),
    "two authorizations": (b"GET / HTTP/1.1\r\n" + H + b"Authorization: a\r\nAuthorization: b\r\n\r\n", 400),
    "absolute form": (b"GET http://evil/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "relative target": (b"GET x/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "star": (b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400),
    "space in target": (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "utf-8 target": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "control in target": (b"GET /\x01 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "unknown method": (b"FOO / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "lower case method": (b"get / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "webdav method": (b"PROPFIND / HTTP/1.1\r\n" + H + b"\r\n", 501),
    "connect": (b"CONNECT h:1 HTTP/1.1\r\n" + H + b"\r\n", 501),
    "icecast": (b"SOURCE / ICE/1.0\r\n" + H + b"\r\n", 501),
    "rtsp": (b"PLAY rtsp://a/ RTSP/1.0\r\n" + H + b"\r\n", 501),
    "http/0.9": (b"GET /\r\n" + H + b"\r\n", 505),
    "http/2.0": (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "http/1.2": (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 400),
    "http/1.10": (b"GET / HTTP/1.10\r\n" + H + b"\r\n", 400),
    "space after version": (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "unknown expectation": (
        b"POST / HTTP/1.1\r\n" + H + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\na",
        417,
    ),
    "chunk size lf": (CHUNKED + b"1\na\r\n0\r\n\r\n", 400),
    "chunk size space": (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
    "chunk size 0x": (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400),
    "chunk size +": (CHUNKED + b"+1\r\na\r\n0\r\n\r\n", 400),
    "chunk size -": (CHUNKED + b"-1\r\na\r\n0\r\n\r\n", 400),
    "chunk size overflow": (CHUNKED + b"fffffffffffffffff\r\na\r\n0\r\n\r\n", 400),
    "chunk size empty": (CHUNKED + b"\r\na\r\n0\r\n\r\n", 400),
    "chunk too long": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400),
    "chunk without crlf": (CHUNKED + b"1\r\na0\r\n\r\n", 400),
    "chunk lf after data": (CHUNKED + b"1\r\na\n0\r\n\r\n", 400),
    "chunk extension lf": (CHUNKED + b"1;x\na\r\n0\r\n\r\n", 400),
}


@pytest.mark.parametrize("prefixed", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("name", ROWS)
async def test_refused_and_nothing_after_it_is_served(serve, name, prefixed):
    data, status = ROWS[name]
    served = await serve()
    raw = await served.raw()
    if prefixed:
        await raw.send(b"GET /later/1 HTTP/1.1\r\n" + H + b"\r\n" + data + NEXT)
        assert (await raw.reply())[2] == b"later 1"
    else:
        await raw.send(data + NEXT)
    got, headers, body = await raw.reply()
    assert got == status
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert error["code"]
    assert await raw.rest() == b""
    assert not any(request.path == "/smuggled" for request in served.app.requests)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\nGET /echo HTTP/1.1\r\n" + H + b"\r\n",
        b"GET /echo HTTP/1.1\r\nHost:h\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: \t h \t\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n" + H + b"X: \xff\xfe\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n" + H + b"X:\r\n\r\n",
        b"GET /echo HTTP/1.0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 01\r\n\r\na",
        b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n00001\r\na\r\n000\r\n\r\n",
    ],
)
async def test_unusual_but_legal(serve, data):
    served = await serve()
    raw = await served.raw()
    await raw.send(data)
    assert (await raw.reply())[0] == 200
