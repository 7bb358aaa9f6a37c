"""Client keys over the admin surface: made once, listed without secrets, revoked for ever."""

import json
import re
from typing import Any

import pytest

from optimizer.keys import digest_of, well_formed
from proxy.admission.keyring import Keyring
from proxy.control.access import Reach
from proxy.control.admin.registry import ENDPOINTS

OPEN = (Reach.HEALTH, Reach.METRICS, Reach.DATA)


async def _send(node: Any, method: str, path: str, **headers: str) -> tuple[int, Any]:
    wanted = node.local(**{"Content-Type": "application/json", **headers})
    async with node.session.request(method, f"http://optimizer{path}", headers=wanted) as response:
        return response.status, await response.json()


async def test_a_key_is_made_shown_once_and_never_again(node) -> None:
    """201 with the text; lists and the key itself have neither text nor digest."""
    status, made = await node.post("/api/v1/keys", {"name": "ci"})
    key = made["key"]
    listed = await node.get("/api/v1/keys")
    shown = await node.get(f"/api/v1/keys/{made['id']}")

    assert status == 201
    assert well_formed(key)
    assert re.fullmatch("key_[0-9a-f]{16}", made["id"])
    assert made["last4"] == key[-4:]
    expected = {name: value for name, value in made.items() if name not in ("key", "warnings")}
    assert shown == (200, expected)
    assert listed == (200, {"keys": [expected]})
    digest = digest_of(key, node.core.state.key_pepper)
    assert digest in node.core.state.key_file.read_text()
    assert digest not in str((made, listed, shown))
    assert "digest" not in str((made, listed, shown))


async def test_every_field_is_kept(node) -> None:
    """As asked for; the quota's unset limits are left out."""
    now = node.core.now()
    wanted = {
        "name": "  batch of Zoë ",
        "routes": ["chat", "b*"],
        "models": ["sm*"],
        "pin": True,
        "passthrough": True,
        "expires_in_sec": 3600,
        "quota": {"requests_per_minute": 5, "tokens_per_minute": None, "usd_per_day": 2},
    }

    _, made = await node.post("/api/v1/keys", wanted)

    assert made["name"] == "batch of Zoë"
    assert made["expires_at"] == pytest.approx(now + 3600, abs=5)
    assert made["created_at"] == pytest.approx(now, abs=5)
    assert (made["routes"], made["models"]) == (["chat", "b*"], ["sm*"])
    assert (made["pin"], made["passthrough"], made["state"]) == (True, True, "active")
    assert made["quota"] == {"requests_per_minute": 5, "usd_per_day": 2.0}
    assert node.core.keys.get(made["id"]).quota.usd_per_day == 2.0


@pytest.mark.parametrize("moment", ["2099-01-31T00:00:00Z", "2099-01-31T01:00:00+01:00", 4073500800])
async def test_an_end_may_be_a_moment(node, moment) -> None:
    """Text with its zone, or Unix seconds."""
    _, made = await node.post("/api/v1/keys", {"name": "ci", "expires_at": moment})

    assert made["expires_at"] == 4073500800


async def test_warnings_say_what_may_surprise(node) -> None:
    """Accepted, because configuration and keys change at different times."""
    _, odd = await node.post("/api/v1/keys", {"name": "a", "routes": ["chats", "ch*"], "models": ["nope*"]})
    _, useless = await node.post("/api/v1/keys", {"name": "b", "routes": []})

    texts = "\n".join(odd["warnings"])
    assert "routes[0]: 'chats' matches no route" in texts
    assert "Did you mean 'chat'?" in texts
    assert "models[0]: 'nope*' matches no model" in texts
    assert "'ch*'" not in texts
    assert "client_keys: true" in texts
    assert any("may use nothing" in text for text in useless["warnings"])


