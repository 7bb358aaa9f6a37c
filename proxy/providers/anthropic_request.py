"""Chat requests in Anthropic's Messages form.

System text moves to ``system``, tool results become blocks of a user turn, turns of one role are merged (the API
wants them to alternate) and what has no counterpart there (penalties, seed, logit bias) is left out, except
where leaving it out would change the answer's shape: several choices, audio and provider files are refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from optimizer.routing import Model
from proxy.errors import ClientFault
from proxy.providers.shape import items_of, object_of

DEFAULT_MAX_TOKENS: Final = 4096
MAX_USER_CHARS: Final = 256


def messages_request(doc: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """The body for ``POST /v1/messages``.

    ``doc`` is a parsed chat request (unchanged); ``model`` is asked instead of the one that it names.

    Raises:
        ClientFault: The request asks for something that the Messages API cannot answer in kind.
    """
    _refuse_inexpressible(doc)
    system, messages = _conversation(doc["messages"])
    body: dict[str, Any] = {
        "model": model.model_id,
        "max_tokens": _max_tokens(doc, model),
        "messages": messages,
    }
    if system:
        body["system"] = system
    if doc.get("stream") is True:
        body["stream"] = True
    temperature: Any = doc.get("temperature")
    if type(temperature) in (int, float):
        body["temperature"] = min(temperature, 1)
    elif doc.get("top_p") is not None:
        # Newer models refuse both at once; the temperature is the one that clients mean.
        body["top_p"] = doc["top_p"]
    for name in ("top_k", "thinking", "cache_control"):
        if doc.get(name) is not None:
            body[name] = doc[name]
    stops = [doc["stop"]] if type(doc.get("stop")) is str else items_of(doc.get("stop"))
    # Sequences of white space alone are refused there; without them the answer is only longer.
    if wanted := [stop for stop in stops if type(stop) is str and stop.strip()]:
        body["stop_sequences"] = wanted
    user = doc.get("user") or doc.get("safety_identifier")
    if type(user) is str:
        body["metadata"] = {"user_id": user[:MAX_USER_CHARS]}
    _add_tools(body, doc, strict="json_schema" in model.capabilities)
    _add_output_format(body, doc)
    return body


def _refuse_inexpressible(doc: Mapping[str, Any]) -> None:
    if doc.get("n") not in (None, 1):
        raise _cannot("n", "more than one choice")
    if "audio" in items_of(doc.get("modalities")):
        raise _cannot("modalities", "audio output")
    if doc.get("logprobs"):
        raise _cannot("logprobs", "log probabilities")


def _cannot(name: str, what: str) -> ClientFault:
    return ClientFault(
        f"The model chosen for this request cannot give {what} ('{name}').",
        param=name,
        code="unsupported_parameter",
    )


def _max_tokens(doc: Mapping[str, Any], model: Model) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = doc.get(name)
        if type(value) is int:
            return min(value, model.max_output_tokens) if model.max_output_tokens else value
    return model.max_output_tokens or DEFAULT_MAX_TOKENS


def _conversation(given: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(given):
        role = message.get("role")
        where = f"messages[{index}]"
        if role in ("system", "developer"):
            system.extend(_blocks(message.get("content"), where))
        elif role == "user":
            _add(turns, "user", _blocks(message.get("content"), where))
        elif role == "assistant":
            _add(turns, "assistant", _assistant_blocks(message, where))
        elif role in ("tool", "function"):
            _add(turns, "user", [_tool_result(message, where)])
        else:
            raise ClientFault(f"'{where}.role' is unknown: {role!r}.", param=f"{where}.role")
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": "."}]})
    if not turns:
        # Instructions alone are a request elsewhere; here a turn is required.
        return [], [{"role": "user", "content": system}] if system else []
    if turns[-1]["role"] == "assistant":
        _trim_last(turns[-1]["content"])
    return system, turns


def _add(turns: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    """Append blocks as a turn, joined to the last one if the role is the same; empty turns are not allowed."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"].extend(blocks)
    else:
        turns.append({"role": role, "content": blocks})


def _trim_last(blocks: list[dict[str, Any]]) -> None:
    """The API refuses a final assistant text that ends in white space."""
    last = blocks[-1]
    if last["type"] == "text":
        trimmed = last["text"].rstrip()
        if trimmed:
            blocks[-1] = {**last, "text": trimmed}


def _blocks(content: Any, where: str) -> list[dict[str, Any]]:
    if type(content) is str:
        return [{"type": "text", "text": content}] if content.strip() else []
    if content is None:
        return []
    if type(content) is not list:
        raise ClientFault(
            f"'{where}.content' must be a string or an array of parts.", param=f"{where}.content"
        )
    blocks = (_block(part, f"{where}.content[{number}]") for number, part in enumerate(content))
    return [block for block in blocks if block is not None]


def _block(part: Any, where: str) -> dict[str, Any] | None:
    if type(part) is not dict:
        raise ClientFault(f"'{where}' must be an object.", param=where)
    kind = part.get("type")
    block: dict[str, Any]
    if kind in ("text", "input_text", "output_text", "refusal"):
        text = part.get("text", part.get("refusal"))
        if type(text) is not str or not text.strip():
            return None
        block = {"type": "text", "text": text}
    elif kind == "image_url":
        block = {"type": "image", "source": _image_source(part.get("image_url"), where)}
    elif kind == "file":
        block = {"type": "document", "source": _file_source(part.get("file"), where)}
    else:
        raise _cannot(where, f"an answer to content of type {kind!r}")
    if part.get("cache_control") is not None:
        block["cache_control"] = part["cache_control"]
    return block


