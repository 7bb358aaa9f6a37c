"""Client keys end to end: real sockets, a real worker, the optimizer behind it, the official SDK in front."""

import asyncio
import os
import random
import time

import openai
import orjson
import pytest

from optimizer.ids import verify
from optimizer.keys import new_key
from proxy.app import OPTIMIZED
from proxy.control.access import Reach
from proxy.control.admin.registry import ENDPOINTS

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


async def test_the_official_sdk_works_with_a_key_and_not_without(keyed, upstream):
    """The api_key of the client is the key of the proxy; the upstream gets its own."""
    made = await keyed.make()

    async with keyed.sdk(made["key"]) as client:
        answer = await client.chat.completions.create(model="chat", messages=MESSAGES)
        assert answer.choices[0].message.content == "Hello"
    for wrong in ("sk-something-else", new_key(), made["key"][:-1]):
        async with keyed.sdk(wrong) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.chat.completions.create(model="chat", messages=MESSAGES)
            assert caught.value.code == "invalid_api_key"
            assert wrong not in str(caught.value)

    assert len(upstream.bodies) == 1
    assert upstream.headers[0]["authorization"] == "Bearer sk-planted-upstream-secret-0123456789"


async def test_the_sdk_sees_a_missing_scope_as_permission_denied(keyed, upstream):
    """403 with field and code; nothing was sent upstream."""
    made = await keyed.make(routes=["chat"])

    async with keyed.sdk(made["key"]) as client:
        await client.chat.completions.create(model="chat", messages=MESSAGES)
        for model, headers, param in (
            ("other", {}, "model"),
            ("small", {}, "model"),
            ("chat", {"x-llm-optimizer-pin": "small"}, "x-llm-optimizer-pin"),
        ):
            with pytest.raises(openai.PermissionDeniedError) as caught:
                await client.chat.completions.create(model=model, messages=MESSAGES, extra_headers=headers)
            assert (caught.value.code, caught.value.param) == ("key_scope", param)
        with pytest.raises(openai.PermissionDeniedError, match="scope `passthrough`"):
            await client.files.list()

    assert len(upstream.raw) == 1


async def test_scopes_open_what_they_name(keyed, upstream):
    """Plain models, pins and passed-through paths."""
    made = await keyed.make(models=["sm*"], pin=True, passthrough=True)

    plain = await keyed.chat(made["key"], "small")
    refused = await keyed.chat(made["key"], "large")
    pinned = await keyed.chat(made["key"], "chat", **{"x-llm-optimizer-pin": "large"})
    passed = await keyed.http.get("/v1/files", headers={"x-api-key": made["key"]})

    assert [plain.status_code, refused.status_code, pinned.status_code, passed.status_code] == [
        200,
        403,
        200,
        200,
    ]
    assert pinned.headers["x-llm-optimizer-arm"] == "large"
    assert upstream.paths[-1] == "/v1/files"


async def test_the_list_of_models_is_the_keys_own(keyed):
    """What it may not use does not exist for it, one by one either."""
    narrow = await keyed.make(routes=["o*"], models=["large"])
    wide = await keyed.make(models=["*"])

    async def listed(key):
        reply = await keyed.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        return {row["id"] for row in reply.json()["data"]}

    async def one(key, name):
        reply = await keyed.http.get(f"/v1/models/{name}", headers={"authorization": f"Bearer {key}"})
        return reply.status_code

    assert await listed(narrow["key"]) == {"other", "large"}
    assert {"chat", "other", "byok", "small", "large"} <= await listed(wide["key"])
    assert [await one(narrow["key"], name) for name in ("other", "large", "chat", "small")] == [
        200,
        200,
        404,
        404,
    ]


async def test_every_data_path_asks_for_a_key(keyed, upstream):
    """S4: whatever path and method; only health stays open, and nothing goes upstream."""
    paths = [
        *OPTIMIZED,
        "/v1/models",
        "/v1/models/chat",
        "/v1/feedback",
        "/v1/files",
        "/v1/own/x",
        "/v1/",
        "/v1/x/y",
    ]
    paths += ["/v1/chat/completions/", "/v1//chat/completions", "/v1/./models", "/v1/%6dodels"]

    seen = {}
    for path in paths:
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            request = keyed.http.build_request(method, keyed.url + path, content=b"{}")
            request.url = request.url.copy_with(raw_path=path.encode())
            seen[method, path] = (await keyed.http.send(request)).status_code

    assert {key: status for key, status in seen.items() if status != 401} == {}
    assert upstream.raw == []
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await keyed.http.get(path)).status_code == 200


