"""S8, secrets in logs, health, exports: CVE-2024-9606 (five characters unmasked), CVE-2025-11203 (health output), keys
without the sk- shape left unhashed (litellm #34712), MLflow CVE-2026-4035 (any $ENV resolved).

A canary stands in every place where a secret or content can enter; then everything that the product wrote or shows is
searched. No canary has the shape of a key, so that masking by shape can't save the day.
"""

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import orjson
import pytest

from tests.security.conftest import Product, echoing_upstream, free_port, running_product

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LITERAL, FROM_ENVIRONMENT, FROM_FILE = "Zq3LiteralCanary5e2b", "Zq3EnvCanary61cc", "Zq3FileCanary90ad"
ADMIN, UNRELATED = "Zq3AdminCanary7f41d0", "Zq3UnrelatedCanary08"
DATABASE, SIGNING, SIGNING_ENVIRONMENT, SIGNING_FILE, ADDRESS = (
    "Zq3DatabaseCanary3c1f", "Zq3SigningCanary4a17", "Zq3SigningEnvCanary2e", "Zq3SigningFileCanary9b",
    "Zq3HookPathCanary6d",
)  # fmt: skip
CALLER = {
    name: f"Zq3{name}Canary1d"
    for name in ("Bearer", "ApiKey", "Cookie", "Query", "Prompt", "User", "Metadata", "Tool", "Comment", "Session",
                 "Odd")
}  # fmt: skip
# What an operator's own secrets are; none may be told to any caller, and none may be on disk.
OPERATORS = (
    LITERAL, FROM_ENVIRONMENT, FROM_FILE, ADMIN, UNRELATED, DATABASE, SIGNING, SIGNING_ENVIRONMENT, SIGNING_FILE,
    ADDRESS,
)  # fmt: skip
CONFIG = """
server: {{host: 127.0.0.1, workers: 1}}
log: {{level: debug}}
admin: {{key: "${{NET_ADMIN_KEY}}", listen: "127.0.0.1:{admin_port}"}}
upstreams:
  literal: {{base_url: "{url}", api_key: "{literal}"}}
  environment: {{base_url: "{url}", api_key: "${{NET_UPSTREAM_KEY}}"}}
  file: {{base_url: "{url}", api_key: "file:{file}"}}
models:
  fine: {{upstream: literal, model: fine, price: {{input: 1, output: 2}}}}
  refused-literal: {{upstream: literal, model: status-401}}
  refused-environment: {{upstream: environment, model: status-401}}
  refused-file: {{upstream: file, model: status-403}}
  broken: {{upstream: file, model: status-500}}
  limited: {{upstream: environment, model: status-429}}
  wrong: {{upstream: literal, model: status-400}}
routes:
  chat: {{arms: [fine, broken], sticky: {{by: header, header: x-session-id}}}}
passthrough: {{default: literal}}
database: {{url: "postgresql://someone:${{NET_DATABASE_PASSWORD}}@127.0.0.1:1/nothing", timeout_sec: 1}}
webhooks:
  - {{name: literal, url: "{url}/hook", secret: "{signing}"}}
  - {{name: environment, url: "http://127.0.0.1:1/hook", secret: "${{NET_SIGNING}}"}}
  - {{name: file, url: "{url}/${{NET_HOOK_PATH}}?token=${{NET_HOOK_PATH}}", secret: "file:{signing_file}"}}
  - {{name: address, url: "http://127.0.0.1:1/${{NET_HOOK_PATH}}"}}
"""
WISH = {
    "name": "another arm",
    "strategy": "manual",
    "route": "chat",
    "parameters": {"arms": ["broken"], "baseline": "broken", "policy": {"type": "fixed"}},
}

VIEWS = (
    "/api/v1/config/export", "/api/v1/config/export?source=file", "/api/v1/routes", "/api/v1/arms",
    "/api/v1/metrics/summary", "/metrics", "/health/detailed", "/api/v1/optimize", "/api/v1/audit",
    "/api/v1/strategies", "/openapi.json",
)  # fmt: skip


@dataclass
class Shown:
    """What callers were told, and what the operator is shown."""

    product: Product
    told: dict[str, bytes] = field(default_factory=dict)
    shown: dict[str, bytes] = field(default_factory=dict)

    def keep(self, name: str, reply: httpx.Response, *, operator: bool = False) -> httpx.Response:
        (self.shown if operator else self.told)[name] = str(reply.headers).encode() + reply.content
        return reply


