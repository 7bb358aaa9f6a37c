"""The parts of a parsed request body that features look at, found without copying more than needed.

Whatever a caller sends, reading it never raises: what is not as a provider would expect it counts as absent. ``proxy``
has parsed the body by then; the optimizer gives bodies that it makes itself.
"""

from collections.abc import Mapping
from typing import Any, Final

from optimizer.routing import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES

# Longer texts are looked at from both ends: instructions stand at the beginning or at the end.
HEAD_CHARACTERS: Final = 1536
TAIL_CHARACTERS: Final = 512
# Parameters of further tools are not counted.
MOST_TOOLS: Final = 32

_TEXTS: Final = frozenset(("text", "input_text", "output_text"))
_IMAGES: Final = frozenset(("image_url", "input_image", "image"))
_SYSTEM: Final = frozenset(("system", "developer"))


class Prompt:
    """A request in numbers, and the one text that matters most: the last user message.

    ``text`` is that message, or its first ``HEAD_CHARACTERS`` and last ``TAIL_CHARACTERS`` when it is longer;
    ``length``, ``total`` and ``system`` are characters of the whole message, of all messages and of the system prompt;
    ``turns`` messages of user and assistant; ``tools`` and ``tool_parameters`` count, ``output_limit`` is in tokens, 0
    without one.
    """

    __slots__ = (
        "images",
        "length",
        "output_limit",
        "structured",
        "system",
        "text",
        "tool_parameters",
        "tools",
        "total",
        "turns",
    )

    def __init__(self) -> None:
        self.text = ""
        self.length = 0
        self.total = 0
        self.system = 0
        self.turns = 0
        self.images = 0
        self.tools = 0
        self.tool_parameters = 0
        self.structured = False
        self.output_limit = 0


def read_prompt(doc: Mapping[str, Any], endpoint: str, limit: int | None = None) -> Prompt:
    """What there is to know about a body for ``endpoint``; ``limit`` is the most output tokens it asks for."""
    prompt = Prompt()
    prompt.output_limit = limit or 0
    if endpoint == CHAT:
        _read_messages(prompt, doc.get("messages"))
        prompt.structured = _asks_structure(doc.get("response_format"))
        _read_tools(prompt, doc.get("tools") or doc.get("functions"))
    elif endpoint == RESPONSES:
        _read_messages(prompt, doc.get("input"))
        instructions = doc.get("instructions")
        if type(instructions) is str:
            prompt.system += len(instructions)
            prompt.total += len(instructions)
        text = doc.get("text")
        prompt.structured = type(text) is dict and _asks_structure(text.get("format"))
        _read_tools(prompt, doc.get("tools"))
    elif endpoint == MESSAGES:
        _read_messages(prompt, doc.get("messages"))
        size = _size_of(prompt, doc.get("system"))
        prompt.system += size
        prompt.total += size
        config = doc.get("output_config")
        form = config.get("format") if type(config) is dict else None
        prompt.structured = _asks_structure(form or doc.get("output_format"))
        _read_tools(prompt, doc.get("tools"))
    elif endpoint in (COMPLETIONS, EMBEDDINGS):
        given = doc.get("prompt" if endpoint == COMPLETIONS else "input")
        _read_messages(prompt, given[0] if type(given) is list and given and type(given[0]) is str else given)
    return prompt


def _asks_structure(form: Any) -> bool:
    return type(form) is dict and form.get("type") in ("json_object", "json_schema")


def _read_tools(prompt: Prompt, tools: Any) -> None:
    if type(tools) is not list:
        return
    prompt.tools = len(tools)
    for tool in tools[:MOST_TOOLS]:
        # ``{"function": {...}}`` in chat, flat elsewhere; messages have another word for the parameters.
        described = tool.get("function", tool) if type(tool) is dict else None
        schema = (
            described.get("parameters", described.get("input_schema")) if type(described) is dict else None
        )
        properties = schema.get("properties") if type(schema) is dict else None
        if type(properties) is dict:
            prompt.tool_parameters += len(properties)


def _read_messages(prompt: Prompt, messages: Any) -> None:
    if type(messages) is str:
        prompt.turns = 1
        prompt.length = prompt.total = len(messages)
        prompt.text = _ends(messages)
        return
    if type(messages) is not list:
        return
    last: Any = None
    total = system = turns = 0
    for message in messages:
        if type(message) is not dict:
            continue
        content = message.get("content")
        size = _size_of(prompt, content)
        total += size
        role = message.get("role")
        if role == "user":
            if type(content) is list and _are_results(content):
                continue
            last = content
            turns += 1
        elif role == "assistant":
            turns += 1
        elif type(role) is str and role in _SYSTEM:
            system += size
    prompt.total += total
    prompt.system += system
    prompt.turns = turns
    if type(last) is not str:
        last = _joined(last)
    prompt.length = len(last)
    prompt.text = _ends(last)


def _are_results(parts: list[Any]) -> bool:
    """Whether a user's turn is none: in messages, what tools gave comes under that role."""
    return bool(parts) and all(type(part) is dict and part.get("type") == "tool_result" for part in parts)


def _size_of(prompt: Prompt, content: Any) -> int:
    return len(content) if type(content) is str else _size_of_parts(prompt, content)


def _size_of_parts(prompt: Prompt, parts: Any) -> int:
    size = 0
    if type(parts) is list:
        for part in parts:
            if type(part) is dict:
                kind = part.get("type")
                text = part.get("text")
                if type(kind) is not str:
                    continue
                if kind in _TEXTS and type(text) is str:
                    size += len(text)
                elif kind in _IMAGES:
                    prompt.images += 1
                elif kind == "tool_result":
                    size += _size_of_result(prompt, part.get("content"))
    return size


def _size_of_result(prompt: Prompt, content: Any) -> int:
    """Of what a tool gave, one level deep: results hold no results."""
    if type(content) is list:
        content = [part for part in content if type(part) is dict and part.get("type") != "tool_result"]
    return _size_of(prompt, content)


def _joined(parts: Any) -> str:
    if type(parts) is not list:
        return ""
    texts = [
        part["text"]
        for part in parts
        if type(part) is dict and part.get("type") in ("text", "input_text") and type(part.get("text")) is str
    ]
    return texts[0] if len(texts) == 1 else "\n".join(texts)


def _ends(text: str) -> str:
    if len(text) <= HEAD_CHARACTERS + TAIL_CHARACTERS:
        return text
    return f"{text[:HEAD_CHARACTERS]}\n{text[-TAIL_CHARACTERS:]}"
