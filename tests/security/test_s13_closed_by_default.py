"""S13, an admin surface that is open by default: Bifrost CVE-2026-86242, mem0 #6081.

There is always a key, made at the first start; without it only this machine gets in, whatever is listened on. The
table of the judgement itself is ``tests/proxy/control/test_access.py``; here the product is asked.
"""

import socket
import stat

import psutil
import pytest

from proxy.config.load import load_text
from proxy.control.access import Asked, Reach, judge
from proxy.control.configuration import access_rules
from tests.security.conftest import echoing_upstream, free_port, running_product

pytestmark = [pytest.mark.timeout(120)]


def own_addresses() -> list[str]:
    """Addresses of this machine that are not loopback: whoever comes from one is a stranger."""
    found = [address for card in psutil.net_if_addrs().values() for address in card]
    return [a.address for a in found if a.family == socket.AF_INET and not a.address.startswith("127.")]


@pytest.mark.slow
def test_listening_everywhere_lets_nobody_in_without_the_key(tmp_path):
    """0.0.0.0 for both listeners and no key configured: one was made, is 0600, and is asked for."""
    port = free_port()
    with echoing_upstream() as url:
        config = (
            f"server: {{host: 0.0.0.0, workers: 1}}\nadmin: {{listen: '0.0.0.0:{port}'}}\n"
            f"upstreams: {{up: {{base_url: '{url}'}}}}\nmodels: {{m: {{upstream: up}}}}\n"
        )
        with running_product(tmp_path, config, {}, port) as product, product.client() as client:
            key_file = product.state / "secrets" / "admin.key"
            key = key_file.read_text().strip()
            public = int(product.url.rpartition(":")[2])
            assert len(key) > 50
            assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
            assert key not in product.stderr.read_text()
            for listener in (public, port):
                for address in own_addresses():
                    base = f"http://{address}:{listener}"
                    for host in (f"{address}:{listener}", "localhost", "127.0.0.1"):
                        reply = client.get(f"{base}/api/v1/config/export", headers={"host": host})
                        assert reply.status_code == 401
                    admitted = client.get(f"{base}/api/v1/routes", headers={"x-api-key": key})
                    assert admitted.status_code == 200
                local = client.get(f"http://127.0.0.1:{listener}/api/v1/routes")
                assert local.status_code == 200


@pytest.mark.parametrize(
    "text", ["", "admin: {}", "admin: {listen: '0.0.0.0:9090'}", "server: {host: '0.0.0.0'}"]
)
def test_every_configuration_asks_strangers_for_a_key(text):
    """Also with what callers over TCP say about themselves, and with an empty key."""
    rules = access_rules(load_text(text, {}), {}, "generated-key")
    for headers in (
        {},
        {"host": ["localhost"]},
        {"x-api-key": [""], "host": ["localhost"]},
        {"authorization": ["Bearer "], "host": ["localhost"]},
        {"host": ["localhost"], "x-llm-optimizer-peer": ["127.0.0.1"], "x-llm-optimizer-worker": ["token"]},
    ):
        for peer in ("10.0.0.1", "203.0.113.9", "::ffff:10.0.0.1", "fe80::1", "", "gone"):
            asked = Asked("GET", headers, direct_peer=peer)
            assert not judge(asked, Reach.ADMIN, rules, worker_token="token").allowed


@pytest.mark.parametrize("key", ["", "   ", "${EMPTY}"])
def test_an_empty_key_is_no_key(key):
    """It is refused, or the made one stands in; it never opens."""
    from proxy.config.problems import ConfigProblems

    try:
        loaded = load_text(f"admin: {{key: '{key}'}}", {"EMPTY": ""})
        rules = access_rules(loaded, {"EMPTY": ""}, "generated-key")
    except (ConfigProblems, ValueError):
        return
    for presented in ("", " ", "None", "env:EMPTY"):
        asked = Asked("GET", {"x-api-key": [presented]}, direct_peer="127.0.0.1")
        assert not judge(asked, Reach.ADMIN, rules, worker_token="token").allowed
