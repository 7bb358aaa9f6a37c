"""Our pool against real servers: nginx, uvicorn, TLS, a unix socket, proxies."""

import asyncio
import os
import shutil
import ssl
import sys

import pytest
import trustme

from proxy.errors import ConnectFault

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

NGINX = """
daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log; {user}
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 5; client_max_body_size 64m;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b;
  fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  server {{
    listen unix:{dir}/sock;
    location / {{ return 200 "nginx $request_method $content_length"; }}
    location /file {{ root {dir}; }}
    location /close {{ keepalive_timeout 0; return 200 "bye"; }}
    location /redirect {{ return 307 http://elsewhere/; }}
    location /missing {{ return 404; }}
  }}
}}
"""

ASGI = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            break
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for n in range(50):
            await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % n, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
async def process():
    running = []

    async def start(*command, cwd=None):
        child = await asyncio.create_subprocess_exec(*command, cwd=cwd, stderr=asyncio.subprocess.DEVNULL)
        running.append(child)
        return child

    yield start
    for child in running:
        if child.returncode is None:
            child.terminate()
        await child.wait()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (apt-get install nginx)")
async def test_nginx(process, pool_for, make_sink, request_bytes, until, tmp_path):
    (tmp_path / "file").write_bytes(b"f" * 2_000_000)
    tmp_path.chmod(0o755)
    user = "user root;" if os.geteuid() == 0 else ""
    (tmp_path / "conf").write_text(NGINX.format(dir=tmp_path, user=user))
    await process(
        "nginx", "-p", str(tmp_path), "-c", str(tmp_path / "conf"), "-e", str(tmp_path / "error.log")
    )
    await until((tmp_path / "sock").exists)
    pool = pool_for("http://nginx", unix_socket=str(tmp_path / "sock"), max_connections=3)

    async def get(path, body=b"", method="POST"):
        sink = make_sink()
        pool.send(*request_bytes(path, body, method), sink)
        await sink.wait()
        assert not sink.faults, sink.faults
        return sink

    for size in (0, 10, 300_000):
        assert (await get("/", b"x" * size)).body == b"nginx POST %d" % size
    assert (await get("/file", method="GET")).body == b"f" * 2_000_000
    head = await get("/file", method="HEAD")
    assert head.body == b""
    assert (b"content-length", b"2000000") in head.heads[0][1]
    assert (await get("/close")).body == b"bye"
    assert (await get("/redirect")).status == 307
    assert (await get("/missing")).status == 404
    # keepalive_requests closes a connection every five requests: many at once hit every kind of ending
    results = await asyncio.gather(*(get("/", b"y") for _ in range(19)))
    assert {sink.body for sink in results} == {b"nginx POST 1"}
    assert pool.busy == 0


