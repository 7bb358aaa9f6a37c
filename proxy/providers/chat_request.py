"""Messages requests in the form of chat completions.

System text becomes the first message, results of tools become messages of their own right after the call, pictures and
PDF files keep their place. What has no counterpart and only steers how the answer is found (thinking, ``top_k``, cache
markers) is left out and named in ``left_out``; what would change the answer's shape is refused by name.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from optimizer.routing import Model, Upstream
from proxy.errors import ClientFault
from proxy.messages_body import output_schema
from proxy.providers.base import STREAM_USAGE
from proxy.providers.shape import items_of, object_of, text_of

# OpenAI refuses longer ones.
MAX_USER_CHARS: Final = 64
_GAP: Final = "\n\n"
_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_TRANSLATED: Final = frozenset(
    (
        *("model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "stop_sequences"),
        *("tools", "tool_choice", "metadata", "output_config", "output_format"),
    )
)
_CHOICES: Final[Mapping[str, str]] = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(
    doc: Mapping[str, Any], parameters: Mapping[str, Any], model: Model, upstream: Upstream
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body for ``POST /v1/chat/completions``, and the members of ``doc`` that it leaves out.

    ``doc`` is a parsed Messages request (unchanged); ``parameters`` are the arm's, as in every chat request.

    Raises:
        ClientFault: The request asks for something that chat completions cannot answer in kind.
    """
    limit = doc["max_tokens"]
    if model.max_output_tokens:
        limit = min(limit, model.max_output_tokens)
    body: dict[str, Any] = {
        "model": model.model_id,
        "messages": _conversation(doc),
        _limit_name(upstream): limit,
    }
    for name in ("temperature", "top_p"):
        if doc.get(name) is not None:
            body[name] = doc[name]
    if stops := items_of(doc.get("stop_sequences")):
        body["stop"] = stops
    user = object_of(doc.get("metadata")).get("user_id")
    if type(user) is str and user:
        body["user"] = user[:MAX_USER_CHARS]
    _add_tools(body, doc)
    schema = output_schema(doc)
    if schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    if doc.get("stream") is True:
        body["stream"] = True
        if STREAM_USAGE in model.capabilities:
            body["stream_options"] = {"include_usage": True}
    _set_parameters(body, parameters)
    return body, _left_out(doc)


