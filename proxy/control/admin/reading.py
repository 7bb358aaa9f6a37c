"""Reading requests: a body or a query becomes a pydantic model, or a 400 that tells every problem with its field.

The invariant is that an unknown name is a problem and never ignored: a misspelt ``percentage`` must not become a
rollout of another size.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.config.problems import Problem, show_path, suggest
from proxy.control.admin.endpoint import AdminFault, Call

MOST_BYTES: Final = 64 * 1024
"""Of a body: four times what the largest field may take. What one says is kept, logged and published."""
MOST_PROBLEMS: Final = 100
"""Problems that one answer tells; looking for what was meant takes time for each."""
_SHOWN: Final = 100
"""Characters of a caller's own name for a field that a message repeats."""

ModelT = TypeVar("ModelT", bound=BaseModel)


def refusal(message: str, problems: Iterable[Problem]) -> AdminFault:
    """The 400 with all of ``problems``."""
    rows = [
        {"path": problem.path, "message": problem.message, "suggestion": problem.suggestion}
        for problem in problems
    ]
    return AdminFault(400, "INVALID_REQUEST", message, {"problems": rows})


async def read_body(call: Call, model: type[ModelT], *, optional: bool = False) -> ModelT:
    """The body as ``model``; an ``optional`` one may be left out.

    Raises:
        AdminFault: 400 with every problem, 408 or 413.
    """
    given = await call.body()
    if len(given) > MOST_BYTES:
        raise AdminFault(413, "INVALID_REQUEST", f"The body is over {MOST_BYTES} bytes.")
    if optional and not given.strip():
        return model()
    document = await call.document()
    if not isinstance(document, dict):
        raise refusal("The request is not valid.", [Problem("", "The body must be a JSON object.")])
    return _read(model, document)


def read_query(call: Call, model: type[ModelT]) -> ModelT:
    """The query string as ``model``.

    Raises:
        AdminFault: 400 with every problem.
    """
    given = call.request.query
    twice = [Problem(name[:_SHOWN], "stands there twice.") for name in given if len(given.getall(name)) > 1]
    if twice:
        raise refusal("The request is not valid.", dict.fromkeys(twice))
    return _read(model, dict(given))


def _read(model: type[ModelT], document: Mapping[str, Any]) -> ModelT:
    try:
        return model.model_validate(document)
    except ValidationError as refused:
        # What was given is not repeated: it may be a secret that slipped into the wrong field.
        found = refused.errors(include_url=False, include_context=False, include_input=False)
        told = [_problem(model, error) for error in found[:MOST_PROBLEMS]]
        raise refusal("The request is not valid.", told) from refused


def _problem(model: type[BaseModel], error: ErrorDetails) -> Problem:
    where = tuple(part if isinstance(part, int) else part[:_SHOWN] for part in error["loc"])
    match error["type"]:
        case "extra_forbidden":
            known = _fields_at(model, error["loc"][:-1])
            return Problem(show_path(where), "is unknown.", suggest(str(where[-1]), known))
        case "missing":
            return Problem(show_path(where), "is required.")
        case _:
            text = error["msg"].removeprefix("Value error, ").rstrip(".")
            return Problem(show_path(where), f"{text[0].lower()}{text[1:]}.")


def _fields_at(model: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    """The names that may stand at ``path`` inside ``model``."""
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field is not None else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model that an annotation such as ``list[Stage] | None`` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
