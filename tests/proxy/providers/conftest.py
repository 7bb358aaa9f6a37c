"""Requests, arms and streams that the provider tests share."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from optimizer.routing import Arm, Model, Upstream, Variant
from proxy.envelope import Envelope, parse


@pytest.fixture
def ask() -> Callable[..., Envelope]:
    """Build the envelope of a chat request with the given fields."""

    def build(endpoint: str = "chat", **fields: Any) -> Envelope:
        payload = {
            "chat": {"messages": [{"role": "user", "content": "why?"}]},
            "completions": {"prompt": "why?"},
            "embeddings": {"input": "why?"},
            "responses": {"input": "why?"},
        }[endpoint]
        return parse(endpoint, orjson.dumps({"model": "gpt-4", **payload, **fields}))

    return build


@pytest.fixture
def arm() -> Arm:
    return Arm("a", "m", "default", "mk", "vk")


@pytest.fixture
def identity() -> Variant:
    return Variant("default", "vk")


@pytest.fixture
def model() -> Model:
    return Model(
        "m",
        "up",
        "the-model",
        "key",
        max_output_tokens=1000,
        capabilities=frozenset({"stream_usage", "tools"}),
    )


@pytest.fixture
def upstream() -> Upstream:
    return Upstream("up", "openai", "https://api.example/v1", secret="env:KEY")
