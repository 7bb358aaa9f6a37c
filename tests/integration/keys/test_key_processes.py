"""Client keys in the product as it is run: `llm-optimizer serve` with several workers, the command line beside it."""

import asyncio
import re
import signal
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
server: {{host: 127.0.0.1, workers: 2}}
upstreams: {{up: {{base_url: "{url}", allow_private: true}}}}
models: {{small: {{upstream: up, model: small, price: {{input: 1, output: 4}}}}}}
routes: {{chat: {{arms: [small]}}}}
access: {{client_keys: true}}
"""


async def _command(state: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy.cli", "keys", *arguments, "--state-dir", str(state),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    return out.decode().strip()


async def test_make_use_and_revoke_a_key(tmp_path, upstream):
    """The key works on every worker as soon as it is printed (or soon after), and on none a second after its end."""
    config, state = tmp_path / "config.yaml", tmp_path / "state"
    config.write_text(CONFIG.format(url=upstream.url))
    with (tmp_path / "stderr.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--state-dir", str(state),
            "--port", "0", stdout=asyncio.subprocess.PIPE, stderr=log, cwd=ROOT,
        )  # fmt: skip
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        found = re.search(r"ready on (http://\S+)", line)
        assert found, line + (tmp_path / "stderr.log").read_text()
        url = found[1]
        key = await _command(state, "create", "web")

        async def statuses() -> set[int]:
            """Of requests on fresh connections, so that both workers are asked."""
            seen = set()
            for _ in range(12):
                async with httpx.AsyncClient(trust_env=False) as http:
                    reply = await http.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
                    seen.add(reply.status_code)
            return seen

        await asyncio.sleep(0.2)
        assert await statuses() == {200}
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            answer = await client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": "hi"}]
            )
        assert answer.choices[0].message.content == "Hello"
        listed = await _command(state, "list")
        key_id = re.search(r"key_[0-9a-f]{16}", listed)[0]
        assert key not in listed

        await _command(state, "revoke", key_id)
        began = time.monotonic()
        while await statuses() != {401}:
            assert time.monotonic() - began < 1.0
        workers = [path for path in (state / "log").iterdir() if path.name.endswith("-worker")]
        assert len(workers) == 2
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 40) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if key[5:48].encode() in path.read_bytes()] == []
