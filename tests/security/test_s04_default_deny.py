"""S4, authorisation decided on another path than the router's: Starlette CVE-2026-48710, LiteLLM CVE-2026-49468, vLLM
CVE-2026-48746; and new routes that nobody protected, MLflow CVE-2026-2652.

Every route of the registry is enumerated, so that one that is added tomorrow is tested tomorrow.
"""

import re

import pytest

from proxy.control.access import Reach
from proxy.control.admin.registry import ENDPOINTS

pytestmark = [pytest.mark.timeout(120)]

OPEN = {("GET", "/health/detailed"), ("GET", "/metrics")}
GUARDED = [endpoint for endpoint in ENDPOINTS if endpoint.reach is not Reach.DATA]
ADMIN = [endpoint for endpoint in GUARDED if (endpoint.method, endpoint.path) not in OPEN]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# Each of these says that the request does not come from this machine, or not from its operator.
FOREIGN = {
    "proxied": {"x-forwarded-for": "203.0.113.9"},
    "proxied, says local": {"x-forwarded-for": "127.0.0.1"},
    "forwarded": {"forwarded": "for=127.0.0.1"},
    "via": {"via": "1.1 nginx"},
    "nginx": {"x-real-ip": "127.0.0.1"},
    "another host": {"host": "llm.example"},
    "rebound": {"host": "localhost.evil.example"},
    "BadHost": {"host": "localhost/#@evil"},
    "page": {"origin": "http://evil.example"},
    "sandboxed page": {"origin": "null"},
    "cross-site": {"sec-fetch-site": "cross-site"},
    "wrong key": {"authorization": "Bearer wrong"},
    "wrong api key": {"x-api-key": "wrong"},
    "worker": {"x-forwarded-for": "1.1.1.1", "x-llm-optimizer-worker": "guess", "x-llm-optimizer-peer": "127.0.0.1"},
}  # fmt: skip


def concrete(path: str) -> str:
    """A registry path with something in its holes."""
    return re.sub(r"\{[^}]*\}", "x1", path)


def test_open_endpoints_are_the_ones_that_are_meant_to_be():
    """The default of an endpoint is ADMIN; DATA is for what workers let in."""
    assert {(e.method, e.path) for e in ENDPOINTS if e.reach in (Reach.HEALTH, Reach.METRICS)} == OPEN
    for endpoint in ENDPOINTS:
        if endpoint.reach is Reach.DATA:
            assert endpoint.path.startswith("/v1/")
        elif endpoint.reach is not Reach.ADMIN and (endpoint.method, endpoint.path) not in OPEN:
            # What workers ask of the optimizer never has a path that a worker forwards for callers.
            assert not endpoint.path.startswith(
                ("/api/v1/", "/ui", "/openapi", "/v1/", "/metrics", "/health")
            )


@pytest.mark.parametrize("who", FOREIGN)
@pytest.mark.parametrize("door", ["public", "admin"])
def test_every_guarded_route_refuses_strangers(product, who, door):
    """With every method, at both doors."""
    with product.client() as client:
        base = product.url if door == "public" else product.admin_url
        for endpoint in ADMIN:
            for method in {endpoint.method, *METHODS}:
                reply = client.request(
                    method,
                    base + concrete(endpoint.path),
                    headers=FOREIGN[who] | {"content-type": "application/json"},
                    content=b"{}" if method in ("POST", "PUT", "PATCH") else None,
                )
                if FOREIGN[who].get("host") == "localhost/#@evil" and door == "public":
                    assert reply.status_code == 400  # the engine does not even read on
                else:
                    # What workers alone may ask is not served by their own public port at all.
                    assert reply.status_code == 401 or (
                        door == "public" and endpoint.reach is not Reach.ADMIN and reply.status_code == 404
                    ), (method, endpoint.path)


@pytest.mark.parametrize("door", ["public", "admin"])
def test_paths_that_nobody_serves_are_refused_before_they_are_looked_up(product, door):
    """A stranger can't even learn which admin paths exist."""
    base = product.url if door == "public" else product.admin_url
    with product.client() as client:
        for path in (
            "/api/v1/keys/../nothing",
            "/api/v1/nothing",
            "/api/v1/",
            "/api/v1",
            "/openapi.json",
        ):
            reply = client.get(base + path, headers=FOREIGN["proxied"])
            assert reply.status_code == 401, path


