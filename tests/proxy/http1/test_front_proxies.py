# ruff: noqa: E501 - one row of the table is one line
"""Behind nginx and HAProxy: whatever a client sends them, no other client's request is read differently for it.

Each row is sent through the front, which may refuse it or pass it on, and then victims ask through the same front,
whose connections to us are kept and shared. A front and a server that disagree about where a request ends would
give a victim the attacker's reply, or serve the attacker's hidden request. Either shows here.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

H = b"Host: h\r\n"
HIDDEN = b"GET /echo?smuggled HTTP/1.1\r\nHost: h\r\nX-Hidden: 1\r\n\r\n"
SIZE = b"%x" % len(HIDDEN)
_POST = b"POST /echo?attack HTTP/1.1\r\n" + H

ROWS = {
    "cl.te": _POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(HIDDEN)) + HIDDEN,
    "te.cl": _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + SIZE + b"\r\n" + HIDDEN + b"\r\n0\r\n\r\n",
    "te.te xchunked": _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te space": _POST + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te tab": _POST + b"Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te vertical tab": _POST + b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te folded": _POST + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te quoted": _POST + b'Transfer-Encoding: "chunked"\r\nContent-Length: 5\r\n\r\n0\r\n\r\n' + HIDDEN,
    "te identity": _POST + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te chunked, identity": _POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te behind lf": _POST + b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te behind cr": _POST + b"X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te on 1.0": b"POST /echo?attack HTTP/1.0\r\n" + H + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "te underscore": _POST + b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "cl twice": _POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "cl list": _POST + b"Content-Length: 0, %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "cl plus": _POST + b"Content-Length: +%d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "cl minus": _POST + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "cl space": _POST + b"Content-Length : %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "cl hex": _POST + b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
    "cl octal": _POST + b"Content-Length: 0000\r\n\r\n" + HIDDEN,
    "cl huge": _POST + b"Content-Length: 18446744073709551616\r\n\r\n" + HIDDEN,
    "cl nul": _POST + b"Content-Length: 0\x00\r\n\r\n" + HIDDEN,
    "cl behind lf": _POST + b"X: y\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "cl on get": b"GET /echo?attack HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "no length": _POST + b"\r\n" + HIDDEN,
    "chunk size lf": _POST + b"Transfer-Encoding: chunked\r\n\r\n0\n\r\n" + HIDDEN,
    "chunk extension": _POST + b"Transfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n" + HIDDEN,
    "chunk extension lf": _POST + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n" + HIDDEN,
    "chunk terminator": _POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxZZ0\r\n\r\n" + HIDDEN,
    "chunk too short": _POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nx\r\n0\r\n\r\n" + HIDDEN,
    "chunk wraps": _POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nx\r\n0\r\n\r\n" + HIDDEN,
    "chunk minus": _POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n" + HIDDEN,
    "trailers": _POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 99\r\nHost: evil\r\n\r\n" + HIDDEN,
    "trailer lf": _POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n" + HIDDEN,
    "expect": _POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "upgrade": _POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "websocket": b"GET /echo?attack HTTP/1.1\r\n" + H + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n" + HIDDEN,
    "connection names framing": _POST + b"Connection: close, content-length\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "connection names host": _POST + b"Connection: host, authorization\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "obs-fold": _POST + b"X: a\r\n Content-Length: 3\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "bare lf": b"POST /echo?attack HTTP/1.1\nHost: h\nContent-Length: 0\n\n" + HIDDEN,
    "two hosts": b"GET /echo?attack HTTP/1.1\r\nHost: h\r\nHost: evil\r\n\r\n" + HIDDEN,
    "no host": b"GET /echo?attack HTTP/1.1\r\n\r\n" + HIDDEN,
    "odd host": b"GET /echo?attack HTTP/1.1\r\nHost: h/x?\r\n\r\n" + HIDDEN,
    "absolute form": b"GET http://evil/echo?attack HTTP/1.1\r\n" + H + b"\r\n" + HIDDEN,
    "http/2.0": b"GET /echo?attack HTTP/2.0\r\n" + H + b"\r\n" + HIDDEN,
    "http/0.9": b"GET /echo?attack\r\n" + HIDDEN,
    "line injection in target": b"GET /echo?attack%0d%0aX-Hidden:%201 HTTP/1.1\r\n" + H + b"\r\n" + HIDDEN,
    "crlf in target": b"GET /echo?attack HTTP/1.1\r\nX-A: b HTTP/1.1\r\n" + H + b"\r\n" + HIDDEN,
    "space in target": b"GET /echo?a b HTTP/1.1\r\n" + H + b"\r\n" + HIDDEN,
    "200 headers": b"GET /echo?attack HTTP/1.1\r\n" + H + b"".join(b"X%d: y\r\n" % n for n in range(200)) + b"\r\n" + HIDDEN,
    "9 KB line": b"GET /echo?" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n" + HIDDEN,
    "9 KB header": b"GET /echo?attack HTTP/1.1\r\n" + H + b"X: " + b"a" * 9000 + b"\r\n\r\n" + HIDDEN,
}  # fmt: skip

NGINX = """
daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log; {user}
events {{ worker_connections 256; }}
http {{
  access_log off; underscores_in_headers on; ignore_invalid_headers off;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b;
  fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  upstream engine {{ server 127.0.0.1:{port}; keepalive 1; }}
  server {{
    listen unix:{dir}/front;
    location / {{ proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering {buffering}; proxy_buffering off; }}
  }}
}}
"""

# One thread: with more, HAProxy 2.6 may leave a request in the queue of a server that has become idle.
HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 2s
  timeout queue 10s
  timeout client 5s
  timeout server 5s
  option http-keep-alive
  http-reuse always
  {lenient}
frontend front
  bind unix@{dir}/front
  {accept}
  default_backend engine
backend engine
  {response}
  server engine 127.0.0.1:{port} maxconn 1
"""