def provoke(found: Shown, client: httpx.Client) -> None:
    """Requests of every kind, good and bad, with a canary in every field."""
    headers = {
        "authorization": f"Bearer {CALLER['Bearer']}",
        "x-api-key": CALLER["ApiKey"],
        "api-key": CALLER["ApiKey"],
        "cookie": f"session={CALLER['Cookie']}",
        "x-session-id": CALLER["Session"],
        "x-custom": CALLER["Odd"],
    }
    fields = {
        "messages": [{"role": "user", "content": CALLER["Prompt"]}],
        "user": CALLER["User"],
        "metadata": {"token": CALLER["Metadata"], "api_key": CALLER["Metadata"]},
        "tools": [{"type": "function", "function": {"name": "f", "description": CALLER["Tool"]}}],
    }
    for model in (*("chat",) * 4, "fine", "refused-literal", "refused-environment", "refused-file", "broken", "limited",
                  "wrong", "nowhere"):  # fmt: skip
        for stream in (False, True):
            reply = client.post(
                f"/v1/chat/completions?key={CALLER['Query']}",
                json={"model": model, "stream": stream, **fields},
                headers=headers,
            )
            found.keep(f"chat {model} {stream}", reply)
            feedback = {
                "request_id": reply.headers.get("x-request-id", "x"),
                "score": 1,
                "comment": CALLER["Comment"],
            }
            found.keep(f"feedback {model}", client.post("/v1/feedback", json=feedback, headers=headers))
    for path in ("/v1/files", "/v1/audio/speech", "/nothing", "/v1/models/x"):
        found.keep(f"get {path}", client.get(f"{path}?api_key={CALLER['Query']}", headers=headers))
        found.keep(f"post {path}", client.post(f"{path}?key={CALLER['Query']}", headers=headers, json=fields))
    broken = f'{{"model": "chat", "messages": [{{"content": "{CALLER["Prompt"]}"'.encode()
    for path in ("/v1/chat/completions", "/v1/feedback", "/v1/embeddings"):
        found.keep(f"broken {path}", client.post(path, content=broken, headers=headers))
    for key in (CALLER["Bearer"], CALLER["ApiKey"]):
        for path in ("/api/v1/config/export", "/api/v1/keys", "/health/detailed", "/metrics"):
            found.keep(f"wrong key {path}", client.get(path, headers={"authorization": f"Bearer {key}"}))
    mangled = f"GET /v1/models HTTP/1.1\r\nhost: h\r\nauthorization : Bearer {CALLER['Bearer']}\r\n\r\n"
    found.told["mangled"] = found.product.raw(mangled.encode())
    found.told["line"] = found.product.raw(f"{CALLER['Bearer']} {CALLER['Query']} HTTP/1.1\r\n\r\n".encode())