def spellings(path: str) -> list[str]:
    """What another server, or a careless one, would read as ``path``."""
    first, _, rest = path[1:].partition("/")
    encoded = f"%{ord(path[1]):02x}"
    return [
        "/" + path, path.replace("/", "//"), path + "/", path + "//", path + "/.", path + "/x/..", path + ";x=1",
        path + "%00", path + "%20", path + "%2f", path + "?", path + "?/v1/models", path + "#/v1/models", path + "/%2e",
        path.upper(), path.title(), "/" + encoded + path[2:], "/%25" + encoded[1:] + path[2:], "/./" + path[1:],
        "/x/.." + path, "/v1/.." + path, "/v1/%2e%2e" + path, "/v1/..%2f" + path[1:], "/v1/%252e%252e" + path,
        "/v1/models/.." + path, "/v1/models/..%2f.." + path, "/v1/..;" + path, "/v1/.%2e" + path, "/v1/\\..\\.." + path,
        "/health/.." + path, "/metrics/.." + path, "/health/detailed/../.." + path, "/v1/feedback/../.." + path,
        "/v1" + path, "/v1/" + path, "/health" + path, "/metrics" + path, f"/{first}%2f{rest}", path.replace("/", "\\"),
        path.replace("/", "/;/"), "/\t" + path[1:], "/" + path[1:].replace("/", "/\x01"), "http://localhost" + path,
        "//localhost" + path, "http://127.0.0.1" + path, path.replace("v1", "v1%20"), path.replace("api", "%61pi"),
        path.replace("api", "a%70i"), path.replace("v1", "V1"), "\\" + path[1:], path[1:], "*" + path, "/?" + path,
    ]  # fmt: skip


@pytest.mark.parametrize("endpoint", ADMIN, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
@pytest.mark.parametrize("door", ["public", "admin"])
def test_no_other_spelling_of_a_guarded_path_opens_it(product, endpoint, door):
    """Whatever it is answered with, it is not what the endpoint answers."""
    url = product.url if door == "public" else product.admin_url
    plain = concrete(endpoint.path)
    for spelling in spellings(plain):
        body = b"{}" if endpoint.method in ("POST", "PUT", "PATCH") else b""
        head = (
            f"{endpoint.method} {spelling} HTTP/1.1\r\nhost: llm.example\r\nx-forwarded-for: 203.0.113.9\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        reply = product.raw(head.encode("latin-1") + body, url, half_close=False)
        status = int(reply.split(b" ", 2)[1]) if reply else 0
        allowed = {0, 400, 401, 404, 405, 501}
        if spelling.startswith(("/v1/", "/v1")) and door == "public":
            # Below /v1 of the upstream, as a path like any other; ours are never reached that way.
            assert b"hello" in reply or status in allowed | {502}, (spelling, reply)
        elif spelling.startswith("/?"):
            assert status in allowed
        else:
            assert status in allowed, (spelling, reply)


def test_the_way_in_is_told(product, admin_key):
    """401 says what to send; and with it, it works."""
    with product.client() as client:
        refused = client.get("/api/v1/config/export", headers=FOREIGN["proxied"])
        assert "Bearer" in refused.headers["www-authenticate"]
        assert "admin key" in refused.json()["error"]["message"]
        for headers in ({"authorization": f"Bearer {admin_key}"}, {"x-api-key": admin_key}):
            assert (
                client.get("/api/v1/config/export", headers=FOREIGN["proxied"] | headers).status_code == 200
            )


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/detailed", "/metrics"])
def test_health_and_metrics_are_open_and_say_states_only(product, path, admin_key):
    """No configuration, no addresses, no keys."""
    with product.client() as client:
        reply = client.get(path, headers=FOREIGN["proxied"])
    assert reply.status_code == 200
    for secret in ("127.0.0.1", str(product.state), "Zq3", admin_key):
        assert secret not in reply.text