async def test_every_problem_is_told_at_once(node) -> None:
    """With the field's path, and no key is made."""
    status, document = await node.post(
        "/api/v1/keys",
        {
            "name": "",
            "route": ["chat"],
            "routes": "chat",
            "models": ["", 5],
            "pin": 1,
            "passthrough": "yes",
            "expires_in_sec": 5,
            "expires_at": 5,
            "quota": {"requests_per_minute": 1.5, "tokens_per_minute": True, "usd_per_day": -1, "usd": 5},
        },
    )

    error = document["error"]
    problems = {problem["path"]: problem for problem in error["details"]["problems"]}
    assert (status, error["code"]) == (400, "INVALID_REQUEST")
    assert set(problems) == {
        "name", "route", "routes", "models[0]", "models[1]", "pin", "passthrough", "expires_at",
        "quota.requests_per_minute", "quota.tokens_per_minute", "quota.usd_per_day", "quota.usd",
    }  # fmt: skip
    assert "'routes'" in problems["route"]["suggestion"]
    assert node.core.keys.all() == ()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"expires_in_sec": 0}, "expires_in_sec"),
        ({"expires_in_sec": True}, "expires_in_sec"),
        ({"expires_in_sec": 1e300}, "expires_in_sec"),
        ({"expires_at": 1}, "expires_at"),
        ({"expires_at": 1795000000000}, "expires_at"),
        ({"expires_at": "2099-01-31T00:00:00"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": 5}, "name"),
        ({"routes": ["x"] * 101}, "routes"),
        ({"routes": ["x" * 201]}, "routes[0]"),
        ({"quota": []}, "quota"),
        ({"quota": {"usd_per_month": "5"}}, "quota.usd_per_month"),
        ({"quota": {"requests_per_minute": 10**13}}, "quota.requests_per_minute"),
    ],
)
async def test_each_field_is_checked(node, fields, path) -> None:
    """Alone, too."""
    status, document = await node.post("/api/v1/keys", {"name": "ci", **fields})

    assert status == 400
    assert [problem["path"] for problem in document["error"]["details"]["problems"]] == [path]


@pytest.mark.parametrize("body", [[], "text", 5, None])
async def test_a_body_that_is_no_object_is_refused(node, body) -> None:
    """With an example of one."""
    wanted = node.local(**{"Content-Type": "application/json"})
    async with node.session.post(
        "http://optimizer/api/v1/keys", headers=wanted, data=json.dumps(body)
    ) as response:
        assert response.status == 400
        assert "object" in (await response.json())["error"]["details"]["problems"][0]["message"]


async def test_a_revoked_key_is_out_of_the_key_file(node) -> None:
    """The worker's reader sees it; doing it again answers alike."""
    _, made = await node.post("/api/v1/keys", {"name": "ci"})
    state = node.core.state
    ring = Keyring(state.key_file, pepper=state.key_pepper, now=node.core.now)
    ring.required = True
    ring.poll()
    assert ring.identify({b"x-api-key": made["key"].encode()}).id == made["id"]

    first = await _send(node, "DELETE", f"/api/v1/keys/{made['id']}")
    again = await _send(node, "DELETE", f"/api/v1/keys/{made['id']}")

    assert first == again
    assert (first[0], first[1]["state"]) == (200, "revoked")
    ring.poll()
    with pytest.raises(Exception, match="revoked"):
        ring.identify({b"x-api-key": made["key"].encode()})


async def test_unknown_ids_are_404(node) -> None:
    """In the one shape."""
    for method in ("GET", "DELETE"):
        status, document = await _send(node, method, "/api/v1/keys/key_0000000000000000")
        assert (status, document["error"]["code"]) == (404, "NOT_FOUND")


async def test_a_refusing_disk_is_503_and_says_how_things_stand(node) -> None:
    """Nothing is pretended."""
    _, made = await node.post("/api/v1/keys", {"name": "ci"})
    node.core.state.key_file.unlink()
    node.core.state.key_file.mkdir()

    refused = await node.post("/api/v1/keys", {"name": "two"})
    kept = await _send(node, "DELETE", f"/api/v1/keys/{made['id']}")

    assert (refused[0], kept[0]) == (503, 503)
    assert "no key was made" in refused[1]["error"]["message"]
    assert "workers still accept the key" in kept[1]["error"]["message"]


