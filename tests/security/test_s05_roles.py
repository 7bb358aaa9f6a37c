"""S5 and S6, a data key that can do admin and authentication that falls open: LiteLLM CVE-2026-35029, CVE-2025-0628,
CVE-2026-47101, CVE-2026-114612 (one salt for two domains), CVE-2026-35030, CVE-2026-59822; S3,
CVE-2026-42208 (the key
in SQL).

Every role at every endpoint of the registry, by the reach that the endpoint states.
"""

import re
import time
from collections.abc import Iterator

import httpx
import pytest

from optimizer.log.node import StateDirectory
from proxy.control.access import Reach
from proxy.control.admin.registry import ENDPOINTS
from tests.security.conftest import ADMIN_KEY, CONFIG, Product, echoing_upstream, free_port, running_product

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
REMOTE = {"x-forwarded-for": "203.0.113.9"}
DATA_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/files",
    "/v1/audio/speech",
)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product that asks for client keys."""
    port = free_port()
    with echoing_upstream() as url:
        config = CONFIG.format(url=url, admin_port=port, literal="Zq3LiteralCanary5e2b")
        config += "access: {client_keys: true}\n"
        path = tmp_path_factory.mktemp("keyed")
        with running_product(path, config, {"NET_ADMIN_KEY": ADMIN_KEY}, port) as found:
            yield found


def make_key(client: httpx.Client, **grant: object) -> str:
    made = client.post("/api/v1/keys", json={"name": "test", **grant}, headers={"x-api-key": ADMIN_KEY})
    assert made.status_code in (200, 201), made.text
    found = re.search(r"llmo-[A-Za-z0-9_-]{49}", made.text)
    assert found is not None
    deadline = time.monotonic() + 5  # workers read the key file anew every tenth of a second
    while client.get("/v1/models", headers={"x-api-key": found[0]}).status_code == 401:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[0]


def presented(key: str) -> list[dict[str, str]]:
    """Every way in which a key can be shown."""
    return [
        {"authorization": f"Bearer {key}"},
        {"authorization": key},
        {"x-api-key": key},
        {"x-llm-optimizer-key": key},
        {"x-llm-optimizer-worker": key, "x-llm-optimizer-peer": "127.0.0.1"},
    ]


@pytest.fixture(scope="module")
def roles(keyed: Product) -> dict[str, list[dict[str, str]]]:
    """Headers by role; none of them is an operator's."""
    state = StateDirectory(keyed.state)
    with keyed.client() as client:
        wide = make_key(client, routes=["*"], models=["*"], pin=True, passthrough=True)
    return {
        "nobody": [{}],
        "data key": presented(wide),
        "worker token": presented(state.worker_token),
        "wrong": [*presented("wrong"), *presented(ADMIN_KEY[:-1]), *presented(ADMIN_KEY[:12]),
        *presented(ADMIN_KEY + "x")],
        "upstream key": presented("Zq3LiteralCanary5e2b"),
        "empty": [{"authorization": ""}, {"x-api-key": ""}, {"authorization": "Bearer null"}],
    }  # fmt: skip


@pytest.mark.parametrize("role", ["nobody", "data key", "worker token", "wrong", "upstream key", "empty"])
@pytest.mark.parametrize("door", ["public", "admin"])
def test_no_other_role_reaches_an_admin_endpoint(keyed, roles, role, door):
    base = keyed.url if door == "public" else keyed.admin_url
    with keyed.client() as client:
        for endpoint in ENDPOINTS:
            if endpoint.reach is not Reach.ADMIN:
                continue
            path = re.sub(r"\{[^}]*\}", "x1", endpoint.path)
            for headers in roles[role]:
                reply = client.request(
                    endpoint.method,
                    base + path,
                    headers=REMOTE | headers | {"content-type": "application/json"},
                )
                assert reply.status_code == 401, (role, endpoint, headers)


@pytest.mark.parametrize("role", ["nobody", "worker token", "wrong", "upstream key", "empty"])
def test_no_other_role_reaches_a_data_path(keyed, roles, role):
    with keyed.client() as client:
        for path in DATA_PATHS:
            for headers in roles[role]:
                reply = client.post(path, json=CHAT, headers=headers)
                assert reply.status_code == 401, (role, path, headers)
                assert reply.json()["error"]["code"]


def test_an_admin_key_is_no_data_key(keyed):
    """Separate secrets: what leaks from an application opens nothing else, and the other way round."""
    with keyed.client() as client:
        for headers in presented(ADMIN_KEY):
            assert client.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 401


def test_a_data_key_does_what_it_may(keyed):
    with keyed.client() as client:
        key = make_key(client, routes=["chat"])
        bearer = {"authorization": f"Bearer {key}"}
        assert client.post("/v1/chat/completions", json=CHAT, headers=bearer).status_code == 200
        assert (
            client.post("/v1/chat/completions", json=CHAT | {"model": "m"}, headers=bearer).status_code == 403
        )
        pinned = client.post("/v1/chat/completions", json=CHAT, headers=bearer | {"x-llm-optimizer-pin": "m"})
        assert pinned.status_code == 403
        assert client.post("/v1/audio/speech", json=CHAT, headers=bearer).status_code == 403


@pytest.mark.parametrize(
    "text",
    ["' OR 1=1 --", "\" OR \"\"=\"", "llmo-' UNION SELECT digest FROM client_keys--", "llmo-%", "llmo-*",
     "llmo-" + "A" * 49,
     "llmo-" + "A" * 1000, "\\", "{}", "null", "undefined", "[]", "llmo-\u00e9", "../../secrets/admin.key",
     "%00", "llmo-;x"],
)  # fmt: skip
def test_odd_keys_are_wrong_keys(keyed, text):
    """Nothing of a presented key reaches SQL, a path or a pattern; it is answered in words of ours."""
    with keyed.client() as client:
        for headers in presented(text):
            sent = {name: value.encode() for name, value in headers.items()}
            reply = client.post("/v1/chat/completions", json=CHAT, headers=sent)
            assert reply.status_code == 401
            assert len(text) < 5 or text not in reply.text
            assert client.get("/api/v1/keys", headers=REMOTE | sent).status_code == 401
