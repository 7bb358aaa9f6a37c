"""The engine's two parsers beside h11, as functions of bytes: for the differential tests, and for fuzzing.

``fuzz_requests`` and ``fuzz_replies`` take any bytes, are deterministic and in memory, and raise if an invariant of
the engine does not hold for them. Rule: what we accept, h11 accepts with the same meaning. We refuse more than h11;
each reason is listed in ``STRICTER`` and ``REPLY_STRICTER`` and recognised by the bytes, so a new difference fails.

``LOOSER`` and ``REPLY_LOOSER`` list what we accept and h11 does not. They are harmless, because there is one reading
only and we never pass a request line or framing on as received.
"""

import asyncio
import re
from itertools import pairwise

import h11

from optimizer.routing import Limits, Upstream
from proxy.errors import ProxyError
from proxy.http1.call import Call
from proxy.http1.client import Origin
from proxy.http1.client_connection import ClientConnection
from proxy.http1.messages import BodyMode
from proxy.http1.request_reader import RequestReader
from proxy.http1.server_state import ServerState
from proxy.http1.sweep import Sweeper


class StillLoop:
    """An event loop in which nothing ever happens by itself; a failure that is reported to it is one."""

    def call_later(self, seconds, callback):
        raise AssertionError("nothing is timed here")

    def call_exception_handler(self, context):
        raise AssertionError(context["message"]) from context["exception"]


class Accepting:
    """Takes every request; remembers what it was."""

    def __init__(self):
        self.requests = []

    def body_mode(self, request):
        return BodyMode.STREAM if request.path == "/stream" else BodyMode.BUFFER

    def essential(self, request):
        return False

    def refusal_headers(self):
        return b""

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


