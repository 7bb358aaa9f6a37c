"""``Idempotency-Key`` on requests that change something: see ``proxy.control.answers``."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from proxy.control.admin.endpoint import AdminFault, Call, answer
from proxy.control.answers import Answers, Misused

HEADER: Final = "Idempotency-Key"
REPEATED: Final = "Idempotent-Replayed"

_KEY = re.compile(r"[\x21-\x7e]{1,200}")

Work = Callable[[], Awaitable[tuple[int, Mapping[str, Any]]]]
"""What is to be done: gives the status and the document of the answer."""


async def once(call: Call, answers: Answers, work: Work, *, hasty: bool = False) -> web.Response:
    """The answer of ``work``, done once per key; without a key it is simply done.

    Raises:
        AdminFault: 400 for a key that is none, 409 for one of another request or of one that is under way.
    """
    given = call.request.headers.getall(HEADER, ())
    if not given:
        return _response(*await work())
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise AdminFault(
            400, "INVALID_REQUEST", f"{HEADER} must be one text of 1 to 200 visible ASCII letters."
        )

    async def encoded() -> tuple[int, bytes]:
        status, document = await work()
        return status, orjson.dumps(document)

    try:
        kept, is_repetition = await answers.once(given[0], await _digest(call), encoded, hasty=hasty)
    except Misused as misused:
        raise AdminFault(409, "CONFLICT", f"{HEADER}: {misused}") from misused
    response = _response(kept.status, orjson.loads(kept.body))
    if is_repetition:
        response.headers[REPEATED] = "true"
    return response


def _response(status: int, document: Mapping[str, Any]) -> web.Response:
    """A JSON reply, with an ETag when it is about one record."""
    response = answer(document, status=status)
    if "revision" in document:
        response.headers["ETag"] = f'"{document["revision"]}"'
    return response


async def _digest(call: Call) -> str:
    head = f"{call.request.method} {call.request.path_qs}\n".encode("utf-8", "surrogateescape")
    return hashlib.sha256(head + await call.body()).hexdigest()
