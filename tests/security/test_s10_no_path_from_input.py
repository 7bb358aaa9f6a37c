"""S10, a file path from input: LiteLLM CVE-2024-4888 (delete), h2oGPT CVE-2026-65700 (the bearer token as a path).

Whatever text a caller can place is a path here, to a file that exists and to one that would be made; no reply shows the
one, and the other is not there afterwards.
"""

import asyncio
from pathlib import Path

import pytest

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


def tree(path: Path) -> set[str]:
    """Files and directories below, apart from log segments, which come and go by number."""
    return {
        str(found.relative_to(path))
        for found in path.rglob("*")
        if "log/" not in str(found.relative_to(path))
    }


def hostile(target: Path) -> list[str]:
    return [
        str(target), f"../../../../../../../..{target}", f"file://{target}", f"file:{target}", f"..%2f..%2f..{target}",
        f"{target}\x00.json", f"....//....//..{target}", f"~{target}", f"env:HOME{target}",
    ]  # fmt: skip


async def everywhere(proxy, text: str) -> list[str]:
    """Send ``text`` wherever a caller can place one; the replies."""
    header = text.replace("\x00", "")
    headers = dict.fromkeys(("authorization", "x-api-key", "x-session-id", "idempotency-key"), header)
    replies = [
        await proxy.client.post("/v1/chat/completions", json=document, headers=headers)
        for document in (
            CHAT | {"model": text},
            CHAT | {"user": text, "metadata": {"path": text, "file": text}},
            CHAT | {"file": text, "cache": {"dir": text}, "messages": [{"role": "user", "content": text}]},
        )
    ]
    feedback = {"request_id": text, "response_id": text, "score": 1, "comment": text, "source": text}
    replies.append(await proxy.client.post("/v1/feedback", json=feedback))
    for path in ("/v1/models/", "/v1/files/", "/", "/api/v1/decisions/", "/ui/"):
        replies += [await proxy.client.get(path + header)]
    return [reply.text for reply in replies]


async def test_no_text_of_a_caller_becomes_a_path(proxy, upstream, tmp_path):
    planted = tmp_path / "planted.txt"
    planted.write_text("Zq3Planted-file-content")
    before = tree(tmp_path)
    replies: list[str] = []
    for target in (planted, tmp_path / "made" / "file"):
        for text in hostile(target):
            replies += await everywhere(proxy, text)
    await asyncio.sleep(0)
    assert tree(tmp_path) == before
    assert all("Zq3Planted" not in reply for reply in replies)
    assert planted.read_text() == "Zq3Planted-file-content"


@pytest.mark.parametrize("text", ["file:/etc/passwd", "env:HOME", "${HOME}", "literal:0123"])
async def test_a_reference_to_a_secret_in_a_request_is_text(proxy, upstream, text):
    """MLflow CVE-2026-4035 resolved any $ENV; here only the configuration names secrets."""
    document = CHAT | {"user": text, "messages": [{"role": "user", "content": text}]}
    reply = await proxy.client.post(
        "/v1/chat/completions", json=document, headers={"authorization": f"Bearer {text}"}
    )
    assert reply.status_code == 200
    assert upstream.bodies[-1]["messages"] == document["messages"]
    assert upstream.bodies[-1]["user"] == text
    assert "root:" not in upstream.raw[-1].decode()
