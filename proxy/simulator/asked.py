"""Reads request bodies of the four endpoints into what a simulated model needs, or says what is wrong.

Invariant: every refusal names the field and is rendered in OpenAI's error shape by ``Refusal``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.simulator.called import Call, forced_call
from proxy.simulator.performance import Task, count_tokens

MAX_CHOICES = 16


class Refusal(Exception):
    """A request that the simulator answers with an error; ``param`` names the field."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def document(self) -> dict[str, Any]:
        """The body of the error."""
        kind = (
            "rate_limit_exceeded"
            if self.status == 429
            else "server_error"
            if self.status >= 500
            else "invalid_request_error"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``tool`` is the call that the caller forces the model to make."""

    model: str
    task: Task
    stream: bool = False
    include_usage: bool = False
    choices: int = 1
    tool: Call | None = None
    instructions: str | None = None


@dataclass(frozen=True, slots=True)
class AskedEmbeddings:
    """Texts to embed, into vectors of ``dimensions``, as numbers or as base64 of little-endian float32."""

    model: str
    texts: tuple[str, ...]
    dimensions: int
    base64: bool


def read_body(body: bytes) -> dict[str, Any]:
    """Decode a JSON object that names a model.

    Raises:
        Refusal: 400 naming what is wrong.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(document, dict):
        raise Refusal(400, "The body must be a JSON object.")
    if not isinstance(document.get("model"), str):
        raise Refusal(400, "you must provide a model parameter", param="model")
    return document


def read_chat(document: Mapping[str, Any]) -> Asked:
    """Read a body of /v1/chat/completions."""
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "Missing required parameter: 'messages'.", param="messages")
    system: list[str] = []
    prompt = ""
    tokens = 3
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(400, f"Missing 'role' in messages[{index}].", param=f"messages[{index}]")
        text = _text(message.get("content"))
        tokens += 4 + count_tokens(text)
        if message["role"] in ("system", "developer"):
            system.append(text)
        elif message["role"] == "user":
            prompt = text
    limit = document.get("max_completion_tokens", document.get("max_tokens"))
    task = Task("\n\n".join(system), prompt, tokens, _positive(limit, "max_tokens"), _wants_json(document))
    options = document.get("stream_options")
    return Asked(
        model=document["model"],
        task=task,
        stream=document.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        choices=_choices(document),
        tool=forced_call(document),
    )


def read_completion(document: Mapping[str, Any]) -> Asked:
    """Read a body of /v1/completions; a list of prompts becomes one text."""
    prompt = document.get("prompt", "")
    if isinstance(prompt, list) and all(isinstance(part, str) for part in prompt):
        prompt = "\n".join(prompt)
    if not isinstance(prompt, str):
        raise Refusal(400, "'prompt' must be a string or a list of strings.", param="prompt")
    options = document.get("stream_options")
    limit = _positive(document.get("max_tokens"), "max_tokens")
    return Asked(
        model=document["model"],
        task=Task("", prompt, count_tokens(prompt), limit),
        stream=document.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        choices=_choices(document),
    )


def read_response(document: Mapping[str, Any]) -> Asked:
    """Read a body of /v1/responses; ``input`` is a text or a list of messages."""
    given = document.get("input")
    instructions = document.get("instructions")
    system = [instructions] if isinstance(instructions, str) else []
    prompt = ""
    if isinstance(given, str):
        prompt = given
    elif isinstance(given, list) and given:
        for item in given:
            if isinstance(item, dict) and item.get("role") in ("system", "developer"):
                system.append(_text(item.get("content")))
            elif isinstance(item, dict) and item.get("role") == "user":
                prompt = _text(item.get("content"))
    else:
        raise Refusal(400, "Missing required parameter: 'input'.", param="input")
    joined = "\n\n".join(system)
    limit = _positive(document.get("max_output_tokens"), "max_output_tokens")
    return Asked(
        model=document["model"],
        task=Task(
            joined, prompt, count_tokens(joined) + count_tokens(prompt) + 8, limit, _wants_json_text(document)
        ),
        stream=document.get("stream") is True,
        include_usage=True,
        tool=forced_call(document),
        instructions=instructions if isinstance(instructions, str) else None,
    )


def read_embeddings(document: Mapping[str, Any]) -> AskedEmbeddings:
    """Read a body of /v1/embeddings."""
    given = document.get("input")
    texts = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "'input' must be a string or a list of strings.", param="input")
    dimensions = _positive(document.get("dimensions"), "dimensions") or 256
    if dimensions > 4096:
        raise Refusal(400, "'dimensions' must be at most 4096.", param="dimensions")
    return AskedEmbeddings(document["model"], texts, dimensions, document.get("encoding_format") == "base64")


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def _positive(value: object, field: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Refusal(400, f"Invalid '{field}': expected an integer of at least 1.", param=field)
    return value


def _choices(document: Mapping[str, Any]) -> int:
    choices = _positive(document.get("n"), "n") or 1
    if choices > MAX_CHOICES:
        raise Refusal(400, f"Invalid 'n': expected at most {MAX_CHOICES}.", param="n")
    return choices


def _wants_json(document: Mapping[str, Any]) -> bool:
    return _is_json(document.get("response_format"))


def _wants_json_text(document: Mapping[str, Any]) -> bool:
    text = document.get("text")
    return isinstance(text, dict) and _is_json(text.get("format"))


def _is_json(wanted: object) -> bool:
    return isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema")