async def test_a_stranger_can_not_make_us_take_a_body(keyed, raw):
    """The refusal comes after the head, long before the 20 MB that it announces."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 20000000\r\n\r\n"

    reply = await raw(keyed.url, head)

    assert reply.startswith(b"HTTP/1.1 401 ")
    assert orjson.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_api_key"


async def test_a_revoked_key_is_refused_within_a_fifth_of_a_second(keyed):
    """On a running worker, with requests going on; others are not disturbed."""
    made, other = await keyed.make(), await keyed.make("other")
    assert (await keyed.chat(made["key"])).status_code == 200

    reply = await keyed.http.request(
        "DELETE", f"/api/v1/keys/{made['id']}", headers={"content-type": "application/json"}
    )
    assert reply.status_code == 200
    began = time.monotonic()
    while (refused := await keyed.chat(made["key"])).status_code == 200:
        assert time.monotonic() - began < 1.0
    elapsed = time.monotonic() - began

    assert elapsed < 0.5  # two polls and this machine's load
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "api_key_revoked")
    assert (await keyed.chat(other["key"])).status_code == 200


async def test_a_key_expires_by_the_clock(keyed):
    """Without anybody writing a file."""
    made = await keyed.make(expires_in_sec=3600)
    assert (await keyed.chat(made["key"])).status_code == 200

    keyed.worker.keyring._now = lambda: made["expires_at"]

    refused = await keyed.chat(made["key"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "api_key_expired")


async def test_a_refusal_has_the_shape_of_openai(keyed):
    """All four fields, and an id to quote."""
    reply = await keyed.chat(None)

    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "llm-optimizer keys create" in error["message"]
    assert reply.headers["x-request-id"].startswith("req_")


async def test_keys_are_switched_on_and_off_by_a_reload(open_house, upstream):
    """At once, and back again."""
    text = open_house.config.read_text()
    made = await open_house.make()
    assert (await open_house.chat(None)).status_code == 200

    open_house.config.write_text(text.replace("client_keys: false", "client_keys: true"))
    await open_house.runtime.reload("api")
    await open_house.until(lambda: open_house.worker.keyring.required)
    assert (await open_house.chat(None)).status_code == 401
    assert (await open_house.chat(made["key"])).status_code == 200

    open_house.config.write_text(text)
    await open_house.runtime.reload("api")
    await open_house.until(lambda: not open_house.worker.keyring.required)
    assert (await open_house.chat(None)).status_code == 200


# --- S5: two worlds of keys -------------------------------------------------------------------------


async def test_a_data_key_opens_no_admin_path(keyed):
    """S5: every endpoint of the registry, through the worker, in every header a key can stand in."""
    made = await keyed.make(models=["*"], pin=True, passthrough=True)
    key = made["key"]
    places = [
        {"authorization": f"Bearer {key}"},
        {"x-api-key": key},
        {"authorization": f"Bearer {key}", "x-llm-optimizer-key": key},
    ]

    for endpoint in ENDPOINTS:
        if endpoint.reach in (Reach.HEALTH, Reach.METRICS, Reach.DATA):
            continue
        path = endpoint.path.replace("{request_id}", "req_1").replace("{key_id}", made["id"])
        for headers in places:
            reply = await keyed.http.request(endpoint.method, path, json={}, headers=headers)
            # What is for workers alone is not even forwarded.
            assert reply.status_code in ((401,) if endpoint.reach is Reach.ADMIN else (401, 404)), path
    for path in ("/api/v1/nothing", "/ui/../api/v1/keys", "/api/v1/keys/../keys"):
        assert (await keyed.http.get(path, headers=places[0])).status_code in (401, 404)
    assert keyed.core.keys.get(made["id"]).revoked_at is None
    assert len(keyed.core.keys.all()) == 1


async def test_an_admin_key_is_no_client_key(keyed, upstream):
    """S5, the other way: on the data paths it is just a wrong key, and is not echoed."""
    admin = keyed.state.admin_key_file.read_text().strip()

    for headers in (
        {"authorization": f"Bearer {admin}"},
        {"x-api-key": admin},
        {"x-llm-optimizer-key": admin},
    ):
        reply = await keyed.http.post(CHAT, json={"model": "chat", "messages": MESSAGES}, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert admin not in reply.text
    assert upstream.raw == []


async def test_nobody_can_say_in_a_header_whose_request_it_is(keyed, upstream):
    """Internal headers of a client are dropped: the tag that counts is that of the key."""
    mine, theirs = await keyed.make(), await keyed.make()
    reply = await keyed.chat(theirs["key"])
    tag = str(keyed.core.keys.get(theirs["id"]).tag)

    refused = await keyed.http.post(
        "/v1/feedback",
        json={"response_id": reply.json()["id"], "thumbs": "up"},
        headers={"authorization": f"Bearer {mine['key']}", "x-llm-optimizer-key-tag": tag},
    )

    assert refused.status_code == 404


# --- credentials and upstreams ----------------------------------------------------------------------


async def test_a_client_key_never_reaches_a_passthrough_upstream(keyed, upstream):
    """The caller's own credential does, when our key stands in its own header."""
    made = await keyed.make(passthrough=True)
    key = made["key"]

    both = {"x-llm-optimizer-key": key, "authorization": "Bearer sk-of-the-caller"}
    ok = [
        await keyed.http.post(CHAT, json={"model": "byok", "messages": MESSAGES}, headers=both),
        await keyed.http.get("/v1/own/things", headers=both),
    ]
    assert [reply.status_code for reply in ok] == [200, 200]
    assert [headers["authorization"] for headers in upstream.headers] == ["Bearer sk-of-the-caller"] * 2

    upstream.headers.clear()
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"Bearer {key}", "x-llm-optimizer-key": key},
    ):
        await keyed.http.post(CHAT, json={"model": "byok", "messages": MESSAGES}, headers=headers)
        await keyed.http.get("/v1/own/things", headers=headers)
    assert upstream.headers
    assert all("authorization" not in headers for headers in upstream.headers)
    assert not any(key in str(headers) for headers in upstream.headers)


