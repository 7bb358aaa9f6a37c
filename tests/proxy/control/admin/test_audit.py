"""The audit over the admin surface: who did what, newest first, page by page."""

from typing import Any

import pytest

AUDIT = "/api/v1/audit"


async def _all(node: Any, ask: Any, query: str = "") -> list[dict[str, Any]]:
    rows, before = [], ""
    while True:
        status, page, _ = await ask(node, "GET", f"{AUDIT}?limit=2{query}{before}")
        assert status == 200, page
        assert len(page["audit"]) <= 2
        rows += page["audit"]
        if page["next"] is None:
            return rows
        before = f"&before={page['next']}"


async def test_keys_and_reloads_are_audited_with_who_did_it(node, ask, until, as_described) -> None:
    """The operator's key by its fingerprint, a local request as such; no secret in any row."""
    admin = node.core.state.admin_key_file.read_text().strip()
    _, made, _ = await ask(node, "POST", "/api/v1/keys", {"name": "ci", "routes": ["chat"]}, x_api_key=admin)
    for _ in range(2):
        await ask(node, "DELETE", f"/api/v1/keys/{made['id']}")
    await ask(node, "POST", "/api/v1/config/reload")
    node.path.write_text("routes: {chat: {arms: [nope], baseline: nope}}\n")
    assert (await ask(node, "POST", "/api/v1/config/reload"))[0] == 422

    async def written() -> bool:
        return len((await ask(node, "GET", AUDIT))[1]["audit"]) >= 4

    await until(written)
    _, page, _ = await ask(node, "GET", AUDIT)
    as_described("GET", AUDIT, page)
    rows = {(row["action"], row["detail"].get("result")): row for row in page["audit"]}

    assert len(page["audit"]) == 4
    created = rows["keys.create", None]
    assert created["actor"].startswith("admin key ")
    assert len(created["actor"]) == len("admin key ") + 8
    assert created["target"] == made["id"]
    assert created["detail"]["routes"] == ["chat"]
    assert rows["keys.revoke", None]["actor"] == "local"
    assert rows["config.reload", "unchanged"]["detail"]["problems"] == 0
    assert rows["config.reload", "rejected"]["detail"]["problems"] >= 1
    text = str(page)
    assert made["key"] not in text
    assert made["key"][-12:] not in text
    assert admin not in text


async def test_what_was_refused_is_no_change(node, ask, until) -> None:
    """Neither a bad body nor a stranger leaves a row."""
    await ask(node, "POST", "/api/v1/keys", {"name": ""})
    async with node.session.post("http://optimizer/api/v1/config/reload") as response:
        assert response.status == 401
    await ask(node, "DELETE", "/api/v1/keys/key_0000000000000000")
    await ask(node, "POST", "/api/v1/config/reload")

    async def written() -> bool:
        return bool((await ask(node, "GET", AUDIT))[1]["audit"])

    await until(written)
    assert [row["action"] for row in (await ask(node, "GET", AUDIT))[1]["audit"]] == ["config.reload"]


async def test_pages_follow_each_other_without_gap_or_repetition(node, ask, made, until) -> None:
    """By ``next``; filters hold on every page."""
    records = [await made(node, name=f"n{number}") for number in range(3)]
    for record in records:
        await ask(node, "POST", f"/api/v1/optimize/{record['id']}/rollback", {"reason": "no"})

    async def written() -> bool:
        return len(await _all(node, ask, "&actor=local")) == 6

    await until(written)
    rows = await _all(node, ask)
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
    assert len(await _all(node, ask, "&action=optimization.rollback")) == 3
    assert {row["target"] for row in await _all(node, ask, f"&target={records[0]['id']}")} == {
        records[0]["id"]
    }
    assert await _all(node, ask, "&actor=nobody") == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "before=nope", "before=%00", "who=me", "limit=1&limit=2"]
)
async def test_hostile_queries_are_refused(node, ask, query) -> None:
    """400 with the parameter."""
    status, document, _ = await ask(node, "GET", f"{AUDIT}?{query}")

    assert status == 400
    [problem] = document["error"]["details"]["problems"]
    assert problem["path"] == query.partition("=")[0]
