"""Our parsers against h11's and uvicorn's, and against themselves under any way of cutting the bytes.

The deliberate differences are listed in ``fuzzing.py``, which also has the parsers as functions of bytes.
"""

import asyncio
import importlib.util
import re
from pathlib import Path

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState as UvicornState

_spec = importlib.util.spec_from_file_location("http1_fuzzing", Path(__file__).with_name("fuzzing.py"))
fuzzing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzzing)
ours, reply, cut, STREAMS, REPLIES = (
    fuzzing.ours, fuzzing.reply, fuzzing.cut, fuzzing.STREAMS, fuzzing.REPLIES
)  # fmt: skip

FAST = settings(deadline=None, max_examples=600, derandomize=True, suppress_health_check=list(HealthCheck))
FEWER = settings(FAST, max_examples=250)

token = st.sampled_from([b"x", b"X-Long", b"accept", b"a!#$%&'*+-.^_`|~9"])
value = st.one_of(
    st.sampled_from([b"", b"a", b"a b", b"\xff", b"\t x \t", b"close", b"keep-alive"]), st.binary(max_size=4)
)
header = st.one_of(
    st.tuples(token, value),
    st.sampled_from(
        [
            (b"Host", b"h"),
            (b"host", b"h:80"),
            (b"Content-Length", b"3"),
            (b"content-length", b"0"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Transfer-Encoding", b"Chunked"),
            (b"transfer-encoding", b"gzip, chunked"),
            (b"Expect", b"100-continue"),
            (b"Connection", b"close"),
            (b"Connection", b"keep-alive"),
        ]
    ),
)
method = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"FOO", b"get"])
target = st.sampled_from(
    [b"/", b"/a?b=c", b"/%2e%2e/", b"*", b"http://h/", b"/stream", b"a", b"/#f", b"/\xff"]
)
version = st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1"])
body = st.sampled_from(
    [
        b"",
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"3;x\r\nabc\r\n0\r\nT: v\r\n\r\n",
        b"0\r\n\r\n",
        b"A\r\n0123456789\r\n0\r\n\r\n",
    ]
)


