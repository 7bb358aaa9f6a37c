"""Our server's parsing against h11's, and against itself under any way of cutting the bytes.

Rule: what we accept, h11 accepts with the same meaning. We refuse more than h11; each reason is listed in
``STRICTER`` and recognised by the bytes, so a new difference fails here.

``LOOSER`` lists what we accept and h11 does not. They are harmless, because there is one reading only and we
never pass a request line or framing on as received.
"""

import asyncio
import re
from itertools import pairwise

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizer.routing import Limits, Upstream
from proxy.errors import ProxyError
from proxy.http1.call import Call
from proxy.http1.client import Origin
from proxy.http1.client_connection import ClientConnection
from proxy.http1.messages import BodyMode
from proxy.http1.request_reader import RequestReader
from proxy.http1.server_state import ServerState
from proxy.http1.sweep import Sweeper

FAST = settings(deadline=None, max_examples=600, derandomize=True, suppress_health_check=list(HealthCheck))


class Accepting:
    """Takes every request; remembers what it was."""

    def __init__(self):
        self.requests = []

    def body_mode(self, request):
        return BodyMode.STREAM if request.path == "/stream" else BodyMode.BUFFER

    def request_ready(self, responder):
        self.requests.append([responder.request, responder, bytearray(), not responder.streams])

    def stream_body(self, responder, data):
        self.requests[-1][2] += data

    def stream_end(self, responder):
        self.requests[-1][3] = True

    def seen(self):
        return [
            (
                r.method.encode(),
                r.target,
                dict(r.headers),
                bytes(body) if responder.streams else r.body,
                r.http_minor,
            )
            for r, responder, body, complete in self.requests
            if complete
        ]


@pytest.fixture(scope="module")
def idle_loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def ours(loop, pieces, limits=None):
    """``(requests, status of the refusal or None, whether something is unfinished)``."""
    accepting = Accepting()
    settled = limits or Limits(max_body_bytes=10_000)
    state = ServerState(accepting, lambda: settled, loop, lambda: 0.0)
    reader = RequestReader(accepting, state, "peer")
    error: ProxyError | None = None
    for piece in pieces:
        if piece:
            error = reader.feed(piece)
        if error is not None:
            break
    open_ = error is None and (
        reader.request is not None or bool(not reader.last and (reader.fed or reader.url))
    )
    reader.close()
    return accepting.seen(), error.status if error else None, open_