def _set_parameters(body: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    if not _LIMITS_SET.isdisjoint(parameters):
        for name in _LIMITS:
            body.pop(name, None)
    for name, value in parameters.items():
        if value is None:
            body.pop(name, None)
        else:
            body[name] = value


_LIMITS_SET: Final = frozenset(_LIMITS)


def _left_out(doc: Mapping[str, Any]) -> tuple[str, ...]:
    names = [name for name, value in doc.items() if name not in _TRANSLATED and value is not None]
    names += [f"output_config.{name}" for name in object_of(doc.get("output_config")) if name != "format"]
    return tuple(names)


def _limit_name(upstream: Upstream) -> str:
    """OpenAI's newer models refuse the old name, and many compatible servers do not know the new one."""
    host = urlsplit(upstream.base_url).hostname or ""
    own = host.endswith((".openai.com", ".openai.azure.com"))
    return _LIMITS[0] if own else _LIMITS[1]


def _cannot(where: str, what: str) -> ClientFault:
    return ClientFault(
        f"The model chosen for this request has no counterpart for {what} ('{where}').",
        param=where,
        code="unsupported_parameter",
    )


def _conversation(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if system := _text(doc.get("system"), "system"):
        messages.append({"role": "system", "content": system})
    for index, message in enumerate(doc["messages"]):
        where = f"messages[{index}]"
        role, content = message.get("role"), message.get("content")
        if role == "user":
            messages += _user_turn(content, f"{where}.content")
        elif role == "assistant":
            messages.append(_assistant_turn(content, f"{where}.content"))
        elif role == "system":
            messages.append({"role": "system", "content": _text(content, f"{where}.content")})
        else:
            raise ClientFault(f"'{where}.role' is unknown: {role!r}.", param=f"{where}.role")
    return messages


def _text(content: Any, where: str) -> str:
    """Content of which nothing but text is expected."""
    if content is None or type(content) is str:
        return content or ""
    texts = []
    for at, block in enumerate(items_of(content)):
        kind = object_of(block).get("type")
        if kind != "text":
            raise _cannot(f"{where}[{at}]", f"a block of type {kind!r}")
        texts.append(text_of(block.get("text")))
    return _GAP.join(texts)


def _user_turn(content: Any, where: str) -> list[dict[str, Any]]:
    """Results of tools first, each as a message; then all else as one."""
    if type(content) is not list:
        return [{"role": "user", "content": content}]
    turns: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for at, item in enumerate(content):
        block, here = object_of(item), f"{where}[{at}]"
        if block.get("type") == "tool_result":
            turns.append(_tool_turn(block, parts, here))
        else:
            parts.append(_part(block, here))
    if parts:
        turns.append({"role": "user", "content": _joined(parts)})
    return turns


def _tool_turn(block: Mapping[str, Any], parts: list[dict[str, Any]], where: str) -> dict[str, Any]:
    """The message of a tool; its pictures join ``parts``, because such a message can only hold text."""
    content = block.get("content")
    inner = [{"type": "text", "text": content}] if type(content) is str else items_of(content)
    found = [_part(object_of(item), f"{where}.content[{at}]") for at, item in enumerate(inner)]
    text = _GAP.join(part["text"] for part in found if part["type"] == "text")
    parts += [part for part in found if part["type"] != "text"]
    if block.get("is_error") is True and not text:
        text = "error"
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}


def _joined(parts: list[dict[str, Any]]) -> Any:
    """Text alone as one text: many servers take nothing else."""
    if all(part["type"] == "text" for part in parts):
        return _GAP.join(part["text"] for part in parts)
    return parts


def _part(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": text_of(block.get("text"))}
    source = object_of(block.get("source"))
    form = source.get("type")
    if kind == "image" and form == "url":
        return {"type": "image_url", "image_url": {"url": text_of(source.get("url"))}}
    if kind == "image" and form == "base64":
        return {"type": "image_url", "image_url": {"url": _data_url(source)}}
    if object_of(block.get("citations")).get("enabled"):
        raise _cannot(f"{where}.citations", "citations")
    if kind == "document" and form == "base64":
        name = text_of(block.get("title")) or "document.pdf"
        return {"type": "file", "file": {"filename": name, "file_data": _data_url(source)}}
    if kind == "document" and form == "text":
        texts = (block.get("title"), block.get("context"), source.get("data"))
        return {"type": "text", "text": _GAP.join(text for text in map(text_of, texts) if text)}
    if kind in ("image", "document"):
        raise _cannot(f"{where}.source", f"a source of type {form!r}")
    raise _cannot(where, f"a block of type {kind!r}")


def _data_url(source: Mapping[str, Any]) -> str:
    return f"data:{text_of(source.get('media_type'))};base64,{text_of(source.get('data'))}"


def _assistant_turn(content: Any, where: str) -> dict[str, Any]:
    if type(content) is not list:
        return {"role": "assistant", "content": content}
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for at, item in enumerate(content):
        block = object_of(item)
        kind = block.get("type")
        if kind == "text":
            texts.append(text_of(block.get("text")))
        elif kind == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):
            raise _cannot(f"{where}[{at}]", f"a block of type {kind!r}")
    # Pieces of one answer belong together as they are.
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    if calls:
        turn["tool_calls"] = calls
    return turn


def _add_tools(body: dict[str, Any], doc: Mapping[str, Any]) -> None:
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(items_of(doc.get("tools")))]
    if not tools:
        return
    body["tools"] = tools
    choice = object_of(doc.get("tool_choice"))
    kind = choice.get("type")
    if kind == "tool":
        body["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif type(kind) is str:
        if kind not in _CHOICES:
            raise _cannot("tool_choice", f"a choice of type {kind!r}")
        body["tool_choice"] = _CHOICES[kind]
    if choice.get("disable_parallel_tool_use") is True:
        body["parallel_tool_calls"] = False


def _tool(tool: Any, where: str) -> dict[str, Any]:
    given = object_of(tool)
    if given.get("type", "custom") not in ("custom", None):
        raise _cannot(where, f"a tool of type {given['type']!r}")
    if type(given.get("name")) is not str:
        raise ClientFault(f"'{where}.name' must be a string.", param=f"{where}.name")
    function: dict[str, Any] = {"name": given["name"]}
    if type(given.get("description")) is str:
        function["description"] = given["description"]
    if given.get("input_schema") is not None:
        function["parameters"] = given["input_schema"]
    if given.get("strict") is True:
        function["strict"] = True
    return {"type": "function", "function": function}