FRONTS = ("nginx buffering", "nginx streaming", "haproxy", "haproxy lenient")
_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"


def binary(name: str) -> str:
    """The program, or a loud skip that names it."""
    found = shutil.which(name) or shutil.which(name, path=_PATHS)
    if found is None:
        package = "nginx-light" if name == "nginx" else name
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


@pytest.fixture(scope="module", params=FRONTS)
def kind(request: pytest.FixtureRequest) -> str:
    binary(request.param.split()[0])
    return request.param


@pytest.fixture
async def front(kind, serve, until, tmp_path):
    """``(socket path of the front, the server behind it)``."""
    served = await serve()
    tmp_path.chmod(0o755)
    name, _, flavour = kind.partition(" ")
    conf, command = tmp_path / "conf", []
    if name == "nginx":
        user = "user root;" if os.geteuid() == 0 else ""
        buffering = "on" if flavour == "buffering" else "off"
        conf.write_text(NGINX.format(dir=tmp_path, user=user, port=served.port, buffering=buffering))
        command = [binary("nginx"), "-p", str(tmp_path), "-c", str(conf), "-e", str(tmp_path / "error.log")]
    else:
        # Lenient, it passes on what it would refuse: more reaches us.
        accept = "option accept-invalid-http-request" if flavour else ""
        response = "option accept-invalid-http-response" if flavour else ""
        conf.write_text(
            HAPROXY.format(dir=tmp_path, port=served.port, accept=accept, response=response, lenient="")
        )
        command = [binary("haproxy"), "-db", "-f", str(conf)]
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    path = tmp_path / "front"
    await until(path.exists)
    yield path, served
    child.terminate()
    await child.wait()


async def ask(path: Path, data: bytes, seconds: float = 5.0) -> bytes:
    """Everything that comes back; a front that waits for more of a body is left."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    received = b""
    try:
        async with asyncio.timeout(seconds):
            while piece := await reader.read(65536):
                received += piece
    except TimeoutError:
        pass
    except ConnectionError:
        pass
    writer.close()
    return received


@pytest.mark.slow
async def test_no_victim_is_served_anything_but_its_own(front):
    path, served = front
    for name, row in ROWS.items():
        # What the front understands as a second request is the attacker's own business: it may be answered to it.
        own = await ask(path, row, 0.15)
        for number in range(3):
            victim = b"GET /echo?victim=%d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % number
            reply = await ask(path, victim)
            head, _, body = reply.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), (name, own[:200], reply[:300])
            start, end = body.index(b"{"), body.rindex(b"}") + 1
            facts = json.loads(body[start:end])
            assert facts["query"] == f"victim={number}", (name, facts)
            assert facts["body"] == "", (name, facts)
            assert "x-hidden" not in facts["headers"], (name, facts)
    # What reached us as one request is one of those that were sent, never a piece of a body taken for a head.
    for request in served.app.requests:
        assert request.method in ("GET", "POST"), request.target
        assert request.path == "/echo"
    victims = [request for request in served.app.requests if request.query.startswith("victim")]
    assert len(victims) == 3 * len(ROWS)
    assert all(len(request.headers.get(b"host", b"h")) for request in served.app.requests)
