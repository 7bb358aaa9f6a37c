"""Clients that applications use, as they come from their registries, against the product over real sockets.

A script is a client's whole life: it asks, streams, calls tools, fails in the client's own way, and rates an answer.
What a script says of an answer must be what the product has logged of it.
"""

import json
import subprocess
import sys

import pytest

from .conftest import HERE, Product

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

EVERY = {"chat", "stream", "tools", "error", "limit", "feedback"}
OPENAI = EVERY | {"structured", "responses", "embeddings", "key"}
PYTHON = {
    "openai_sdk": OPENAI | {"models", "async"},
    "anthropic_sdk": EVERY | {"count", "key"},
    "langchain_client": OPENAI - {"key"} | {"response_id", "async"},
    "llamaindex_client": EVERY | {"structured", "embeddings", "async"},
    "litellm_client": OPENAI | {"scope", "async"},
}
NODE = {
    "openai_sdk": OPENAI,
    "anthropic_sdk": EVERY | {"count", "key"},
    "vercel_ai": OPENAI,
}
UNKNOWN_MODEL = {"model_not_found", "not_found_error", 404}
OVER_LIMIT = {"rate_limit_exceeded", "rate_limit_error", 429}
UNKNOWN_KEY = {"invalid_api_key", "authentication_error", 401}


def run(command: list[str], environment: dict[str, str], product: Product, steps: set[str]) -> None:
    """Run a script to its end, and hold what it said against the log."""
    done = subprocess.run(
        command, cwd=HERE / "node", env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"step"')]
    told = {line.pop("step"): line for line in lines}

    assert set(told) == steps
    assert told["error"]["code"] in UNKNOWN_MODEL
    assert told["limit"]["code"] in OVER_LIMIT
    assert told.get("key", {"code": 401})["code"] in UNKNOWN_KEY
    assert "scope `models`" in told.get("scope", {"words": "scope `models`"})["words"]
    chat = told["chat"]
    if "response_id" in chat:
        request = product.logged("request", **{"gen_ai.response.id": chat["response_id"]})
    else:
        request = product.logged("request", id=chat["request_id"])
        assert request["arm"] == chat["arm"]
    assert (request["route"], request["outcome"]) == ("auto", "completed")
    rating = product.logged("feedback", request_id=request["id"])
    assert rating["value"] == 1.0


@pytest.mark.parametrize("script", PYTHON)
def test_python_clients(clients, environment, product, script):
    """With whatever versions of the SDKs below them these clients bring."""
    run([clients, str(HERE / "python" / f"{script}.py")], environment, product, PYTHON[script])


@pytest.mark.parametrize("script", ["openai_sdk", "anthropic_sdk"])
def test_the_newest_sdks(environment, product, script):
    """Those that the demo and our tests use, which may be a major version ahead of what other clients take."""
    pytest.importorskip(script.removesuffix("_sdk"))
    run([sys.executable, str(HERE / "python" / f"{script}.py")], environment, product, PYTHON[script])


@pytest.mark.parametrize("script", NODE)
def test_node_clients(node, environment, product, script):
    """Modules of Node.js, found in node_modules beside the script."""
    run([node, str(HERE / "node" / f"{script}.mjs")], environment, product, NODE[script])
