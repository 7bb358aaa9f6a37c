"""What an admin endpoint is: a method, a path, who may reach it, and a function.

Errors have one shape, ``{"error": {"code", "message", "details"}}``; handlers raise ``AdminFault`` and never build it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import orjson
from aiohttp import web
from pydantic import BaseModel

from proxy.control.access import Reach, Verdict
from proxy.control.cluster.forwarding import Question
from proxy.control.services import Services

BODY_S: Final = 30.0

Handler: TypeAlias = Callable[["Call"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Call:
    """One admitted request. ``admin`` is False for a stranger at an open endpoint, who gets no details.

    ``is_hop``: another node of the cluster passed it on, and wants to know what this node has itself.
    """

    request: web.Request
    services: Services
    verdict: Verdict
    is_hop: bool = False

    @property
    def admin(self) -> bool:
        """Whether the caller may see more than states."""
        return self.verdict.admin

    @property
    def actor(self) -> str:
        """How the audit calls the caller."""
        return self.verdict.actor

    async def body(self) -> bytes:
        """The body; raises as ``body_of``."""
        return await body_of(self.request)

    async def document(self) -> Any:
        """The body as JSON.

        Raises:
            AdminFault: 400, if it is none.
        """
        try:
            return orjson.loads(await self.body())
        except orjson.JSONDecodeError as error:
            raise AdminFault(400, "INVALID_REQUEST", f"The body is not valid JSON: {error}.") from error


@dataclass(frozen=True, slots=True)
class About:
    """What an endpoint is to its callers, for the OpenAPI document.

    ``asks`` (a body, which may be optional) and ``query`` are what it reads, ``answers`` what it answers with one of
    ``success``; None is plain text of type ``media``. ``headers`` names the request headers with a meaning beyond
    access, ``also`` other statuses than 400, 401 and 500 that it answers.
    """

    summary: str
    answers: type[BaseModel] | None = None
    asks: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    optional_body: bool = False
    success: tuple[int, ...] = (200,)
    media: str = "application/json"
    headers: tuple[str, ...] = ()
    also: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One line of the registry. The default is to ask for a key."""

    method: str
    path: str
    handler: Handler
    about: About
    reach: Reach = Reach.ADMIN


@dataclass
class AdminFault(Exception):
    """An answer other than success. ``code`` is a stable word; ``details`` helps programs."""

    status: int
    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    retry_after_s: int | None = None

    def response(self) -> web.Response:
        """The error in its one shape."""
        body = {"code": self.code, "message": self.message, "details": dict(self.details)}
        response = answer({"error": body}, status=self.status)
        if self.retry_after_s is not None:
            response.headers["Retry-After"] = str(self.retry_after_s)
        return response


async def body_of(request: web.Request) -> bytes:
    """The body, once more when it was read before.

    Raises:
        AdminFault: 408, when it does not come in time; aiohttp itself would wait for ever.
    """
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError as error:
        raise AdminFault(408, "INVALID_REQUEST", f"The body did not come within {BODY_S:g} s.") from error


async def question_of(request: web.Request, actor: str) -> Question:
    """The request as it goes to another node; raises as ``body_of``."""
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        headers.setdefault(name.lower(), []).append(value)
    return Question(request.method, request.raw_path, actor, await body_of(request), headers)


def answer(document: Any, *, status: int = 200) -> web.Response:
    """A JSON reply; NaN becomes null, because JSON has none."""
    return web.Response(
        body=orjson.dumps(document, option=orjson.OPT_SERIALIZE_DATACLASS | orjson.OPT_NON_STR_KEYS),
        status=status,
        content_type="application/json",
    )
