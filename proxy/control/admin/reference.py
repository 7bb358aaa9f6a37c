"""The reference of the HTTP surface, as Markdown: ``python -m proxy.control.admin.reference > docs/api-reference.md``.

The admin part is read from the OpenAPI document, which is made from the registry. A test compares the two.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from proxy.app import OPTIMIZED
from proxy.control.admin.openapi import describe
from proxy.control.admin.registry import ENDPOINTS

Schema: TypeAlias = Mapping[str, Any]

_HEAD: Final = """\
# HTTP API

<!-- Written by `python -m proxy.control.admin.reference > docs/api-reference.md`.
     To change something change proxy/control/admin/registry.py and the models that it names. -->

Two surfaces share one port. What applications call lives below `/v1` and has the shapes of the providers' own APIs;
what operators call lives below `/api/v1`, `/health`, `/metrics` and `/ui`.

## For applications

| Path | What it is |
|---|---|
{optimized}
| `POST /v1/messages/count_tokens` | input tokens that a message would take, counted or estimated |
| `GET /v1/models`, `GET /v1/models/NAME` | routes and models that the caller may use |
| `POST /v1/feedback` | ratings of answers; see below |
| any other path below `/v1` | carried to the upstream that `passthrough` names for it |

Request headers:

| Header | Meaning |
|---|---|
| `x-llm-optimizer-pin` | an arm of the route, which is then used instead of drawing one |
| `x-llm-optimizer-key` | the client key, where `authorization` belongs to the provider |
| `x-llm-optimizer-cache` | `bypass`: neither take nor leave a kept answer |

Replies carry headers that begin with `x-llm-optimizer-`: `request-id`, `route`, `arm`, `model`, `variant`, `side`,
`attempts`, `overhead-ms` and, where the whole reply is known before it is sent, `cost-usd`. Some have
`upstream-request-id` (the provider's own id), `cache` (`hit`, `miss`, `bypass`; routes with a cache), `left-out`
(members that a translated message lost) or `token-count` (`counted`, `estimated`).

Errors have OpenAI's shape, `{{"error": {{"message", "type", "param", "code"}}}}`, whoever failed; below
`/v1/messages` Anthropic's, `{{"type": "error", "error": {{"type", "message"}}, "request_id"}}`.

## For operators

{description} Everything but `/health` and, with `admin.metrics_open`, `/metrics` asks others for the admin key:
`Authorization: Bearer KEY` or `x-api-key: KEY`. Errors have one shape, `{{"error": {{"code", "message", "details"}}}}`.
The same for programs: `GET /openapi.json`. Open to everybody besides: `GET /health` and `/health/live` (it runs),
`/health/ready` (it has a routing table and is not draining, else 503), and the files of the page below `/ui`.

"""


def page() -> str:
    """The whole page."""
    document = describe(ENDPOINTS, version="")
    operations = list(_operations(document))
    rows = [
        f"| [`{method} {path}`](#{_anchor(method, path)}) | {operation['summary']} |"
        for method, path, operation in operations
    ]
    optimized = "\n".join(f"| `POST {path}` | optimized |" for path in OPTIMIZED)
    head = _HEAD.format(optimized=optimized, description=document["info"]["description"])
    parts = [head, "| Endpoint | What it does |\n|---|---|\n", "\n".join(rows), "\n"]
    schemas: Schema = document["components"]["schemas"]
    parts.extend(_section(method, path, operation) for method, path, operation in operations)
    parts.append("\n## Shapes\n")
    parts.extend(_shape(name, schemas[name]) for name in sorted(schemas))
    return "".join(parts)


def _operations(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not operation.get("x-internal"):
                yield method.upper(), path, operation


def _anchor(method: str, path: str) -> str:
    kept = "".join(letter for letter in path.lower() if letter.isalnum() or letter in "-_")
    return f"{method.lower()}-{kept}"


def _section(method: str, path: str, operation: Schema) -> str:
    lines = [f"\n### {method} {path}\n", f"{operation['summary']}.\n"]
    asked = [row for row in operation["parameters"] if row["in"] != "path"]
    if asked:
        lines.append("| Parameter | In | Type | Meaning |\n|---|---|---|---|")
        lines.extend(
            f"| `{row['name']}` | {row['in']} | {_type(row['schema'])} | {_cell(row.get('description', ''))} |"
            for row in asked
        )
        lines.append("")
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]
        needed = "" if body["required"] else ", which may be left out"
        lines.append(f"Body{needed}: {_type(schema)}.\n")
    lines.append("| Status | Meaning | Body |\n|---|---|---|")
    for status, response in operation["responses"].items():
        media = next(iter(response.get("content", {}).items()), None)
        shown = "" if media is None else _body(*media)
        lines.append(f"| {status} | {_cell(response['description'])} | {shown} |")
    return "\n".join(lines) + "\n"


def _body(media: str, content: Schema) -> str:
    return (
        _type(content["schema"])
        if media == "application/json" and "$ref" in content["schema"]
        else f"`{media}`"
    )


def _shape(name: str, schema: Schema) -> str:
    lines = [f"\n### {name}\n"]
    if schema.get("description"):
        lines.append(" ".join(schema["description"].split()).replace("``", "`") + "\n")
    properties = schema.get("properties")
    if not properties:
        lines.append(f"{_type(schema)}\n")
        return "\n".join(lines)
    required = schema.get("required", ())
    lines.append("| Field | Type | |\n|---|---|---|")
    for field, about in properties.items():
        meaning = _cell(about.get("description", ""))
        default = about.get("default")
        if field not in required and default is not None:
            meaning = f"{meaning} Default `{json.dumps(default)}`.".strip()
        lines.append(f"| `{field}` | {_type(about)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _type(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(_type(one) for one in schema.get("anyOf") or schema["oneOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