def ours(pieces, limits=None):
    """``(requests, status of the refusal or None, whether something is unfinished)``."""
    accepting = Accepting()
    settled = limits or Limits(max_body_bytes=10_000)
    state = ServerState(accepting, lambda: settled, StillLoop(), lambda: 0.0)
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
    "version other than 1.0 and 1.1": lambda data: not re.match(rb"[\r\n]*[^\r\n]* HTTP/1\.[01]\r\n", data),
    "Host is no host": lambda data: (
        re.search(rb"(?i)\r\nhost:[ \t]*[^\r]*[^A-Za-z0-9.:\[\]\r _~-]", data)
        or re.search(rb"(?i)\r\nhost:[ \t]*[^\r]*[: ][^\r]*[^0-9\r \t]", data)
        or re.search(rb"(?i)\r\nhost:[ \t]*[^\r \t]+[ \t]+[^\r \t]", data)
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

    def __init__(self):
        self.loop = StillLoop()
        self.origin = Origin.from_upstream(Upstream(name="u", provider="openai", base_url="http://u"))
        self.released = False
        self.sweeper = Sweeper(self.loop, lambda: 0.0, lambda now: False)

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


def reply(pieces, method=b"GET"):
    home = OneHome()
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

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
INJECTION = re.compile(rb"[\x00\r\n]")

SEED_REQUESTS = tuple(STREAMS)
SEED_REPLIES = tuple(REPLIES)


def their_reply(data, method=b"GET"):
    """As h11 sees it: ``(status, headers, body)``, or None if it is not complete. Raises RemoteProtocolError."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=70_000)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "u")]))
    connection.send(h11.EndOfMessage())
    if data:
        connection.receive_data(data)
    closed, head, body = False, None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if closed:
                return None
            closed = True
            connection.receive_data(b"")
        elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return None
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return head.status_code, list(head.headers), body


_STATUS_LINE = rb"HTTP/1\.[01] %b [\t -~\x80-\xff]*\r\n"
_EARLY = _STATUS_LINE % rb"1[0-9]{2}" + rb"([^\r\n]+\r\n)*\r\n"
REPLY_LOOSER = {
    "a status line without a reason or with control characters in it, or blank lines before one": lambda data: (
        not re.match(rb"(%b)*" % _EARLY + _STATUS_LINE % rb"[2-9][0-9]{2}", data)
    ),
}

REPLY_STRICTER = {
    "bare LF or CR": lambda data: re.search(rb"(?<!\r)\n|\r(?!\n)", data),
    "line folding": lambda data: re.search(rb"\r\n[ \t]", data),
    "Content-Length repeated or listed": lambda data: (
        len(re.findall(rb"(?i)content-length", data)) > 1
        or re.search(rb"(?i)content-length:[^\r]*(,|[0-9]{16})", data)
    ),
    "Content-Length beside Transfer-Encoding": lambda data: (
        re.search(rb"(?i)content-length", data) and re.search(rb"(?i)transfer-encoding", data)
    ),
    "Transfer-Encoding that is not chunked, or repeated, or on 1.0": lambda data: (
        re.search(rb"(?i)transfer-encoding", data)
        and (
            b"HTTP/1.0" in data
            or len(re.findall(rb"(?i)transfer-encoding", data)) > 1
            or not re.search(rb"(?i)transfer-encoding:[ \t]*chunked[ \t]*\r", data)
        )
    ),
    "control character in a value": lambda data: re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", data),
    "switching protocols, or a status under 100": lambda data: re.search(rb"HTTP/1\.[01] (101|0)", data),
    "an early reply of HTTP/1.0, which has none": lambda data: re.search(rb"HTTP/1\.0 1", data),
    "an early reply that closes": lambda data: re.match(
        rb"HTTP/1\.1 1(?s:.*)(?i:connection:[^\r]*close)", data
    ),
    "blank inside a chunk size line": lambda data: re.search(rb"\r\n[0-9a-fA-F]+[ \t;][^\r]*\r\n", data),
    "a blank before the status line, or a version other than 1.0 and 1.1": lambda data: (
        not re.match(rb"HTTP/1\.[01] ", data) or re.search(rb"\nHTTP/(?!1\.[01] )", data)
    ),
}


def check_request(data):
    """Our reading of a first request beside h11's."""
    seen, status, _ = ours([data])
    try:
        request, their_body, complete = theirs(data)
    except h11.RemoteProtocolError:
        if seen:
            assert any(re.match(looser, data) for looser in LOOSER), f"accepted what h11 refuses: {data!r}"
        return
    if seen:
        name, where, headers, our_body, minor = seen[0]
        assert complete, f"accepted what h11 finds incomplete: {data!r}"
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


def check_reply(data, method=b"GET"):
    """Our reading of a reply beside h11's."""
    head, body, end, _ = reply([data], method)
    assert end is not None, f"neither an end nor a fault: {data!r}"
    try:
        read = their_reply(data, method)
    except h11.RemoteProtocolError:
        read = None
        refused = True
    else:
        refused = False
    if end == "end":
        looser = [why for why, applies in REPLY_LOOSER.items() if applies(data)]
        if read is None:
            assert looser, f"accepted what h11 {'refuses' if refused else 'finds incomplete'}: {data!r}"
            return
        status, headers, their_body = read
        assert status == head[0]
        assert sorted((n, v.split()) for n, v in headers if n != b"transfer-encoding") == sorted(
            (n, v.split()) for n, v in head[1] if n != b"transfer-encoding"
        )
        assert their_body == body, data
    elif read is not None:
        assert any(applies(data) for applies in REPLY_STRICTER.values()), (
            f"{end}: refused what h11 accepts: {data!r}"
        )


def _places(data):
    """Where to cut, taken from the bytes themselves."""
    return [7 * byte + 31 * at for at, byte in enumerate(data[:6])]


def fuzz_requests(data):
    """Any bytes from a client: one verdict however they are cut, bounded, and the same as h11's where we accept."""
    whole = ours([data])
    # Whether the end of a read began another head (the third) only decides between two deadlines.
    assert ours(cut(data, _places(data)))[:2] == whole[:2], f"cutting changes the meaning: {data!r}"
    seen, status, _ = whole
    assert status is None or 400 <= status < 600
    for _, target, headers, body, minor in seen:
        assert target.startswith(b"/") or target == b"*"
        assert not re.search(rb"[\x00-\x20\x7f-\xff]", target)
        assert len(body) <= 10_000
        assert b"host" in headers or minor == 0
        for name, value in headers.items():
            assert TOKEN.match(name), name
            assert not INJECTION.search(value), value
    check_request(data)


def fuzz_replies(data):
    """Any bytes from an upstream: one end, the same however they are cut, and no header that could inject."""
    for method in (b"GET", b"HEAD"):
        whole, parts = reply([data], method), reply(cut(data, _places(data)), method)
        assert whole[2] is not None
        # Bytes after a complete reply: seen together with it or after it, the connection is lost either way.
        assert whole[:3] == parts[:3], f"cutting changes the meaning: {data!r}"
        assert whole[3] == parts[3] or not (whole[3] and parts[3])
        if whole[0] is not None:
            for name, value in whole[0][1]:
                assert TOKEN.match(name), name
                assert not INJECTION.search(value), value
        check_reply(data, method)