def _image_source(image: Any, where: str) -> dict[str, Any]:
    url = image.get("url") if type(image) is dict else image
    if type(url) is not str:
        raise ClientFault(f"'{where}.image_url.url' must be a string.", param=f"{where}.image_url.url")
    return _source(url, f"{where}.image_url.url")


def _file_source(file: Any, where: str) -> dict[str, Any]:
    data = file.get("file_data") if type(file) is dict else None
    if type(data) is not str:
        raise _cannot(f"{where}.file", "an answer to a file that another provider holds")
    return _source(
        data if data.startswith(("data:", "http")) else f"data:application/pdf;base64,{data}", where
    )


def _source(url: str, where: str) -> dict[str, Any]:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, comma, data = url[5:].partition(",")
    media_type, _, encoding = head.partition(";")
    if not comma or not encoding.endswith("base64"):
        raise ClientFault(f"'{where}' must be a base64 data URL.", param=where)
    return {"type": "base64", "media_type": media_type or "image/png", "data": data}


def _assistant_blocks(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    blocks = _blocks(message.get("content"), where)
    if not blocks:
        blocks = _blocks(message.get("refusal"), where)
    calls = items_of(message.get("tool_calls"))
    if function := object_of(message.get("function_call")):
        calls = [{"id": function.get("name"), "function": function}]
    for number, item in enumerate(calls):
        here = f"{where}.tool_calls[{number}]"
        call = object_of(item)
        function = object_of(call.get("function"))
        if not function:
            raise ClientFault(f"'{here}.function' must be an object.", param=f"{here}.function")
        blocks.append(
            {
                "type": "tool_use",
                "id": call.get("id"),
                "name": function.get("name"),
                "input": _arguments(function.get("arguments"), here),
            }
        )
    return blocks


def _arguments(text: Any, where: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError):
        value = None
    if type(value) is not dict:
        raise ClientFault(
            f"'{where}.function.arguments' must be a JSON object in a string.",
            param=f"{where}.function.arguments",
        )
    return value


def _tool_result(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    content = message.get("content")
    result: dict[str, Any] = {
        "type": "tool_result",
        "tool_use_id": message.get("tool_call_id") or message.get("name"),
    }
    if type(content) is str:
        result["content"] = content
    elif blocks := _blocks(content, where):
        result["content"] = blocks
    return result


def _add_tools(body: dict[str, Any], doc: Mapping[str, Any], *, strict: bool) -> None:
    functions = [_function(tool, f"tools[{n}]") for n, tool in enumerate(items_of(doc.get("tools")))]
    functions.extend(
        _tool(function, f"functions[{n}]") for n, function in enumerate(items_of(doc.get("functions")))
    )
    if not strict:
        # Models that cannot constrain their output refuse the word instead of ignoring it.
        for function in functions:
            function.pop("strict", None)
    choice = doc.get("tool_choice", doc.get("function_call"))
    if not functions:
        return
    body["tools"] = functions
    translated = _tool_choice(choice)
    if doc.get("parallel_tool_calls") is False and (translated or {}).get("type") != "none":
        translated = {**(translated or {"type": "auto"}), "disable_parallel_tool_use": True}
    if translated is not None:
        body["tool_choice"] = translated


def _function(tool: Any, where: str) -> dict[str, Any]:
    if type(tool) is not dict or tool.get("type", "function") != "function":
        raise _cannot(where, "tools other than functions")
    translated = _tool(tool.get("function"), f"{where}.function")
    if tool.get("cache_control") is not None:
        translated["cache_control"] = tool["cache_control"]
    return translated


def _tool(function: Any, where: str) -> dict[str, Any]:
    if type(function) is not dict or type(function.get("name")) is not str:
        raise ClientFault(f"'{where}.name' must be a string.", param=f"{where}.name")
    tool: dict[str, Any] = {
        "name": function["name"],
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    if type(function.get("description")) is str:
        tool["description"] = function["description"]
    if function.get("strict") is True:
        tool["strict"] = True
    return tool


def _tool_choice(choice: Any) -> dict[str, Any] | None:
    if choice == "auto":
        return {"type": "auto"}
    if choice == "required":
        return {"type": "any"}
    if choice == "none":
        return {"type": "none"}
    if type(choice) is dict:
        function = choice.get("function", choice)
        if type(function) is dict and type(function.get("name")) is str:
            return {"type": "tool", "name": function["name"]}
        raise _cannot("tool_choice", "this choice of tools")
    return None


def _add_output_format(body: dict[str, Any], doc: Mapping[str, Any]) -> None:
    given = object_of(doc.get("response_format"))
    if given.get("type") == "json_object":
        raise _cannot("response_format", "JSON without a schema; ask for json_schema")
    if given.get("type") != "json_schema":
        return
    schema = object_of(given.get("json_schema")).get("schema")
    if type(schema) is not dict:
        where = "response_format.json_schema.schema"
        raise ClientFault(f"'{where}' must be an object.", param=where)
    body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
