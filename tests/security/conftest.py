"""What the classes of attacks are tried on: a worker in the test's loop, and the whole product as processes.

``trap`` is a server that nobody may ever come to.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import orjson
import pytest

# pytest finds fixtures by the names of this module.
from tests.integration.conftest import (  # noqa: F401
    proxy,
    pytest_asyncio_loop_factories,
    raw_proxy,
    raw_upstream,
    serve,
    shapes,
    upstream,
)

ADMIN_KEY = "Zq3AdminCanary7f41d0"


@dataclass
class Trap:
    """Where hostile requests point to; ``visits`` stays empty."""

    host: str = "127.0.0.1"
    port: int = 0
    visits: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.authority}/stolen"

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    found = Trap()

    class Caught(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            found.visits.append(b"")
            transport.abort()  # type: ignore[attr-defined]

    server = await asyncio.get_running_loop().create_server(Caught, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


class Echoing(BaseHTTPRequestHandler):
    """An upstream that quotes in its errors whatever credentials it was sent; ``model`` or path says what it does."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        document = orjson.loads(body) if body[:1] == b"{" else {}
        model = str(document.get("model", ""))
        told = f"Incorrect API key provided: {self.headers.get('authorization')}"
        if model.startswith("status-"):
            error = {"message": told, "type": "invalid_request_error", "code": "invalid_api_key"}
            self._answer(int(model.removeprefix("status-")), {"error": error})
        else:
            message = {"role": "assistant", "content": "hello"}
            self._answer(
                200,
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": model,
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
                },
            )

    def do_GET(self) -> None:
        told = f"Incorrect API key provided: {self.headers.get('authorization')}"
        self._answer(401, {"error": {"message": told}})

    def _answer(self, status: int, document: object) -> None:
        body = orjson.dumps(document)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is written to the test's output."""


@contextmanager
def echoing_upstream() -> Iterator[str]:
    """The base URL of a running ``Echoing``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echoing)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Product:
    """A running ``llm-optimizer serve``; ``admin_url`` is its separate admin listener."""

    url: str
    admin_url: str
    state: Path
    config: Path
    stderr: Path
    process: subprocess.Popen[bytes]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def raw(self, data: bytes, url: str | None = None, *, half_close: bool = True) -> bytes:
        """Send bytes, read until the other side has nothing more to say.

        A half-closed client counts as gone, so an answer that takes a while may be cut; ``data`` that asks for
        ``connection: close`` needs none.
        """
        host, port = (url or self.url).removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        return received


CONFIG = """
server: {{host: 127.0.0.1, workers: 1}}
admin: {{key: "${{NET_ADMIN_KEY}}", listen: "127.0.0.1:{admin_port}"}}
upstreams:
  up: {{base_url: "{url}", api_key: "{literal}"}}
models:
  m: {{upstream: up, model: m, price: {{input: 1, output: 2}}, endpoints: [chat, completions, embeddings, responses]}}
  leaky: {{upstream: up, model: status-401}}
  broken: {{upstream: up, model: status-500}}
routes:
  chat: {{arms: [m], match: ["gpt-*"]}}
passthrough: {{default: up}}
"""

StartProduct = Callable[..., object]


@contextmanager
def running_product(path: Path, config: str, environ: dict[str, str], admin_port: int) -> Iterator[Product]:
    """Start, wait until it is ready, stop; a product that does not stop cleanly fails the test."""
    file = path / "etc" / "config.yaml"
    file.parent.mkdir()
    file.write_text(config)
    stderr = path / "stderr.log"
    command = [
        sys.executable,
        "-m",
        "proxy.cli",
        "serve",
        "--config",
        str(file),
        "--state-dir",
        str(path / "state"),
    ]
    with stderr.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=log, env={**os.environ, **environ}
        )
    assert process.stdout is not None
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    line = process.stdout.readline().decode()
    watchdog.cancel()
    match = re.search(r"ready on (http://\S+)", line)
    try:
        assert match, line + stderr.read_text()
        yield Product(match[1], f"http://127.0.0.1:{admin_port}", path / "state", file, stderr, process)
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(40)
        process.stdout.close()
    assert ended == 0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One product for all tests that only knock at its doors."""
    port = free_port()
    with echoing_upstream() as url:
        config = CONFIG.format(url=url, admin_port=port, literal="Zq3LiteralCanary5e2b")
        with running_product(
            tmp_path_factory.mktemp("product"), config, {"NET_ADMIN_KEY": ADMIN_KEY}, port
        ) as found:
            yield found


@pytest.fixture(scope="session")
def admin_key() -> str:
    return ADMIN_KEY
