"""The processes a scenario is built from: upstreams and the proxies that are compared.

Invariant: the proxy under test is pinned to the worker core, everything else to the load core.
"""

import json
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from loadtests.mock_upstream import unary_document
from loadtests.processes import Child, Cores, Failed, Skipped, python_module

TEMPLATES = Path(__file__).with_name("templates")
NGINX_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: where it listens, whose CPU is its own, and what else belongs to the load side."""

    name: str
    port: int
    worker_pids: tuple[int, ...]
    side_pids: tuple[int, ...] = ()
    child: Child | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running upstream."""

    port: int
    pids: tuple[int, ...]
    tls: "Certificates | None" = None

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://localhost:{self.port}"


@dataclass(frozen=True, slots=True)
class Certificates:
    """A private authority and a certificate for localhost."""

    ca: Path
    certificate: Path
    key: Path


def tool(name: str, package: str) -> str:
    """The path of a system tool.

    Raises:
        Skipped: If it is not installed; the message has the command.
    """
    found = shutil.which(name) or shutil.which(name, path=NGINX_PATHS)
    if found is None:
        raise Skipped(f"{name} is not installed: apt-get install {package}")
    return found


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificates(directory: Path) -> Certificates:
    """Make a certificate for localhost and 127.0.0.1 under ``directory``."""
    import trustme  # noqa: PLC0415 - only the TLS scenarios need it

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    made = Certificates(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(str(made.ca))
    made.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(made.key))
    return made


def wait_until_open(port: int, child: Child, *, seconds: float = 10.0) -> None:
    """Wait until something accepts connections on a port.

    Raises:
        Failed: If the process ends or the time is over.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.01)
            continue
        return
    raise Failed(f"{child.name} does not listen on {port}")


@contextmanager
def mock_upstream(
    cores: Cores, directory: Path, *options: str, tls: Certificates | None = None
) -> Iterator[Upstream]:
    """The project's own mock."""
    if tls is not None:
        options = (*options, "--certificate", str(tls.certificate), "--key", str(tls.key))
    command = python_module("loadtests.mock_upstream", *options)
    with Child(command, core=cores.load, log=directory / "mock.log", name="mock upstream") as child:
        port = int(child.wait_for(r"listening on (\d+)").group(1))
        yield Upstream(port, (child.pid,), tls)


@contextmanager
def nginx_upstream(
    cores: Cores, directory: Path, *, tls: Certificates | None = None, reply_bytes: int = 700
) -> Iterator[Upstream]:
    """nginx answering one static JSON document."""
    port = free_port()
    lines = ""
    if tls is not None:
        lines = (
            f"ssl_certificate {tls.certificate}; ssl_certificate_key {tls.key}; "
            "ssl_session_cache shared:a:1m; ssl_protocols TLSv1.2 TLSv1.3;"
        )
    reply = unary_document(reply_bytes).decode().replace("'", "")
    values = {"TLS_LISTEN": " ssl" if tls else "", "TLS": lines, "REPLY": reply}
    with _nginx(cores.load, directory / "nginx-upstream", "nginx_upstream.conf", port, values) as child:
        yield Upstream(port, (child.pid,), tls)


@contextmanager
def nginx_proxy(cores: Cores, directory: Path, upstream: Upstream) -> Iterator[Proxy]:
    """nginx proxy_pass with keep-alive, without buffering, verifying TLS."""
    port = free_port()
    lines = ""
    if upstream.tls is not None:
        lines = (
            f"proxy_ssl_trusted_certificate {upstream.tls.ca}; proxy_ssl_verify on; "
            "proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_session_reuse on; "
            "proxy_ssl_protocols TLSv1.2 TLSv1.3;"
        )
    values = {
        "UPSTREAM": str(upstream.port),
        "SCHEME": "https" if upstream.tls else "http",
        "TLS": lines,
    }
    with _nginx(cores.worker, directory / "nginx-proxy", "nginx_proxy.conf", port, values) as child:
        yield Proxy("nginx", port, (child.pid,))


@contextmanager
def _nginx(core: int, directory: Path, template: str, port: int, values: dict[str, str]) -> Iterator[Child]:
    binary = tool("nginx", "nginx-light")
    directory.mkdir(parents=True, exist_ok=True)
    tokens = {"DIRECTORY": str(directory), "PORT": str(port), "TLS": "", **values}
    text = Template((TEMPLATES / template).read_text()).safe_substitute(tokens)
    configuration = directory / "nginx.conf"
    configuration.write_text(text)
    command = [binary, "-p", str(directory), "-c", str(configuration), "-e", str(directory / "error.log")]
    with Child(command, core=core, log=directory / "out.log", name=template) as child:
        wait_until_open(port, child)
        yield child


@contextmanager
def aiohttp_proxy(cores: Cores, directory: Path, upstream: Upstream) -> Iterator[Proxy]:
    """The bare aiohttp pass-through."""
    options = ["--upstream", upstream.url]
    if upstream.tls is not None:
        options += ["--ca", str(upstream.tls.ca)]
    command = python_module("loadtests.baseline", *options)
    with Child(command, core=cores.worker, log=directory / "baseline.log", name="aiohttp") as child:
        port = int(child.wait_for(r"listening on (\d+)").group(1))
        yield Proxy("aiohttp", port, (child.pid,))


def post(
    url: str, document: object, *, headers: Sequence[tuple[str, str]] = (), seconds: float = 5.0
) -> bytes:
    """POST JSON and return the body of a 2xx reply.

    Raises:
        Failed: On any other status or a broken connection.
    """
    request = urllib.request.Request(
        url,
        data=json.dumps(document).encode(),
        headers={"content-type": "application/json", **dict(headers)},
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds, context=_no_tls(url)) as reply:
            return bytes(reply.read())
    except urllib.error.HTTPError as error:
        raise Failed(f"{url} answered {error.code}: {error.read()[:300]!r}") from error
    except OSError as error:
        raise Failed(f"{url}: {error}") from error


def _no_tls(url: str) -> ssl.SSLContext | None:
    return ssl.create_default_context() if url.startswith("https:") else None