async def test_a_client_key_is_kept_from_upstreams_with_keys_off_too(open_house, upstream):
    """Applications keep sending what they were given."""
    made = await open_house.make()

    await open_house.http.get("/v1/own/things", headers={"authorization": f"Bearer {made['key']}"})
    await open_house.http.get("/v1/own/things", headers={"authorization": "Bearer sk-of-the-caller"})

    assert [headers.get("authorization") for headers in upstream.headers] == [None, "Bearer sk-of-the-caller"]


# --- feedback ---------------------------------------------------------------------------------------


async def _rate(keyed, key, *items):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    batch = [{"thumbs": "up", **item} for item in items]
    return await keyed.http.post("/v1/feedback", json=batch, headers=headers)


async def test_feedback_is_for_the_key_that_made_the_request(keyed):
    """By request id and by response id; that of others reads exactly like an id that never existed."""
    mine, theirs = await keyed.make(), await keyed.make()
    own, foreign = await keyed.chat(mine["key"]), await keyed.chat(theirs["key"])
    own_id, foreign_id = (reply.headers["x-request-id"] for reply in (own, foreign))
    named = verify(own_id, keyed.state.id_key)
    assert named.key_tag == keyed.core.keys.get(mine["id"]).tag
    unknown_id = f"req_{'0' * 60}"

    taken = await _rate(keyed, mine["key"], {"request_id": own_id})
    refused = await _rate(keyed, mine["key"], {"request_id": foreign_id})
    mixed = await _rate(keyed, mine["key"], {"request_id": own_id}, {"request_id": foreign_id})
    unknown = await _rate(keyed, mine["key"], {"request_id": unknown_id})
    anonymous = await _rate(keyed, None, {"request_id": own_id})

    assert taken.status_code == 200
    assert (refused.status_code, refused.json()) == (unknown.status_code, unknown.json())
    assert [refused.status_code, mixed.status_code, anonymous.status_code] == [404, 404, 401]
    await keyed.until(lambda: keyed.core.ingest.learner.counts["feedback_learned"] == 1)
    assert keyed.core.ingest.learner.counts["feedback_accepted"] == 1