def optimize(found: Shown, client: httpx.Client) -> None:
    """Transitions that subscribers are told of, and commands that fail because the database does not answer."""
    key = {"authorization": f"Bearer {ADMIN}"}
    made = client.post("/api/v1/optimize", json=WISH, headers=key)
    found.keep("made", made, operator=True)
    one = f"/api/v1/optimize/{made.json().get('id', 'opt_none')}"
    for verb in ("deploy", "rollback"):
        reply = client.post(f"{one}/{verb}", json={"reason": "to see it"}, headers=key)
        found.keep(verb, reply, operator=True)
    found.keep("one", client.get(one, headers=key), operator=True)
    deadline = time.monotonic() + 20
    while "webhook environment" not in (told := found.product.stderr.read_text()):
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def look(found: Shown, client: httpx.Client) -> None:
    """Everything an operator can look at."""
    key = {"authorization": f"Bearer {ADMIN}"}
    request_id = None
    for segment in (found.product.state / "log").rglob("*.jsonl"):
        for line in segment.read_bytes().splitlines():
            event = orjson.loads(line)
            request_id = event["id"] if event["type"].endswith("request.v1") else request_id
    for path in (*VIEWS, f"/api/v1/decisions/{request_id}"):
        found.keep(path, client.get(path, headers=key), operator=True)
    for text in (
        f"upstreams: {{x: {{base_url: 'http://u:{CALLER['Odd']}@h', api_key: '${{NET_UNRELATED}}'}}}}",
        "server: {host: '${NET_UNRELATED}', port: '${NET_UNRELATED}'}",
        "routes: {'${NET_UNRELATED}': {arms: ['${NET_UNRELATED}']}}",
        f"upstreams: {{openai: {{api_key: 'file:{found.product.config}'}}}}",
        "admin: {key: '${NET_ADMIN_KEY}', listen: '${NET_ADMIN_KEY}'}",
        "database: {url: '${NET_SIGNING}', timeout_sec: '${NET_DATABASE_PASSWORD}'}",
        "database: {url: 'mysql://u:${NET_DATABASE_PASSWORD}@h/d'}",
        "database: {url: 'postgresql://u:${NET_DATABASE_PASSWORD}@h:port/d'}",
        "webhooks: [{url: 'gopher://${NET_HOOK_PATH}', secret: '${NET_SIGNING}', events: ['${NET_SIGNING}']}]",
        "webhooks: ['${NET_SIGNING}', {name: '${NET_SIGNING}', url: 'http://u:${NET_HOOK_PATH}@h/'}]",
    ):
        reply = client.post("/api/v1/config/validate", json={"config": text}, headers=key)
        found.keep(f"validate {text}", reply, operator=True)
    found.product.config.write_text(found.product.config.read_text() + "unknown_key: true\n")
    found.keep("reload", client.post("/api/v1/config/reload", json={}, headers=key), operator=True)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A product that went through all of it, and through the crash of a worker; stopped."""
    path, port = tmp_path_factory.mktemp("canaries"), free_port()
    (path / "key.txt").write_text(FROM_FILE + "\n")
    (path / "signing.txt").write_text(SIGNING_FILE + "\n")
    environ = {
        "NET_ADMIN_KEY": ADMIN,
        "NET_UPSTREAM_KEY": FROM_ENVIRONMENT,
        "NET_UNRELATED": UNRELATED,
        "NET_DATABASE_PASSWORD": DATABASE,
        "NET_SIGNING": SIGNING_ENVIRONMENT,
        "NET_HOOK_PATH": ADDRESS,
    }
    with echoing_upstream() as url:
        config = CONFIG.format(
            url=url,
            admin_port=port,
            literal=LITERAL,
            file=path / "key.txt",
            signing=SIGNING,
            signing_file=path / "signing.txt",
        )
        with running_product(path, config, environ, port) as product, product.client() as client:
            found = Shown(product)
            provoke(found, client)
            optimize(found, client)
            time.sleep(0.5)  # the optimizer's tail poll and the database's next transaction
            look(found, client)
            children = orjson.loads((product.state / "run" / "pids").read_bytes())
            arguments = [
                Path(f"/proc/{pid}/cmdline") for pid in (children["optimizer"], *children["workers"])
            ]
            found.shown["arguments"] = b"".join(file.read_bytes() for file in arguments if file.exists())
            os.kill(children["workers"][0], signal.SIGABRT)
        effective = [sys.executable, "-m", "proxy.cli", "check-config", str(product.config), "--effective"]
        done = subprocess.run(effective, capture_output=True, env={**os.environ, **environ}, check=False)
        found.shown["check-config"] = done.stdout + done.stderr
        yield found


def forms(secret: str) -> list[bytes]:
    """A canary, and how it looks when something encoded it."""
    return [
        secret.encode(), quote(secret, safe="").encode(), secret.encode().hex().encode(), secret[::-1].encode(),
        base64.b64encode(secret.encode())[:-4], base64.urlsafe_b64encode(secret.encode())[:-4], secret[:12].encode(),
    ]  # fmt: skip


def places(found: Shown) -> Iterator[tuple[str, bytes]]:
    """Everything that was written: logs of all processes and the state directory, whole."""
    yield "stderr", found.product.stderr.read_bytes()
    for path in found.product.state.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(found.product.state)), path.read_bytes()


def hits(secrets: tuple[str, ...], where: Iterator[tuple[str, bytes]]) -> set[tuple[str, str]]:
    return {
        (name, secret) for name, data in where for secret in secrets for form in forms(secret) if form in data
    }


def test_the_search_searches_something(after):
    """All outcomes occurred, and all processes logged."""
    text = after.product.stderr.read_text()
    assert any(b"upstream_auth_error" in data for data in after.told.values())
    assert all(len(data) > 20 for data in after.shown.values()), {
        k: v for k, v in after.shown.items() if len(v) <= 20
    }
    assert "worker" in text
    assert b"opt_" in after.shown["made"]
    assert b"opt_" in after.shown["one"]
    assert "webhook environment: " in text
    assert "webhook address: " in text
    assert sum(len(data) for _, data in places(after)) > 20_000


def test_nothing_secret_or_said_is_written(after):
    """Logs, event log, table, databases, kept configurations, position index: neither keys nor content."""
    assert hits((*OPERATORS, *CALLER.values()), places(after)) == set()


def test_no_caller_is_told_an_operators_secret(after):
    """Error replies of upstreams that quote the key they refuse are replaced."""
    assert hits(OPERATORS, iter(after.told.items())) == set()


def test_no_view_of_the_operator_shows_a_secret(after):
    """Exports, health, metrics, decisions, validation problems, check-config, the command lines of the processes."""
    assert hits((*OPERATORS, *CALLER.values()), iter(after.shown.items())) == set()


def test_a_caller_sees_its_own_words_only(after):
    """No reply quotes credentials of the caller back, which logs of clients would keep."""
    own = (CALLER["Bearer"], CALLER["ApiKey"], CALLER["Cookie"])
    assert hits(own, iter(after.told.items())) == set()


def test_files_and_directories_are_the_operators_alone(after):
    """0700 and 0600, secrets and everything else."""
    for path in (after.product.state, *after.product.state.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
