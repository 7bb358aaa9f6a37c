"""Optimizations over the admin surface of a running node."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from proxy.control.admin.registry import ENDPOINTS

CHEAPER = {"name": "Cheaper", "strategy": "manual", "parameters": {"arms": ["small"], "baseline": "small"}}

Ask = Callable[..., Awaitable[tuple[int, Any, dict[str, str]]]]


@pytest.fixture
def ask() -> Ask:
    """``status, document, headers = await ask(node, method, path, document)``; ``body`` sends raw bytes."""

    async def send(
        node: Any, method: str, path: str, document: Any = None, *, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        wanted = node.local(
            **{"Content-Type": "application/json"}, **{k.replace("_", "-"): v for k, v in headers.items()}
        )
        data = body if body is not None else (orjson.dumps(document) if document is not None else b"")
        url = f"http://optimizer{path}"
        async with node.session.request(method, url, headers=wanted, data=data) as response:
            text = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, orjson.loads(text) if is_json and text else text, response.headers

    return send


@pytest.fixture
def made(ask: Ask) -> Callable[..., Awaitable[dict[str, Any]]]:
    """An optimization with a proposal."""

    async def create(node: Any, **fields: Any) -> dict[str, Any]:
        status, document, _ = await ask(node, "POST", "/api/v1/optimize", {**CHEAPER, **fields})
        assert status == 201, document
        return document

    return create


def model_of(method: str, path: str) -> type[BaseModel]:
    """What the registry says that an endpoint answers."""
    [endpoint] = [e for e in ENDPOINTS if (e.method, e.path) == (method, path)]
    assert endpoint.about.answers is not None
    return endpoint.about.answers


@pytest.fixture
def as_described() -> Callable[[str, str, Any], None]:
    """Fails unless a document is exactly what its endpoint's model describes: nothing missing, nothing unsaid."""

    def check(method: str, path: str, document: Any) -> None:
        model = model_of(method, path)
        described = model.model_validate(document, strict=False).model_dump(mode="json", exclude_unset=True)
        assert described == document

    return check