async def test_feedback_by_response_id_is_bound_too(keyed, upstream):
    """The optimizer, which resolves the id, checks what the worker says about the caller."""
    mine, theirs = await keyed.make(), await keyed.make()
    reply = await keyed.chat(mine["key"])
    response_id = reply.json()["id"]
    await keyed.until(lambda: keyed.core.ingest.responses.lookup(response_id) is not None)

    refused = await _rate(keyed, theirs["key"], {"response_id": response_id})
    unknown = await _rate(keyed, theirs["key"], {"response_id": "chatcmpl-nobodys"})
    taken = await _rate(keyed, mine["key"], {"response_id": response_id})

    assert (refused.status_code, refused.json()) == (unknown.status_code, unknown.json())
    assert (refused.status_code, taken.status_code) == (404, 200)


async def test_requests_made_without_a_key_can_not_be_rated_with_one(open_house):
    """Their ids carry no tag; with keys off anybody may, as before."""
    reply = await open_house.chat(None)
    item = {"request_id": reply.headers["x-request-id"]}
    assert (await _rate(open_house, None, item)).status_code == 200
    made = await open_house.make()

    open_house.worker.keyring.required = True

    assert (await _rate(open_house, made["key"], item)).status_code == 404


async def test_a_source_rates_once_whatever_it_sends(keyed):
    """New idempotency keys are no new votes; not for a counter either. Another source is another vote."""
    made = await keyed.make()
    request_id = (await keyed.chat(made["key"])).headers["x-request-id"]
    counts = keyed.core.ingest.learner.counts

    for number in range(5):
        await _rate(keyed, made["key"], {"request_id": request_id, "idempotency_key": f"k{number}"})
        for metric in ("quality", "orders", "score"):
            item = {"request_id": request_id, "metric": metric, "value": 1, "idempotency_key": f"k{number}"}
            headers = {"authorization": f"Bearer {made['key']}"}
            assert (await keyed.http.post("/v1/feedback", json=item, headers=headers)).status_code == 200
    await _rate(keyed, made["key"], {"request_id": request_id, "source": "judge"})

    await keyed.until(lambda: counts["feedback_accepted"] + counts["feedback_repeated"] == 21)
    assert counts["feedback_accepted"] == 3


# --- S3, S6, S8 -------------------------------------------------------------------------------------


async def test_any_authorization_is_answered_and_none_gets_in(keyed, upstream, raw):
    """S3: raw bytes on the wire, well-formed HTTP or not; 400 or 401, and the worker serves on."""
    made = await keyed.make()
    draw = random.Random(5)
    pieces = [
        made["key"][:20].encode(), b"Bearer ", b"llmo-", b"Basic ", b", ", b"\t", b"\x00", b"\xff\xfe", b"%00",
        b"' OR 1=1 --", b'"; DROP TABLE client_keys; --', b"${jndi:x}", b"{{7*7}}", b"a" * 3000,
        b"../../secrets/id.key",
    ]  # fmt: skip

    for _ in range(150):
        value = b"".join(draw.choices(pieces, k=draw.randint(1, 4)))
        name = draw.choice([b"authorization", b"x-api-key", b"api-key", b"x-llm-optimizer-key"])
        head = b"POST /v1/feedback HTTP/1.1\r\nhost: x\r\n%b: %b\r\ncontent-length: 0\r\n\r\n" % (name, value)
        status = (await raw(keyed.url, head))[9:12]
        assert status in (b"400", b"401", b"431"), (status, value)

    assert upstream.raw == []
    assert (await keyed.chat(made["key"])).status_code == 200
    assert [key.id for key in keyed.core.keys.all()] == [made["id"]]