def theirs(data):
    """First request as h11 sees it: ``(request, complete)``; raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=70_000)
    connection.receive_data(data)
    request, body = None, b""
    while True:
        event = connection.next_event()
        if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
            return request, body, False
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return request, body, True


LOOSER = (
    rb"[\r\n]+[A-Z]+ ",  # any run of CR and LF before a request (h11: whole blank lines)
    rb"[\r\n]*[A-Z]+ {2,}",  # several spaces between method and target
    rb"[\r\n]*[A-Z]+ +[!-~]+ {2,}HTTP",  # several spaces between target and version
)

STRICTER = {
    "bare LF": lambda data: re.search(rb"(?<!\r)\n", data),
    "line folding": lambda data: re.search(rb"\r\n[ \t]", data),
    "method not in our list": lambda data: (
        not re.match(rb"[\r\n]*(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE) ", data)
    ),
    "target not origin-form, or with fragment or odd bytes": lambda data: (
        not re.match(rb"[\r\n]*[A-Z]+ +(/[!-\"$-~]*|\*) ", data)
        or re.match(rb"[\r\n]*(?!OPTIONS)[A-Z]+ +\* ", data)
    ),
    "version other than 1.0 and 1.1": lambda data: not re.search(rb" HTTP/1\.[01]\r\n", data),
    "Host is no host": lambda data: (
        re.search(rb"(?i)\r\nhost:[ \t]*[^\r]*[^A-Za-z0-9.:\[\]\r _~-]", data)
        or re.search(rb"(?i)\r\nhost:[ \t]*[^\r]*[: ][^\r]*[^0-9\r \t]", data)
    ),
    "Content-Length repeated, listed or over 64 bits": lambda data: (
        len(re.findall(rb"(?i)content-length", data)) > 1
        or re.search(rb"(?i)content-length:[^\r]*(,|[0-9]{16})", data)
    ),
    "Content-Length beside Transfer-Encoding": lambda data: (
        re.search(rb"(?i)content-length", data) and re.search(rb"(?i)transfer-encoding", data)
    ),
    "Transfer-Encoding on 1.0": lambda data: (
        b"HTTP/1.0" in data and re.search(rb"(?i)transfer-encoding", data)
    ),
    "repeated singleton": lambda data: any(
        len(re.findall(rb"(?i)\r\n" + name + rb":", data)) > 1
        for name in (b"host", b"expect", b"authorization", b"content-type", b"transfer-encoding")
    ),
    "unknown expectation": lambda data: re.search(rb"(?i)\r\nexpect:(?![ \t]*100-continue[ \t]*\r)", data),
    "websocket": lambda data: re.search(rb"(?i)upgrade", data),
    "control character in a value": lambda data: re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", data),
    "body over the limit": lambda data: (
        re.search(rb"(?i)content-length:[ \t]*0*[0-9]{5}", data)
        or re.search(rb"\r\n0*[0-9a-fA-F]{4,}(;[^\r]*)?\r\n", data)
    ),
    "blank inside a chunk size line": lambda data: re.search(rb"\r\n[0-9a-fA-F]+[ \t;][^\r]*\r\n", data),
    "something after connection: close": lambda data: re.search(rb"(?i)connection:[^\r]*close", data),
    "something odd after the first request": lambda data: len(re.findall(rb"HTTP/1", data)) > 1,
}

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
def test_same_verdict_and_same_meaning_as_h11(idle_loop, data):
    seen, status, _ = ours(idle_loop, [data])
    try:
        request, their_body, complete = theirs(data)
    except h11.RemoteProtocolError:
        request, their_body, complete = None, b"", False
        if seen:
            assert any(re.match(looser, data) for looser in LOOSER), f"accepted what h11 refuses: {data!r}"
        return
    if seen:
        name, where, headers, our_body, minor = seen[0]
        assert complete
        assert (request.method, request.target.strip(b" ")) == (name, where)
        assert request.http_version == b"1.%d" % minor
        joined = {}
        for key, content in request.headers:
            joined[key] = joined[key] + b", " + content if key in joined else content
        assert joined.keys() == headers.keys()
        for key, content in joined.items():
            assert headers[key].split() == content.split() or key in (b"content-length", b"transfer-encoding")
        assert our_body == their_body
    elif complete:
        assert status is not None or re.search(rb"(?i)upgrade", data), (
            f"neither accepted nor refused: {data!r}"
        )
        reasons = [why for why, applies in STRICTER.items() if applies(data)]
        assert reasons, f"refused ({status}) what h11 accepts: {data!r}"


STREAMS = [
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" * 3,
    (
        b"POST /stream HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n2\r\n"
        b"de\r\n0\r\nT: v\r\n\r\n"
        b"GET /b HTTP/1.1\r\nHost: h\r\nX:\r\nX: 2\r\n\r\n"
    ),
    (
        b"\r\nPOST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
        b"GET /c HTTP/1.1\r\nHost: h\r\n\r\n"
    ),
    (
        b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ),
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost : h\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
    b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
]


def cut(data, places):
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@FAST
@given(
    data=st.one_of(st.sampled_from(STREAMS), mutated()), places=st.lists(st.integers(0, 10_000), max_size=6)
)
def test_any_cutting_of_the_bytes_gives_the_same_requests(idle_loop, data, places):
    assert ours(idle_loop, cut(data, places)) == ours(idle_loop, [data])


@pytest.mark.parametrize("data", STREAMS)
def test_byte_by_byte(idle_loop, data):
    assert ours(idle_loop, [bytes([byte]) for byte in data]) == ours(idle_loop, [data])


class MemoryTransport(asyncio.Transport):
    """A transport to nowhere."""

    def __init__(self):
        super().__init__()
        self.closed = False

    def write(self, data):
        pass

    def is_closing(self):
        return self.closed

    def abort(self):
        self.closed = True

    def get_write_buffer_size(self):
        return 0


class OneHome:
    """A pool's side of one connection."""

    def __init__(self, loop):
        self.loop = loop
        self.origin = Origin.from_upstream(Upstream(name="u", provider="openai", base_url="http://u"))
        self.released = False
        self.sweeper = Sweeper(loop, lambda: 0.0, lambda now: False)

    def release(self, connection):
        self.released = True

    def forget(self, connection):
        pass

    def again(self, call):
        raise AssertionError


class Told:
    """A sink as a list of what it was told."""

    def __init__(self):
        self.head = None
        self.body = b""
        self.end = None

    def reply_head(self, status, headers):
        assert self.head is None
        self.head = (status, headers)

    def reply_body(self, data):
        assert self.head is not None
        assert data
        self.body += data

    def reply_flush(self):
        assert self.end is None

    def reply_end(self):
        assert self.end is None
        self.end = "end"

    def reply_failed(self, fault):
        assert self.end is None
        self.end = type(fault).__name__


def reply(loop, pieces, method=b"GET"):
    home = OneHome(loop)
    connection = ClientConnection(home)
    connection.connection_made(MemoryTransport())
    told = Told()
    connection.start(
        Call(home, method + b" / HTTP/1.1\r\nhost: u\r\n\r\n", b"", told, retry=False, streamed=False)
    )
    for piece in pieces:
        if piece and not connection.transport.closed:
            connection.data_received(piece)
    kept = home.released and not connection.transport.closed
    connection.connection_lost(None)
    body = told.body if told.end == "end" else None  # a fault may come before or after the last whole piece
    return told.head if told.end == "end" else None, body, told.end, kept


REPLIES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil close",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokX",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"",
]


@FAST
@given(
    data=st.sampled_from(REPLIES),
    places=st.lists(st.integers(0, 10_000), max_size=6),
    method=st.sampled_from([b"GET", b"HEAD"]),
    junk=st.one_of(st.just(None), st.tuples(st.integers(0, 200), st.binary(max_size=3))),
)
def test_any_cutting_of_the_bytes_gives_the_same_reply(idle_loop, data, places, method, junk):
    if junk is not None:
        at = junk[0] % (len(data) + 1)
        data = data[:at] + junk[1] + data[at:]
    whole = reply(idle_loop, [data], method)
    parts = reply(idle_loop, cut(data, places), method)
    assert whole[2] is not None
    if whole[3] != parts[3] or whole != parts:
        # bytes after a complete reply: seen together with it or after it, the connection is lost either way
        assert whole[:3] == parts[:3]
        assert not (whole[3] and parts[3])
