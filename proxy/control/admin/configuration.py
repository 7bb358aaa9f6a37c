"""The configuration: reload, export, validate."""

from typing import Any

from aiohttp import web

from proxy.config.export import export
from proxy.config.problems import ConfigProblems, Problem
from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.admin.models_live import ExportQuery
from proxy.control.admin.reading import read_query
from proxy.control.configuration import REJECTED


async def reload(call: Call) -> web.StreamResponse:
    """Read the file again; 422 with every problem when it is refused, and then nothing has changed."""
    result = await call.services.reload("api")
    call.services.audit(
        call.actor,
        "config.reload",
        result.config_hash,
        {"result": result.result, "generation": result.generation, "problems": len(result.problems)},
    )
    if result.result == REJECTED:
        raise AdminFault(
            422,
            "INVALID_CONFIGURATION",
            "The configuration is refused; the old one stays in use.",
            {"problems": _rendered(result.problems)},
        )
    return answer(
        {
            "result": result.result,
            "config_hash": result.config_hash,
            "generation": result.generation,
            "table_version": call.services.core.learners.table_version,
            "needs_restart": list(result.needs_restart),
            "superseded": list(result.superseded),
            "notes": list(result.notes),
        }
    )


async def export_yaml(call: Call) -> web.StreamResponse:
    """YAML that loads again, without secrets: effective with what is deployed, or as written with ``?source=file``."""
    source = read_query(call, ExportQuery).source
    text = export(call.services.core.configuration.loaded, source=source, overlays=call.services.overlaying())
    return web.Response(text=text, content_type="application/yaml", charset="utf-8")


async def validate(call: Call) -> web.StreamResponse:
    """Check a configuration without using it: ``{"config": "<yaml>"}``, or the YAML itself as the body."""
    text = await _offered_text(call)
    try:
        loaded = call.services.core.configuration.check(text)
    except ConfigProblems as refused:
        return answer({"valid": False, "problems": _rendered(refused.problems), "notes": []})
    return answer(
        {
            "valid": True,
            "problems": [],
            "notes": [str(note) for note in loaded.notes],
            "config_hash": loaded.settings.config_hash,
            "routes": [route.name for route in loaded.settings.routes],
        }
    )


async def _offered_text(call: Call) -> str:
    if call.request.content_type == "application/json":
        document = await call.document()
        text = document.get("config") if isinstance(document, dict) else None
        if not isinstance(text, str):
            raise AdminFault(400, "INVALID_REQUEST", 'Send {"config": "<the YAML as text>"}.')
        return text
    try:
        return (await call.body()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AdminFault(400, "INVALID_REQUEST", "The body is not UTF-8 text.") from error


def _rendered(problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
    return [
        {
            "path": problem.path,
            "message": problem.message,
            "suggestion": problem.suggestion,
            "line": problem.line,
        }
        for problem in problems
    ]