async def test_uvicorn(process, pool_for, make_sink, request_bytes, until, tmp_path):
    (tmp_path / "asgi.py").write_text(ASGI)
    path = tmp_path / "sock"
    await process(
        sys.executable, "-m", "uvicorn", "asgi:app", "--uds", str(path), "--log-level", "error", cwd=tmp_path
    )
    await until(path.exists)
    pool = pool_for("http://uvicorn", unix_socket=str(path))
    for _ in range(2):
        sink = make_sink()
        pool.send(*request_bytes("/", b"body"), sink)
        await sink.wait()
        assert (sink.status, sink.body) == (201, b"body")
        stream = make_sink()
        pool.send(*request_bytes("/stream"), stream)
        await stream.wait()
        assert stream.body == b"".join(b"data: %d\n\n" % n for n in range(50))
    upload = make_sink()
    call = pool.open(b"POST / HTTP/1.1\r\nhost: u\r\ntransfer-encoding: chunked\r\n\r\n", upload)
    for _ in range(10):
        call.write(b"x" * 50_000)
        await asyncio.sleep(0)
    call.end()
    await upload.wait()
    assert len(upload.body) == 500_000
    assert pool.made == 1


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
async def tls_upstream(authority, read_request):
    """``port = await tls_upstream("name in the certificate")``."""
    servers = []

    async def answer(reader, writer):
        try:
            while True:
                await read_request(reader)
                writer.write(OK)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    async def start(name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        servers.append(server)
        return server.sockets[0].getsockname()[1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


async def test_tls_is_verified_and_reused(tls_upstream, ca_file, pool_for, make_sink, request_bytes):
    port = await tls_upstream("localhost")
    pool = pool_for(f"https://localhost:{port}", ca_file=ca_file)
    for _ in range(3):
        sink = make_sink()
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert sink.body == b"ok"
    assert pool.made == 1


@pytest.mark.parametrize("case", ["unknown authority", "wrong name", "not TLS at all"])
async def test_tls_that_does_not_verify_is_refused(
    case, tls_upstream, ca_file, scripted, pool_for, make_sink, request_bytes
):
    async def plain(reader, writer):
        await reader.read(100)
        writer.write(OK)

    if case == "not TLS at all":
        port = (await scripted(plain)).rsplit(":", 1)[1]
    else:
        port = await tls_upstream("other.example" if case == "wrong name" else "localhost")
    fields = {} if case == "unknown authority" else {"ca_file": ca_file}
    pool = pool_for(f"https://localhost:{port}", **fields)
    sink = make_sink()
    pool.send(*request_bytes(), sink)
    await sink.wait()
    assert [type(fault) for fault in sink.faults] == [ConnectFault]
    assert pool.busy == 0


async def test_tls_without_verification_when_configured(tls_upstream, pool_for, make_sink, request_bytes):
    port = await tls_upstream("other.example")
    pool = pool_for(f"https://localhost:{port}", verify_tls=False)
    sink = make_sink()
    pool.send(*request_bytes(), sink)
    await sink.wait()
    assert sink.body == b"ok"


@pytest.fixture
async def connect_proxy(scripted):
    """An HTTP proxy that tunnels; ``seen`` holds the heads."""
    seen = []

    async def script(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        if not head.startswith(b"CONNECT"):
            writer.write(OK)
            await reader.read()
            return
        if b"Basic" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        port = int(head.split(b" ")[1].rsplit(b":", 1)[1])
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def copy(source, sink):
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        back = asyncio.create_task(copy(up_reader, writer))
        try:
            await copy(reader, up_writer)
        finally:
            back.cancel()
            up_writer.close()

    return await scripted(script), seen


async def test_https_through_a_connect_proxy(
    connect_proxy, tls_upstream, ca_file, pool_for, make_sink, request_bytes
):
    proxy, seen = connect_proxy
    port = await tls_upstream("localhost")
    pool = pool_for(
        f"https://localhost:{port}", ca_file=ca_file, proxy=proxy.replace("http://", "http://user:word@")
    )
    for _ in range(2):
        sink = make_sink()
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert not sink.faults
        assert sink.body == b"ok"
    assert len(seen) == 1
    assert seen[0].startswith(b"CONNECT localhost:%d HTTP/1.1\r\n" % port)
    pool.abort()


async def test_a_proxy_that_refuses_and_a_tunnel_to_the_wrong_name(
    connect_proxy, tls_upstream, ca_file, pool_for, make_sink, request_bytes
):
    proxy, _ = connect_proxy
    port = await tls_upstream("other.example")
    for url in (proxy, proxy.replace("http://", "http://user:word@")):
        pool = pool_for(f"https://localhost:{port}", ca_file=ca_file, proxy=url)
        sink = make_sink()
        pool.send(*request_bytes(), sink)
        await sink.wait()
        assert [type(fault) for fault in sink.faults] == [ConnectFault]
        assert pool.busy == 0


async def test_http_through_a_proxy_is_absolute_form(connect_proxy, pool_for, make_sink, request_bytes):
    proxy, seen = connect_proxy
    pool = pool_for("http://api.example/v1", proxy=proxy)
    sink = make_sink()
    pool.send(*request_bytes("/v1/x"), sink)
    await sink.wait()
    assert sink.body == b"ok"
    assert seen[0].startswith(b"POST http://api.example/v1/x HTTP/1.1\r\n")
