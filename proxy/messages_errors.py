"""Errors as the Messages API tells them.

Everywhere else in the proxy an error has OpenAI's shape; what the callers of that API are told is made of it here, at
the last moment. What a provider of the API said itself stays as it is.
"""

from collections.abc import Mapping
from typing import Final

import orjson

from optimizer.routing import MESSAGES

PATH: Final = "/v1/messages"
COUNT_PATH: Final = "/v1/messages/count_tokens"

_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """The API's word for a status."""
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def messages_error(status: int, body: bytes, request_id: str) -> bytes:
    """An error in OpenAI's shape as one of the API's; one that is of the API already is not touched."""
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        doc = None
    error = doc.get("error") if type(doc) is dict else None
    if type(doc) is dict and type(error) is dict and doc.get("type") == "error":
        return body
    message = error.get("message") if type(error) is dict else error
    if type(message) is not str or not message:
        message = f"The request failed with status {status}."
    told = {"type": "error", "error": {"type": error_type(status), "message": message}}
    return orjson.dumps(told | {"request_id": request_id})


def error_event(kind: str, message: str) -> bytes:
    """An error inside a stream."""
    return as_event(orjson.dumps({"type": "error", "error": {"type": kind, "message": message}}))


def as_event(body: bytes) -> bytes:
    """An error's body as the last event of a stream."""
    return b"event: error\ndata: " + body.replace(b"\n", b" ") + b"\n\n"


def reply_body(endpoint: str, status: int, body: bytes, request_id: str) -> bytes:
    """An error in OpenAI's shape as callers of ``endpoint`` expect it."""
    return messages_error(status, body, request_id) if endpoint == MESSAGES else body


def last_event(endpoint: str, status: int, body: bytes, request_id: str) -> bytes:
    """The same inside a stream."""
    if endpoint == MESSAGES:
        return as_event(messages_error(status, body, request_id))
    return b"data: " + body + b"\n\n"
