"""The OpenAPI 3.1 document of the admin surface, made from the registry and its pydantic models.

Nothing is written twice: what an endpoint reads and answers is described by the models that its line in the registry
names, so an endpoint that is registered is described.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from proxy.control.access import Reach
from proxy.control.admin.endpoint import Call, Endpoint
from proxy.control.admin.models_live import ErrorAnswer

VERSION: Final = "3.1.0"

_REF: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_PATH_NAME = re.compile(r"{(\w+)}")
_HEADERS: Final[Mapping[str, str]] = {
    "Idempotency-Key": "The same key with the same request gets the first answer again, and does nothing twice.",
    "If-Match": "A revision (the ETag of an answer); 412 when it has changed since.",
    "If-None-Match": "A revision; 304 while it has not changed.",
}
_STATUSES: Final[Mapping[int, str]] = {
    304: "Not changed",
    400: "The request is not valid; details.problems names every field",
    401: "No admin key, and not a local request",
    404: "There is none of that name",
    409: "Not in the state that it is in",
    412: "It has changed meanwhile",
    413: "The body is too large",
    422: "The configuration is refused; details.problems says why",
    500: "A fault of ours; the log says which",
    503: "Something that is needed is away; nothing has changed",
    504: "Another node, whose it is, did not answer; it may be done",
}
_OPEN: Final = frozenset((Reach.HEALTH, Reach.METRICS))


class Document:
    """The document of one application. It is made when somebody asks for it, because that takes a tenth of a second."""

    def __init__(self, endpoints: Sequence[Endpoint], *, version: str) -> None:
        self._endpoints = endpoints
        self._version = version
        self._made: bytes | None = None

    async def text(self) -> bytes:
        """The document as JSON."""
        if self._made is None:
            self._made = await asyncio.to_thread(self._make)
        return self._made

    def _make(self) -> bytes:
        return orjson.dumps(describe(self._endpoints, version=self._version))


DOCUMENT: Final = web.AppKey("openapi", Document)


async def document(call: Call) -> web.StreamResponse:
    """The OpenAPI document."""
    return web.Response(body=await call.request.app[DOCUMENT].text(), content_type=_JSON)


def describe(endpoints: Sequence[Endpoint], *, version: str) -> dict[str, Any]:
    """The document of ``endpoints``."""
    references, schemas = _schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, references)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": VERSION,
        "info": {
            "title": "LLM Auto Optimizer",
            "version": version,
            "description": (
                "The admin surface. Times are Unix seconds, percentages 0 to 100, shares 0 to 1. Requests from the "
                "same machine to localhost need no key unless `admin.require_key` is set."
            ),
        },
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The admin key."},
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "The admin key.",
                },
            },
        },
    }


def _schemas(
    endpoints: Sequence[Endpoint],
) -> tuple[dict[tuple[type[BaseModel], JsonSchemaMode], dict[str, Any]], dict[str, Any]]:
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(ErrorAnswer, "serialization"): None}
    for endpoint in endpoints:
        about = endpoint.about
        if about.asks is not None:
            wanted[about.asks, "validation"] = None
        if about.answers is not None:
            wanted[about.answers, "serialization"] = None
    references, definitions = models_json_schema(list(wanted), ref_template=_REF)
    found = {(model, mode): references[model, mode] for model, mode in wanted}
    return found, definitions["$defs"]


def _operation(
    endpoint: Endpoint, references: Mapping[tuple[type[BaseModel], JsonSchemaMode], dict[str, Any]]
) -> dict[str, Any]:
    about = endpoint.about
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": about.summary,
        "tags": [_tag(endpoint.path)],
        "parameters": list(_parameters(endpoint)),
        "responses": dict(_responses(endpoint, references)),
    }
    if about.asks is not None:
        content = {_JSON: {"schema": references[about.asks, "validation"]}}
        operation["requestBody"] = {"required": not about.optional_body, "content": content}
    if endpoint.reach in _OPEN:
        operation["security"] = [{}]
    if endpoint.reach is Reach.WORKER:
        operation["x-internal"] = True
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    words = [word for word in re.split(r"[/.{}]+", endpoint.path) if word not in ("", "api", "v1")]
    return "_".join((endpoint.method.lower(), *words)) + (
        "" if endpoint.path.startswith("/api/") else "_at_root"
    )


def _tag(path: str) -> str:
    return next((word for word in path.split("/") if word not in ("", "api", "v1")), "admin").partition(".")[
        0
    ]


def _parameters(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    for name in _PATH_NAME.findall(endpoint.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    about = endpoint.about
    if about.query is not None:
        schema = about.query.model_json_schema(ref_template=_REF)
        for name, field in schema["properties"].items():
            shown = {key: value for key, value in field.items() if key not in ("description", "title")}
            yield {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", ()),
                "description": field.get("description", ""),
                "schema": shown,
            }
    for name in about.headers:
        yield {
            "name": name,
            "in": "header",
            "required": False,
            "description": _HEADERS[name],
            "schema": {"type": "string"},
        }


def _responses(
    endpoint: Endpoint, references: Mapping[tuple[type[BaseModel], JsonSchemaMode], dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    about = endpoint.about
    for status in about.success:
        shape: dict[str, Any] = {"description": "Accepted, still to be done" if status == 202 else "Done"}
        if about.answers is not None:
            shape["content"] = {about.media: {"schema": references[about.answers, "serialization"]}}
        else:
            shape["content"] = {about.media: {"schema": {"type": "string"}}}
        if "If-Match" in about.headers or "If-None-Match" in about.headers:
            shape["headers"] = {"ETag": {"schema": {"type": "string"}, "description": "The revision."}}
        yield str(status), shape
    fault = {_JSON: {"schema": references[ErrorAnswer, "serialization"]}}
    closed = () if endpoint.reach in _OPEN else (401,)
    checked = (400,) if about.asks is not None or about.query is not None or about.headers else ()
    for status in sorted({*closed, *checked, *about.also, 500}):
        content = {} if status == 304 else {"content": fault}
        yield str(status), {"description": _STATUSES[status], **content}
