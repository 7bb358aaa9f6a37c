"""Apply a prompt variant to a parsed request.

Pure: the input document and everything in it stay as they are; what changes is copied along the way. A template is
plain substitution of ``{question}``, nothing else in it is special.
"""

from typing import Any, Final

from optimizer.routing import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Variant

QUESTION: Final = "{question}"
_GAP: Final = "\n\n"
_SYSTEM_ROLES: Final = ("system", "developer")


def apply_variant(doc: dict[str, Any], endpoint: str, variant: Variant) -> dict[str, Any] | None:
    """The document as the variant wants it, or None when nothing changes.

    ``system`` is set, prepended or appended to the system text (chat: the leading system or developer messages;
    responses: ``instructions``; messages: ``system``; completions: text before the prompt). ``template`` wraps the last
    user message.
    A template without ``{question}`` would lose the question, so it is not applied. Embeddings and token-id
    prompts never change.
    """
    if variant.is_identity:
        return None
    if endpoint == CHAT:
        return _chat(doc, variant)
    if endpoint == RESPONSES:
        return _responses(doc, variant)
    if endpoint == COMPLETIONS:
        return _completions(doc, variant)
    if endpoint == MESSAGES:
        return _messages(doc, variant)
    return None


def _join(text: str, variant: Variant) -> str:
    assert variant.system is not None
    if variant.mode == "set" or not text:
        return variant.system
    if variant.mode == "append":
        return text + _GAP + variant.system
    return variant.system + _GAP + text


def _wrap(text: str, template: str) -> str:
    return template.replace(QUESTION, text)


def _chat(doc: dict[str, Any], variant: Variant) -> dict[str, Any] | None:
    messages: list[Any] = doc["messages"]
    changed = messages
    if variant.template is not None:
        changed = _wrap_last_user(changed, variant.template, "text")
    if variant.system is not None:
        changed = _with_system(changed, variant)
    return None if changed is messages else {**doc, "messages": changed}


def _with_system(messages: list[Any], variant: Variant) -> list[Any]:
    leading = 0
    while leading < len(messages) and messages[leading].get("role") in _SYSTEM_ROLES:
        leading += 1
    if leading == 0:
        return [{"role": "system", "content": variant.system}, *messages]
    if variant.mode == "set":
        return [{"role": messages[0]["role"], "content": variant.system}, *messages[leading:]]
    at = leading - 1 if variant.mode == "append" else 0
    message = messages[at]
    content = message.get("content")
    joined: Any
    if type(content) is list:
        joined = _join_parts(content, variant)
    else:
        joined = _join(content if type(content) is str else "", variant)
    return [*messages[:at], {**message, "content": joined}, *messages[at + 1 :]]


def _join_parts(parts: list[Any], variant: Variant) -> list[Any]:
    """Add a part rather than edit one: cache markers on the others keep their meaning."""
    assert variant.system is not None
    if variant.mode == "append":
        return [*parts, {"type": "text", "text": _GAP + variant.system}]
    return [{"type": "text", "text": variant.system + _GAP}, *parts]


def _wrap_last_user(items: list[Any], template: str, kind: str) -> list[Any]:
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if item.get("role") == "user":
            content = _wrap_content(item.get("content"), template, kind)
            if content is None:
                return items
            return [*items[:index], {**item, "content": content}, *items[index + 1 :]]
    return items


def _wrap_content(content: Any, template: str, kind: str) -> Any:
    if QUESTION not in template:
        return None
    if type(content) is str:
        return _wrap(content, template)
    if type(content) is not list:
        return None
    texts = [
        index
        for index, part in enumerate(content)
        if type(part) is dict and part.get("type") == kind and type(part.get("text")) is str
    ]
    if not texts:
        return None
    parts = list(content)
    before, after = template.split(QUESTION, 1)
    if QUESTION not in after:
        # Text may be interleaved with pictures: wrapping its two ends keeps every part in its place.
        first, last = texts[0], texts[-1]
        parts[first] = {**parts[first], "text": before + parts[first]["text"]}
        parts[last] = {**parts[last], "text": parts[last]["text"] + after}
        return parts
    question = "\n".join(content[index]["text"] for index in texts)
    parts[texts[0]] = {**parts[texts[0]], "text": _wrap(question, template)}
    return [part for index, part in enumerate(parts) if index not in texts[1:]]


def _responses(doc: dict[str, Any], variant: Variant) -> dict[str, Any] | None:
    changes: dict[str, Any] = {}
    if variant.system is not None:
        instructions = doc.get("instructions")
        changes["instructions"] = _join(instructions if type(instructions) is str else "", variant)
    if variant.template is not None:
        given = doc.get("input")
        if type(given) is str and QUESTION in variant.template:
            changes["input"] = _wrap(given, variant.template)
        elif type(given) is list:
            wrapped = _wrap_last_user(given, variant.template, "input_text")
            if wrapped is not given:
                changes["input"] = wrapped
    return {**doc, **changes} if changes else None


def _messages(doc: dict[str, Any], variant: Variant) -> dict[str, Any] | None:
    changes: dict[str, Any] = {}
    if variant.system is not None:
        system = doc.get("system")
        if type(system) is list and system and variant.mode != "set":
            changes["system"] = _join_parts(system, variant)
        else:
            changes["system"] = _join(system if type(system) is str else "", variant)
    if variant.template is not None:
        messages: list[Any] = doc["messages"]
        # Results of tools come as turns of the user's; the question is before them.
        asked = next((at for at in range(len(messages) - 1, -1, -1) if _has_question(messages[at])), -1)
        wrapped = _wrap_last_user(messages[: asked + 1], variant.template, "text")
        if asked >= 0 and wrapped[asked] is not messages[asked]:
            changes["messages"] = [*wrapped, *messages[asked + 1 :]]
    return {**doc, **changes} if changes else None


def _has_question(message: dict[str, Any]) -> bool:
    content = message.get("content")
    if message.get("role") != "user":
        return False
    return type(content) is str or (
        type(content) is list and any(type(part) is dict and part.get("type") == "text" for part in content)
    )


def _completions(doc: dict[str, Any], variant: Variant) -> dict[str, Any] | None:
    prompt = doc["prompt"]
    if type(prompt) is str:
        return {**doc, "prompt": _complete(prompt, variant)}
    if all(type(item) is str for item in prompt):
        return {**doc, "prompt": [_complete(item, variant) for item in prompt]}
    return None


def _complete(prompt: str, variant: Variant) -> str:
    if variant.template is not None and QUESTION in variant.template:
        prompt = _wrap(prompt, variant.template)
    return prompt if variant.system is None else variant.system + _GAP + prompt
