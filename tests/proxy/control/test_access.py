"""The access guard as a table: one row per way in and per way that must stay shut."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control.access import (
    AccessRules,
    Asked,
    Reach,
    digest,
    judge,
    obtain_key,
)

TOKEN = "worker-token"
KEY = "lopt-admin-right"
RULES = AccessRules(key_digests=(digest("other"), digest(KEY)), hosts=frozenset(("llm.internal", "fd00::1")))

LOCAL = {"x-llm-optimizer-peer": ["127.0.0.1"], "x-llm-optimizer-worker": [TOKEN], "host": ["localhost:8080"]}
REMOTE = {**LOCAL, "x-llm-optimizer-peer": ["203.0.113.9"]}
JSON = {"content-type": ["application/json; charset=utf-8"]}


def admin(method: str, headers: dict[str, list[str]], rules: AccessRules = RULES) -> bool:
    return judge(Asked(method, headers), Reach.ADMIN, rules, worker_token=TOKEN).allowed


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", LOCAL),
        ("HEAD", LOCAL),
        ("POST", LOCAL | JSON),
        ("GET", LOCAL | {"host": ["127.0.0.1"]}),
        ("GET", LOCAL | {"host": ["[::1]:8080"]}),
        ("GET", LOCAL | {"host": ["LOCALHOST"]}),
        ("GET", LOCAL | {"host": ["llm.internal:8080"]}),
        ("GET", LOCAL | {"host": ["[fd00::1]:8443"]}),
        ("GET", LOCAL | {"x-llm-optimizer-peer": ["::1"]}),
        ("GET", LOCAL | {"x-llm-optimizer-peer": ["127.8.8.8"]}),
        ("GET", LOCAL | {"x-llm-optimizer-peer": ["::ffff:127.0.0.1"]}),
        ("GET", LOCAL | {"origin": ["http://localhost:8080"]}),
        ("GET", LOCAL | {"sec-fetch-site": ["same-origin"]}),
        ("GET", {"authorization": [f"Bearer {KEY}"]}),
        ("GET", {"authorization": [f"bearer  {KEY} "]}),
        ("DELETE", {"x-api-key": [KEY]}),
        ("POST", REMOTE | {"x-api-key": [KEY], "x-forwarded-for": ["1.2.3.4"], "host": ["evil"]}),
    ],
)
def test_ways_in(method: str, headers: dict[str, list[str]]) -> None:
    """Local requests without a key, and any request with the key."""
    assert admin(method, headers)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("GET", REMOTE),
        ("GET", REMOTE | {"host": ["127.0.0.1"]}),
        ("GET", LOCAL | {"x-llm-optimizer-peer": ["10.0.0.1"]}),
        ("GET", LOCAL | {"x-llm-optimizer-peer": ["unix"]}),
        ("GET", LOCAL | {"x-llm-optimizer-peer": [""]}),
        ("GET", LOCAL | {"x-llm-optimizer-peer": ["localhost"]}),
        ("GET", LOCAL | {"x-llm-optimizer-peer": ["127.0.0.1", "127.0.0.1"]}),
        ("GET", LOCAL | {"x-llm-optimizer-worker": ["guess"]}),
        ("GET", LOCAL | {"x-llm-optimizer-worker": [TOKEN, TOKEN]}),
        ("GET", {key: value for key, value in LOCAL.items() if key != "x-llm-optimizer-worker"}),
        ("GET", {key: value for key, value in LOCAL.items() if key != "host"}),
        ("GET", LOCAL | {"forwarded": ["for=127.0.0.1"]}),
        ("GET", LOCAL | {"x-forwarded-for": ["127.0.0.1"]}),
        ("GET", LOCAL | {"x-forwarded-host": ["localhost"]}),
        ("GET", LOCAL | {"x-forwarded-client-cert": [""]}),
        ("GET", LOCAL | {"via": ["1.1 nginx"]}),
        ("GET", LOCAL | {"x-real-ip": ["127.0.0.1"]}),
        ("GET", LOCAL | {"host": ["evil.example"]}),
        ("GET", LOCAL | {"host": ["localhost.evil.example"]}),
        ("GET", LOCAL | {"host": ["localhost@evil.example"]}),
        ("GET", LOCAL | {"host": ["localhost/#@evil.example"]}),
        ("GET", LOCAL | {"host": ["localhost", "localhost"]}),
        ("GET", LOCAL | {"host": [""]}),
        ("GET", LOCAL | {"host": ["internal"]}),
        ("GET", LOCAL | {"origin": ["http://evil.example"]}),
        ("GET", LOCAL | {"origin": ["null"]}),
        ("GET", LOCAL | {"origin": ["http://localhost:3000"]}),
        ("GET", LOCAL | {"sec-fetch-site": ["cross-site"]}),
        ("POST", LOCAL),
        ("POST", LOCAL | {"content-type": ["text/plain"]}),
        ("PUT", LOCAL | {"content-type": ["application/x-www-form-urlencoded"]}),
        ("DELETE", LOCAL | {"content-type": ["application/json", "text/plain"]}),
        ("GET", LOCAL | {"x-api-key": ["wrong"]}),
        ("GET", LOCAL | {"x-api-key": [""]}),
        ("GET", LOCAL | {"authorization": ["Bearer wrong"]}),
        ("GET", LOCAL | {"authorization": [f"Basic {KEY}"]}),
        ("GET", LOCAL | {"authorization": [KEY + "x"]}),
        ("GET", LOCAL | {"authorization": [f"Bearer {KEY[:-1]}"]}),
        ("GET", LOCAL | {"authorization": [f"Bearer {KEY}"], "x-api-key": ["wrong"]}),
    ],
)
def test_ways_that_stay_shut(method: str, headers: dict[str, list[str]]) -> None:
    """One missing condition is enough, and a wrong key is never forgiven."""
    verdict = judge(Asked(method, headers), Reach.ADMIN, RULES, worker_token=TOKEN)

    assert not verdict.allowed
    assert not verdict.admin
    assert verdict.reason


@pytest.mark.parametrize(("peer", "open_"), [("127.0.0.1", True), ("10.0.0.1", False)])
def test_a_separate_listener_believes_the_socket_only(peer: str, open_: bool) -> None:
    """Over TCP the peer is the socket's; the workers' headers count for nothing, not even with their token."""
    asked = Asked("GET", LOCAL, direct_peer=peer)

    assert judge(asked, Reach.ADMIN, RULES, worker_token=TOKEN).allowed == open_
    assert not judge(asked, Reach.DATA, RULES, worker_token=TOKEN).allowed or open_


def test_require_key_closes_the_door_for_local_requests() -> None:
    """With admin.require_key only the key counts."""
    rules = AccessRules(key_digests=RULES.key_digests, require_key=True)

    assert not admin("GET", LOCAL, rules)
    assert admin("GET", {"x-api-key": [KEY]}, rules)


def test_no_token_on_our_side_trusts_no_peer() -> None:
    """An empty worker token never equals an empty header."""
    headers = LOCAL | {"x-llm-optimizer-worker": [""]}

    assert not judge(Asked("GET", headers), Reach.ADMIN, RULES, worker_token="").allowed


@pytest.mark.parametrize("reach", [Reach.HEALTH, Reach.METRICS])
def test_health_and_metrics_are_open_to_strangers_without_details(reach: Reach) -> None:
    """Open means states only: the caller is no admin; even a foreign key does not shut them."""
    for headers in (REMOTE, REMOTE | {"authorization": ["Bearer sk-somebody-else"]}):
        verdict = judge(Asked("GET", headers), reach, RULES, worker_token=TOKEN)

        assert verdict.allowed
        assert not verdict.admin


@pytest.mark.parametrize("reach", [Reach.HEALTH, Reach.METRICS])
def test_health_and_metrics_can_be_closed(reach: Reach) -> None:
    """The settings close them to strangers; local requests and the key still pass."""
    rules = AccessRules(key_digests=RULES.key_digests, health_open=False, metrics_open=False)

    assert not judge(Asked("GET", REMOTE), reach, rules, worker_token=TOKEN).allowed
    assert judge(Asked("GET", LOCAL), reach, rules, worker_token=TOKEN).allowed
    assert judge(Asked("GET", {"x-api-key": [KEY]}), reach, rules, worker_token=TOKEN).allowed


def test_data_endpoints_are_for_what_a_worker_let_in() -> None:
    """A caller's own Authorization is no reason to refuse; a missing worker token is."""
    own_key = REMOTE | {"authorization": ["Bearer sk-client"]}

    assert judge(Asked("POST", own_key), Reach.DATA, RULES, worker_token=TOKEN).allowed
    assert not judge(Asked("POST", JSON), Reach.DATA, RULES, worker_token=TOKEN).allowed


@given(
    st.dictionaries(
        st.sampled_from([*LOCAL, "authorization", "x-api-key", "origin", "via", "content-type"]),
        st.lists(st.text(max_size=20), max_size=2),
    )
)
def test_arbitrary_headers_never_raise_and_never_open(headers: dict[str, list[str]]) -> None:
    """Whatever the headers hold, a request without the worker's token or the key is refused."""
    assert not admin("GET", headers)


def test_a_generated_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """256 bits, 0600, and the same after a restart."""
    path = tmp_path / "admin.key"

    first, made = obtain_key(path)
    second, made_again = obtain_key(path)

    assert (made, made_again) == (True, False)
    assert first == second
    assert len(first) > 50
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
