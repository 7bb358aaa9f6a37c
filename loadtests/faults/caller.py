"""The caller: sends one request, keeps every byte that comes back, hangs up when told to, and reads what it got.

It reads strictly, as an SDK would, and forgives nothing: what is counted here decides whether a failure was shown or
passed off as an answer.
"""

import asyncio
import gzip
import io
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from loadtests.faults.wire import TEXT, TOKENS

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
}
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(slots=True)
class Reply:
    """What came back. ``fault`` is how the transport failed, if it did."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    fault: str = ""
    elapsed_s: float = 0.0
    first_s: float | None = None
    left: bool = False
    hung: bool = False


@dataclass(slots=True)
class Read:
    """What a reply says. Errors are (code, type, whether it has OpenAI's members)."""

    text: str = ""
    finishes: list[str] = field(default_factory=list)
    dones: int = 0
    errors: list[tuple[str | None, str | None, bool]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    roles: int = 0
    usages: int = 0
    junk: list[str] = field(default_factory=list)
    after_end: int = 0
    is_stream: bool = False


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    document: Mapping[str, Any],
    *,
    headers: Mapping[str, str],
    patience_s: float,
    leaves_s: float | None = None,
    leaves_after: int | None = None,
) -> Reply:
    """Send a request and read its reply until it ends, ``patience_s`` is over, or it is time to leave.

    Args:
        leaves_s: Hang up so many seconds after sending.
        leaves_after: Hang up after so many events with content.
    """
    reply = Reply()
    began = time.monotonic()
    leaves = leaves_s is not None
    try:
        async with asyncio.timeout(leaves_s if leaves_s is not None else patience_s):
            await _exchange(session, url, document, headers, reply, leaves_after)
    except TimeoutError:
        reply.left = leaves
        reply.hung = not leaves
    except aiohttp.ClientError as error:
        reply.fault = type(error).__name__
    reply.elapsed_s = time.monotonic() - began
    return reply


async def _exchange(
    session: aiohttp.ClientSession,
    url: str,
    document: Mapping[str, Any],
    headers: Mapping[str, str],
    reply: Reply,
    leaves_after: int | None,
) -> None:
    began = time.monotonic()
    # As a file: aiohttp warns of large bodies otherwise.
    body = io.BytesIO(orjson.dumps(document))
    sent = {"content-type": "application/json", "accept-encoding": "identity", **headers}
    async with session.post(url, data=body, headers=sent, allow_redirects=False) as response:
        reply.status = response.status
        reply.headers = {name.lower(): value for name, value in response.headers.items()}
        async for data in response.content.iter_any():
            reply.body += data
            if reply.first_s is None and TOKENS[0].encode() in data:
                reply.first_s = time.monotonic() - began
            if leaves_after is not None and reply.body.count(b'"content"') > leaves_after:
                reply.left = True
                # Closing instead of releasing: the connection goes with the caller.
                response.close()
                return


def read(reply: Reply, endpoint: str) -> Read:
    """Make sense of a reply's body."""
    found = Read()
    body = _decoded(reply)
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        found.is_stream = True
        ended = False
        for data in _events(body.decode("utf-8", "replace")):
            found.after_end += ended
            ended = _take(found, data, endpoint) or ended
        return found
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        found.junk.append(body[:60].decode("latin-1"))
        return found
    if not isinstance(document, dict):
        found.junk.append("no object")
    elif document.get("error") is not None:
        _error(found, document["error"])
    else:
        _document(found, document, endpoint)
    return found


def _decoded(reply: Reply) -> bytes:
    if reply.headers.get("content-encoding") != "gzip":
        return reply.body
    try:
        return gzip.decompress(reply.body)
    except (OSError, EOFError, zlib.error):
        return b""


def _events(text: str) -> list[str]:
    """The data of each event, by the rules of the event stream format; an unfinished last one does not count."""
    found, lines = [], []
    for line in _LINE_END.split(text.removeprefix("\ufeff")):
        if line:
            if line.startswith("data:"):
                lines.append(line[5:].removeprefix(" "))
        elif lines:
            found.append("\n".join(lines))
            lines = []
    return found


def _take(found: Read, data: str, endpoint: str) -> bool:
    """Add an event; True if it must be the last one."""
    if data == "[DONE]":
        found.dones += 1
        return True
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        found.junk.append(data[:60])
        return False
    if document.get("error") is not None and document.get("type", "error") == "error":
        _error(found, document["error"])
        return True
    if endpoint == "responses":
        return _response_event(found, document)
    if document.get("id") is not None:
        found.ids.add(document["id"])
    found.usages += isinstance(document.get("usage"), dict)
    for choice in document.get("choices") or ():
        delta = choice.get("delta") or {"content": choice.get("text")}
        found.text += delta.get("content") or ""
        found.roles += delta.get("role") is not None
        if choice.get("finish_reason"):
            found.finishes.append(choice["finish_reason"])
    return False


def _response_event(found: Read, document: Mapping[str, Any]) -> bool:
    kind = document.get("type")
    if kind == "response.output_text.delta":
        found.text += document["delta"]
    elif kind == "response.completed":
        found.finishes.append("stop")
        found.dones += 1
        return True
    elif kind in ("error", "response.failed"):
        _error(found, document if kind == "error" else document["response"].get("error"))
        return True
    return False


def _error(found: Read, error: Any) -> None:
    if not isinstance(error, dict):
        found.errors.append((None, None, False))
        return
    proper = {"message", "type", "param", "code"} <= set(error) and bool(error["message"])
    found.errors.append((error.get("code"), error.get("type"), proper))


def _document(found: Read, document: Mapping[str, Any], endpoint: str) -> None:
    if endpoint == "embeddings":
        found.text = TEXT if document.get("data") else ""
        found.finishes.append("stop")
    elif endpoint == "responses":
        found.text = "".join(
            part["text"] for item in document.get("output") or () for part in item.get("content") or ()
        )
        found.finishes.append("stop")
    else:
        for choice in document.get("choices") or ():
            message = choice.get("message") or {"content": choice.get("text")}
            found.text += message.get("content") or ""
            found.finishes.append(choice.get("finish_reason"))