async def test_a_broken_keyring_denies_everybody(keyed, upstream):
    """S6: neither an exception, nor a lost file, nor a worker without keys lets anybody in."""
    made = await keyed.make()
    ring = keyed.worker.keyring
    keys = ring._keys

    ring._keys = None
    broken = await keyed.chat(made["key"])
    anonymous = await keyed.chat(None)
    ring._keys = keys
    assert (broken.status_code, anonymous.status_code) == (401, 401)

    keyed.state.key_file.unlink()
    await keyed.until(lambda: not len(ring))
    assert (await keyed.chat(made["key"])).status_code == 401
    assert upstream.raw == []

    await keyed.make("again")
    assert (await keyed.chat(made["key"])).status_code == 200


async def test_a_damaged_key_file_changes_nothing_and_is_counted(keyed):
    """Applications go on; the next change repairs it."""
    made = await keyed.make()
    temporary = keyed.state.key_file.with_suffix(".tmp")
    temporary.write_bytes(b"{}\nnonsense\n")
    os.rename(temporary, keyed.state.key_file)

    await keyed.until(lambda: keyed.worker.keyring.refused.total() == 1)
    assert (await keyed.chat(made["key"])).status_code == 200

    other = await keyed.make("repair")
    assert (await keyed.chat(other["key"])).status_code == 200


async def test_the_optimizers_end_does_not_end_the_keys(keyed, upstream):
    """Requests need no process beside the worker."""
    made = await keyed.make()
    await keyed.runtime.tasks.close()

    assert (await keyed.chat(made["key"])).status_code == 200
    assert (await keyed.chat(new_key())).status_code == 401


async def test_a_key_leaves_no_trace(keyed, upstream, caplog, capfd):
    """S8: not in a log, an event, a metric, an answer, a file or a request upstream, whichever way it was used."""
    caplog.set_level("DEBUG")
    made = await keyed.make(models=["*"], pin=True, passthrough=True, quota={"requests_per_minute": 1000})
    key = made["key"]
    bearer = {"authorization": f"Bearer {key}"}
    replies = [
        await keyed.chat(key),
        await keyed.chat(key, "nothing-of-that-name"),
        await keyed.chat(key + "x"),
        await keyed.chat(f"{key} {key}"),
        await keyed.chat(key, **{"x-api-key": new_key()}),
        await keyed.chat(key, **{"x-llm-optimizer-pin": "no-such-arm"}),
        await keyed.http.get("/v1/models", headers=bearer),
        await keyed.http.get("/v1/files", headers=bearer),
        await keyed.http.post("/v1/feedback", content=b"{", headers=bearer),
        await keyed.http.post("/v1/feedback", json={"response_id": "none", "thumbs": "up"}, headers=bearer),
        await keyed.http.get("/api/v1/keys", headers=bearer),
        await keyed.http.get("/nowhere", headers=bearer),
        await keyed.http.get("/api/v1/keys"),
        await keyed.http.get(f"/api/v1/keys/{made['id']}"),
        await keyed.http.get("/api/v1/config/export"),
        await keyed.http.get("/metrics"),
        await keyed.http.get("/health/detailed"),
        await keyed.http.post("/api/v1/keys", json={"name": "x\n" + key}),
    ]
    keyed.worker.keyring._keys = None
    replies.append(await keyed.chat(key))
    await keyed.http.request("DELETE", f"/api/v1/keys/{made['id']}", json={})
    await asyncio.sleep(0.3)  # what is buffered gets written

    secret = key[5:48]
    digest = keyed.core.keys.get(made["id"]).digest
    assert not any(secret in reply.text or secret in str(reply.headers) for reply in replies)
    assert not any(digest in reply.text for reply in replies)
    captured = capfd.readouterr()
    assert secret not in caplog.text + captured.out + captured.err
    assert digest not in caplog.text + captured.out + captured.err
    assert not any(secret in str(headers) for headers in upstream.headers)
    assert not any(secret.encode() in body for body in upstream.raw)
    files = [path for path in keyed.state.path.rglob("*") if path.is_file()]
    assert [path.name for path in files if secret.encode() in path.read_bytes()] == []
    holders = {path.name.partition("-")[0] for path in files if digest.encode() in path.read_bytes()}
    assert holders <= {"keys.json", "control.sqlite3"}
