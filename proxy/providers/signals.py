"""Quality signals that need no judge: refusals, and whether asked-for JSON is JSON.

The refusal pattern is a *rate guard*: compared between arms it shows that one of them has begun to decline. It is
no reward: it reads a few hundred characters of a few languages, and a right refusal is not a fault.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from optimizer.routing import CHAT, MESSAGES
from proxy.envelope import Envelope
from proxy.messages_body import output_schema

_CANNOT: Final = r"(?:can't|cannot|can\s+not|unable|won't|not\s+able)"
_DECLINE: Final = (
    r"(?:can't|cannot|won't|will\s+not|must\s+decline|have\s+to\s+decline"
    r"|(?:am\s+|'m\s+)?(?:unable|not\s+able)\s+to)"
)
_TASK: Final = (
    r"(?:assist|help|comply|provide|fulfill?|answer|do|create|write|generate"
    r"|with|engage|discuss|support|share)"
)
_REFUSAL: Final = re.compile(
    rf"""^[\s"'*>]*(?:
      (?:i'm|i\s+am)\s+(?:very\s+|so\s+|really\s+)?sorry\b.{{0,40}}?\b{_CANNOT}
    | (?:sorry|apologies|unfortunately)\b.{{0,40}}?\bi\b.{{0,12}}?\b{_CANNOT}
    | i(?:\s+|(?='m)){_DECLINE}\s+(?:\w+\s+)?{_TASK}\b
    | as\s+an\s+ai\b.{{0,60}}?\bi\s+(?:am\s+)?(?:{_CANNOT}|do\s+not|don't)
    | es\s+tut\s+mir\s+(?:sehr\s+)?leid\b.{{0,60}}?\b(?:kann|darf|nicht)
    | (?:je\s+suis\s+)?d[ée]sol[ée]e?\b.{{0,60}}?\b(?:peux|pouvons|puis)\b
    | lo\s+siento\b.{{0,60}}?\bno\s+(?:puedo|podemos)
    | (?:mi\s+dispiace|spiacente)\b.{{0,60}}?\bnon\s+(?:posso|possiamo)
    | (?:desculpe|sinto\s+muito)\b.{{0,60}}?\bn[ãa]o\s+(?:posso|podemos)
    | (?:抱歉|对不起|很抱歉).{{0,30}}(?:不能|无法)
    | (?:申し訳|すみません).{{0,40}}(?:できません|できかね)
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_TYPOGRAPHIC: Final = "\N{RIGHT SINGLE QUOTATION MARK}"

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def is_refusal(head: str) -> bool:
    """Whether an answer begins like a refusal. ``head`` is its first 256 characters."""
    return _REFUSAL.match(head.replace(_TYPOGRAPHIC, "'")) is not None


def wants_json(envelope: Envelope) -> bool:
    """Whether the request asked for JSON text."""
    return "json_object" in envelope.needs or "json_schema" in envelope.needs


def json_validity(envelope: Envelope, text: str | bytes) -> bool:
    """Whether ``text`` is what ``response_format`` (or ``text.format``) asked for.

    With a schema: its top level only (type, required members, their types). Deeper faults pass.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    schema = _schema(envelope)
    if schema is None:
        return type(value) is dict
    return _matches(value, schema)


def _schema(envelope: Envelope) -> Mapping[str, Any] | None:
    if "json_schema" not in envelope.needs:
        return None
    if envelope.endpoint == MESSAGES:
        return output_schema(envelope.doc)
    if envelope.endpoint == CHAT:
        outer = envelope.doc["response_format"].get("json_schema")
    else:
        outer = envelope.doc["text"]["format"]
    schema = outer.get("schema") if type(outer) is dict else None
    return schema if type(schema) is dict else None


def _matches(value: Any, schema: Mapping[str, Any]) -> bool:
    if not _has_type(value, schema.get("type")):
        return False
    if type(value) is not dict:
        return True
    required = schema.get("required")
    if type(required) is list and any(type(name) is str and name not in value for name in required):
        return False
    properties = schema.get("properties")
    if type(properties) is not dict:
        return True
    return all(
        _has_type(value[name], inner.get("type"))
        for name, inner in properties.items()
        if name in value and type(inner) is dict
    )


def _has_type(value: Any, declared: Any) -> bool:
    names = declared if type(declared) is list else [declared]
    for name in names:
        kinds = _TYPES.get(name) if type(name) is str else None
        if kinds is None or type(value) in kinds:
            return True
        if name == "integer" and type(value) is float and value.is_integer():
            return True
    return False