@st.composite
def requests(draw):
    lines = [draw(method) + b" " + draw(target) + b" " + draw(version)]
    headers = draw(st.lists(header, max_size=4))
    if draw(st.integers(0, 3)):
        headers.append((b"Host", b"h"))
    lines += [name + draw(st.sampled_from([b": ", b":", b":\t"])) + content for name, content in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + draw(body)


@st.composite
def mutated(draw):
    data = draw(requests())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        junk = draw(
            st.sampled_from(
                [b"\n", b"\r", b"\r\n", b" ", b"\t", b":", b"\x00", b",", b"0", b";", b"a", b"\x0b"]
            )
        )
        cut = draw(st.integers(0, 2))
        data = data[:at] + junk + data[at + cut :]
    return data


@FAST
@given(data=mutated())
def test_same_verdict_and_same_meaning_as_h11(data):
    fuzzing.check_request(data)


@FAST
@given(
    data=st.one_of(st.sampled_from(STREAMS), mutated()), places=st.lists(st.integers(0, 10_000), max_size=6)
)
def test_any_cutting_of_the_bytes_gives_the_same_requests(data, places):
    assert ours(cut(data, places)) == ours([data])


@pytest.mark.parametrize("data", STREAMS)
def test_byte_by_byte(data):
    assert ours([bytes([byte]) for byte in data]) == ours([data])


@pytest.fixture(scope="module")
def asgi_loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Written(asyncio.Transport):
    """What uvicorn's protocols need of a transport."""

    def __init__(self):
        super().__init__()
        self.out = b""
        self.closed = False

    def write(self, data):
        self.out += data

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def get_extra_info(self, name, default=None):
        return default

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def set_protocol(self, protocol):
        pass


def uvicorns(loop, protocol_class, data):
    """First request as uvicorn's application gets it, or None: ``(method, target, headers, body)``."""
    seen = []

    async def application(scope, receive, send):
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            if not message.get("more_body"):
                break
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        seen.append((scope["method"].encode(), target, scope["headers"], body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run():
        config = uvicorn.Config(application, log_config=None, access_log=False)
        config.load()
        protocol = protocol_class(config=config, server_state=UvicornState(), app_state={}, _loop=loop)
        transport = Written()
        protocol.connection_made(transport)
        protocol.data_received(data)
        for _ in range(6):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        for _ in range(2):
            await asyncio.sleep(0)

    loop.run_until_complete(run())
    return seen[0] if seen else None


@pytest.mark.parametrize("protocol_class", [H11Protocol, HttpToolsProtocol])
@FEWER
@given(data=mutated())
def test_what_we_accept_uvicorn_hands_to_its_application_unchanged(asgi_loop, protocol_class, data):
    """And what it refuses we refuse, apart from ``LOOSER``; the reverse is ``STRICTER``, which h11 is held to above."""
    seen, _, _ = ours([data])
    theirs = uvicorns(asgi_loop, protocol_class, data)
    if not seen:
        return
    if theirs is None:
        assert any(re.match(looser, data) for looser in fuzzing.LOOSER), f"uvicorn refuses: {data!r}"
        return
    name, where, headers, body, _ = seen[0]
    method, target, their_headers, their_body = theirs
    assert (method, target.strip(b" ")) == (name, where)
    assert their_body == body
    joined = {}
    for key, content in their_headers:
        joined[key] = joined[key] + b", " + content if key in joined else content
    assert {key: content.split() for key, content in joined.items()} == {
        key: content.split() for key, content in headers.items()
    }


reply_header = st.sampled_from(
    [
        b"Content-Length: 3", b"content-length: 0", b"Content-Length: 3, 3", b"Content-Length: +3",
        b"Transfer-Encoding: chunked", b"transfer-encoding: CHUNKED", b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity", b"Connection: close", b"Connection: keep-alive", b"X: a\tb", b"X:",
        b"X:\xff", b"X : y", b"X: a\x00b", b"Content-Type: text/event-stream", b"Trailer: T", b": x", b"X",
    ]
)  # fmt: skip
reply_line = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 6
    + [
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200",
    ]
    + [
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 101 S",
        b"HTTP/1.1 503 \xff",
        b"ICY 200 OK",
    ]
)
reply_body = st.sampled_from(
    [
        b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n", b"0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nab", b"fffffffffffffffff\r\n", b"3\nabc\r\n0\r\n\r\n",
    ]
)  # fmt: skip


@st.composite
def replies(draw):
    early = draw(
        st.sampled_from([b""] * 5 + [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\nLink: x\r\n\r\n"])
    )
    lines = [draw(reply_line), *draw(st.lists(reply_header, max_size=4))]
    data = early + b"\r\n".join(lines) + b"\r\n\r\n" + draw(reply_body)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        junk = draw(st.sampled_from([b"\n", b"\r", b"\r\n", b" ", b":", b"\x00", b"0", b";", b"a", b""]))
        data = data[:at] + junk + data[at + draw(st.integers(0, 2)) :]
    return data


@FAST
@given(data=st.one_of(replies(), st.sampled_from(REPLIES)), method=st.sampled_from([b"GET", b"HEAD"]))
def test_replies_have_the_same_verdict_and_meaning_as_with_h11(data, method):
    fuzzing.check_reply(data, method)


@FAST
@given(
    data=st.one_of(st.sampled_from(REPLIES), replies()),
    places=st.lists(st.integers(0, 10_000), max_size=6),
    method=st.sampled_from([b"GET", b"HEAD"]),
)
def test_any_cutting_of_the_bytes_gives_the_same_reply(data, places, method):
    whole = reply([data], method)
    parts = reply(cut(data, places), method)
    assert whole[2] is not None
    if whole[3] != parts[3] or whole != parts:
        # bytes after a complete reply: seen together with it or after it, the connection is lost either way
        assert whole[:3] == parts[:3]
        assert not (whole[3] and parts[3])


@FEWER
@given(data=st.one_of(mutated(), st.binary(max_size=60)))
def test_the_fuzz_entry_for_requests(data):
    fuzzing.fuzz_requests(data)


@FEWER
@given(data=st.one_of(replies(), st.binary(max_size=60)))
def test_the_fuzz_entry_for_replies(data):
    fuzzing.fuzz_replies(data)
