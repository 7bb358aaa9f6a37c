"""The disk below the running product fills up: serving never notices, losses are counted, and it recovers."""

import asyncio
import re
import subprocess
import time

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CHAT = "/v1/chat/completions"
BODY = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
SIZE_MB = 200  # twice the writers' reserve of 64 MB, which statistics leave alone, and some room
BALLAST_MB = 160


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=0700", "tmpfs", disk]
    mounted = subprocess.run(command, capture_output=True, check=False, timeout=20)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=False, timeout=20)


async def test_a_full_disk_fails_no_request_and_loses_nothing_unseen(start, small_disk):
    """While it is full events are lost and counted, exactly; with room again they are logged and learned."""
    product = await start(workers=2, state=small_disk / "state")
    ballast = small_disk / "ballast"
    async with httpx.AsyncClient(base_url=product.url, timeout=20, trust_env=False) as http:

        async def ask(count):
            ids = []
            for _ in range(count):
                reply = await http.post(CHAT, json=BODY)
                assert reply.status_code == 200
                ids.append(reply.headers["x-request-id"])
            return ids

        async def metric(pattern):
            found = re.search(pattern, (await http.get("/metrics")).text, re.MULTILINE)
            return float(found[1]) if found else 0.0

        before = await ask(30)
        await asyncio.to_thread(ballast.write_bytes, bytes(BALLAST_MB * 1024 * 1024))
        await asyncio.sleep(1.2)  # the writers look at the disk once a second
        during = await ask(100)
        ready = (await http.get("/health/ready")).status_code
        await asyncio.to_thread(ballast.unlink)
        await asyncio.sleep(1.2)
        after = await ask(30)

        logged = product.logged()
        lost = 160 - sum(logged.values())
        end = time.monotonic() + 15
        while await metric(r'^llm_optimizer_events_lost_total\{reason="disk_full"\} (\S+)') < lost:
            assert time.monotonic() < end, "the lost events were not counted"
            await asyncio.sleep(0.2)

        async def pulls():
            reply = await http.get("/api/v1/arms")
            return sum(arm["pulls"] for arm in reply.json()["arms"])

        while await pulls() < 60:
            assert time.monotonic() < end, "what was logged was not learned"
            await asyncio.sleep(0.2)
        learned = await pulls()

    assert ready == 200
    assert set(before) <= set(logged)
    assert set(after) <= set(logged)
    assert not set(during) & set(logged)
    assert lost == 100
    assert learned == 60