async def test_keys_outlive_the_process(run_node) -> None:
    """A stopped optimizer leaves the file; the next one has the keys."""
    async with run_node() as node:
        _, made = await node.post("/api/v1/keys", {"name": "ci"})
    async with run_node() as node:
        _, listed = await node.get("/api/v1/keys")

    assert [key["id"] for key in listed["keys"]] == [made["id"]]


async def test_a_client_key_is_no_admin_key(node) -> None:
    """S5: on every endpoint, in every place, even for a request from this machine."""
    _, made = await node.post(
        "/api/v1/keys", {"name": "all", "models": ["*"], "pin": True, "passthrough": True}
    )
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace("{key_id}", made["id"]).replace("{", "").replace("}", "")
        for headers in ({"Authorization": f"Bearer {made['key']}"}, {"x-api-key": made["key"]}):
            wanted = node.local(**{"Content-Type": "application/json"}, **headers)
            async with node.session.request(
                endpoint.method, f"http://optimizer{path}", headers=wanted
            ) as response:
                assert (response.status != 401) == (endpoint.reach in OPEN), endpoint.path
    assert node.core.keys.get(made["id"]).revoked_at is None


async def test_feedback_is_bound_to_the_key_of_the_request(node) -> None:
    """A response id of another key's request looks unknown, as does a mixed batch; the own one is taken."""
    _, made = await node.post("/api/v1/keys", {"name": "ci"})
    tag = node.core.keys.get(made["id"]).tag
    own = node.worker.ids.mint(int(node.core.now() * 1000), tag)
    foreign = node.worker.ids.mint(int(node.core.now() * 1000), tag ^ 1)
    node.core.ingest.responses.add("chatcmpl-own", own)
    node.core.ingest.responses.add("chatcmpl-foreign", foreign)

    async def rate(*items: dict[str, Any], stated: str = str(tag)) -> tuple[int, Any]:
        batch = [{**item, "thumbs": "up"} for item in items]
        return await node.post("/v1/feedback", batch, **{"x-llm-optimizer-key-tag": stated})

    taken = await rate({"response_id": "chatcmpl-own"}, {"request_id": own, "source": "judge"})
    unknown = await rate({"response_id": "chatcmpl-nobody"})
    refused = await rate({"response_id": "chatcmpl-foreign"})
    mixed = await rate({"response_id": "chatcmpl-own"}, {"request_id": foreign})

    assert taken == (200, {"object": "feedback", "accepted": 2})
    assert refused == unknown
    assert (refused[0], mixed[0]) == (404, 404)
    assert mixed[1]["error"]["code"] == "unknown_request_id"
    for stated in ("", "-1", "x", "9" * 5000, f"{tag},{tag}", "٣"):
        if stated.isascii():
            assert (await rate({"response_id": "chatcmpl-own"}, stated=stated))[0] == 404


async def test_a_worker_that_names_no_key_rates_nothing_while_keys_are_asked_for(
    run_node, config_path
) -> None:
    """Whatever went wrong in it; an operator with the admin key may."""
    config_path.write_text(config_path.read_text() + "access: {client_keys: true}\n")
    async with run_node() as node:
        request_id = node.worker.ids.mint(int(node.core.now() * 1000), 7)
        rating = [{"request_id": request_id, "thumbs": "up"}]
        admin = {"Authorization": f"Bearer {node.core.state.admin_key_file.read_text().strip()}"}

        anonymous, _ = await node.post("/v1/feedback", rating)
        async with node.session.post("http://optimizer/v1/feedback", json=rating, headers=admin) as response:
            assert response.status == 200

    assert anonymous == 404
