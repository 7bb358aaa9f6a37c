"""What a request asks for, read once: model, stream, capabilities it needs, how big it is, whether it may move.

``parse`` does exactly one ``orjson.loads`` and never copies the prompt; ``rewrite`` (from ``proxy.splice``) changes
members in the raw bytes. Nothing here knows a provider, a route or a socket.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from optimizer.routing import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, MESSAGES, RESPONSES
from proxy.errors import ClientFault
from proxy.messages_body import read_messages_body
from proxy.splice import DELETE, parse_around, rewrite

__all__ = ["DELETE", "Envelope", "parse", "rewrite"]

BYTES_PER_TOKEN: Final = 4
# From here on, proving where the model's name stands costs more than parsing in two pieces does.
LARGE_BYTES: Final = 8 * 1024
# What providers charge for one picture lies between 85 and about 1,600 tokens; its base64 length says nothing.
IMAGE_TOKENS: Final = 800

_PAYLOAD: Final = {
    CHAT: "messages",
    COMPLETIONS: "prompt",
    EMBEDDINGS: "input",
    RESPONSES: "input",
    MESSAGES: "messages",
}
_OUTPUT_LIMITS: Final = {
    CHAT: ("max_completion_tokens", "max_tokens"),
    COMPLETIONS: ("max_tokens",),
    EMBEDDINGS: (),
    RESPONSES: ("max_output_tokens",),
    MESSAGES: ("max_tokens",),
}
_NOTHING: Final[frozenset[str]] = frozenset()
_OWN_TOOLS: Final = frozenset(("function", "custom"))


class Envelope:
    """One parsed request body. ``doc`` is shared with nobody and must not be mutated.

    ``needs`` is a subset of {"tools", "vision", "audio", "json_object", "json_schema", "native_messages"};
    ``input_tokens_estimate`` is bytes / 4 without base64 pictures and sound; ``stateful`` is true when the request
    names state that one provider holds, so that it must not be moved between upstreams. ``own`` names what of a
    Messages request has no counterpart elsewhere; ``version`` and ``is_beta`` are how its caller spells that API.
    """

    __slots__ = (
        "doc",
        "endpoint",
        "input_tokens_estimate",
        "is_beta",
        "known_member",
        "max_output_tokens",
        "model",
        "needs",
        "own",
        "raw",
        "stateful",
        "stream",
        "user",
        "version",
        "wants_usage",
    )

    def __init__(self, endpoint: str, raw: bytes, doc: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.raw = raw
        self.doc = doc
        self.model: str = ""
        self.stream = False
        self.wants_usage = False
        self.needs = _NOTHING
        self.input_tokens_estimate = len(raw) // BYTES_PER_TOKEN
        self.max_output_tokens: int | None = None
        self.user: str | None = None
        self.stateful = False
        self.known_member: tuple[str, int, int] | None = None
        if endpoint == MESSAGES:
            self.own: str | None = None
            self.version: bytes | None = None
            self.is_beta = False

    @property
    def choices(self) -> int:
        """How many answers are asked for: ``n`` to every prompt."""
        if self.endpoint == MESSAGES:
            return 1
        number = self.doc.get("n")
        prompts = self.doc.get("prompt") if self.endpoint == COMPLETIONS else None
        # A list of numbers is one prompt in tokens.
        several = len(prompts) if type(prompts) is list and prompts and type(prompts[0]) is not int else 1
        return several * (number if type(number) is int else 1)

    def __repr__(self) -> str:
        # The prompt must not reach a log through a traceback or a debugger's habit.
        return f"<Envelope {self.endpoint} model={self.model!r} {len(self.raw)} bytes>"


def parse(endpoint: str, raw: bytes, *, needs_limit: bool = True) -> Envelope:
    """Read a request body for one of ``optimizer.routing.ENDPOINTS``.

    Messages must say how long their answer may get; ``needs_limit`` is False for those that are only counted.

    Raises:
        ClientFault: The body is not a JSON object, or a field that we rely on is missing or of the wrong
            type; ``param`` names it. Everything else is the provider's to judge.
    """
    if endpoint not in ENDPOINTS:
        raise ValueError(f"unknown endpoint {endpoint!r}")
    doc, known = _read_document(raw)
    envelope = Envelope(endpoint, raw, doc)
    envelope.known_member = known
    model = doc.get("model")
    if type(model) is not str or not model:
        raise _wrong("model", "a non-empty string")
    envelope.model = model
    stream = doc.get("stream")
    if stream is not None:
        if type(stream) is not bool:
            raise _wrong("stream", "a boolean")
        envelope.stream = stream and endpoint != EMBEDDINGS
    options = doc.get("stream_options")
    if options is not None:
        if type(options) is not dict:
            raise _wrong("stream_options", "an object")
        envelope.wants_usage = options.get("include_usage") is True
    for name in _OUTPUT_LIMITS[endpoint]:
        limit = doc.get(name)
        if type(limit) is int:
            envelope.max_output_tokens = limit
            break
    user = doc.get("user") or doc.get("safety_identifier")
    if type(user) is str:
        envelope.user = user
    if needs_limit and endpoint == MESSAGES and envelope.max_output_tokens is None:
        raise _wrong("max_tokens", "an integer")
    _read_payload(envelope)
    return envelope


def _read_document(raw: bytes) -> tuple[dict[str, Any], tuple[str, int, int] | None]:
    """The body as an object and, for a large one, where its ``model`` stands if that came for free."""
    around = parse_around(raw, "model") if len(raw) >= LARGE_BYTES else None
    if around is not None:
        return around[0], ("model", around[1], around[2])
    try:
        doc = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ClientFault(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
    if type(doc) is not dict:
        raise ClientFault("The request body must be a JSON object.", code="invalid_json")
    return doc, None


def _wrong(name: str, expected: str) -> ClientFault:
    return ClientFault(f"'{name}' must be {expected}.", param=name)


def _read_payload(envelope: Envelope) -> None:
    doc = envelope.doc
    endpoint = envelope.endpoint
    needs: set[str] = set()
    payload = doc.get(_PAYLOAD[endpoint])
    if endpoint == CHAT:
        if type(payload) is not list or not payload:
            raise _wrong("messages", "a non-empty array")
        _read_items(envelope, payload, "messages", needs)
        if _asks_provider(doc) or doc.get("store") is True:
            envelope.stateful = True
        if doc.get("functions"):
            needs.add("tools")
        output_format = doc.get("response_format")
    elif endpoint == RESPONSES:
        _read_response_input(envelope, payload, needs)
        text = doc.get("text")
        output_format = text.get("format") if type(text) is dict else None
    elif endpoint == MESSAGES:
        _read_messages(envelope)
        return
    else:
        if type(payload) is not str and (type(payload) is not list or not payload):
            raise _wrong(_PAYLOAD[endpoint], "a string or a non-empty array")
        return
    tools = doc.get("tools")
    if tools:
        needs.add("tools")
        if type(tools) is list and any(_is_hosted(tool) for tool in tools):
            envelope.stateful = True
    if type(output_format) is dict and (kind := output_format.get("type")) in ("json_object", "json_schema"):
        needs.add(kind)
    if needs:
        envelope.needs = frozenset(needs)


def _read_messages(envelope: Envelope) -> None:
    found = read_messages_body(envelope.doc)
    envelope.needs = frozenset(found.needs)
    envelope.own = found.own
    envelope.stateful = found.stateful
    envelope.user = found.user
    for size in found.base64:
        envelope.input_tokens_estimate += IMAGE_TOKENS - size // BYTES_PER_TOKEN


def _asks_provider(doc: Mapping[str, Any]) -> bool:
    get = doc.get
    return bool(
        get("previous_response_id") or get("conversation") or get("background") or get("web_search_options")
    )


def _read_response_input(envelope: Envelope, payload: Any, needs: set[str]) -> None:
    doc = envelope.doc
    # Stored is the default there: only an explicit false leaves nothing behind at the provider.
    stored = doc.get("store") is not False
    template = type(doc.get("prompt")) is dict
    envelope.stateful = stored or template or _asks_provider(doc)
    if type(payload) is list:
        _read_items(envelope, payload, "input", needs)
    elif payload is None:
        if not template and not doc.get("previous_response_id") and not doc.get("conversation"):
            raise _wrong("input", "a string or an array")
    elif type(payload) is not str:
        raise _wrong("input", "a string or an array")


def _is_hosted(tool: Any) -> bool:
    kind = tool.get("type", "function") if type(tool) is dict else None
    return type(kind) is str and kind not in _OWN_TOOLS


def _read_items(envelope: Envelope, items: Sequence[Any], field: str, needs: set[str]) -> None:
    for index, item in enumerate(items):
        if type(item) is not dict:
            raise _wrong(f"{field}[{index}]", "an object")
        content = item.get("content")
        if type(content) is list:
            for part in content:
                if type(part) is dict:
                    _read_part(envelope, part, needs)
        # A reference to an item, sealed reasoning and earlier audio only mean something to who made them.
        get = item.get
        if get("type") == "item_reference" or get("encrypted_content") or get("audio") or get("file_id"):
            envelope.stateful = True


def _read_part(envelope: Envelope, part: Mapping[str, Any], needs: set[str]) -> None:
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text", "refusal"):
        return
    inner: Any = part
    if kind in ("image_url", "input_image", "image"):
        needs.add("vision")
        inner = part.get("image_url")
        data = inner.get("url") if type(inner) is dict else inner
        if type(data) is str and data.startswith("data:"):
            _discount(envelope, data)
    elif kind == "input_audio":
        needs.add("audio")
        inner = part.get("input_audio")
        if type(inner) is dict and type(data := inner.get("data")) is str:
            _discount(envelope, data)
    elif kind in ("file", "input_file"):
        needs.add("vision")
        inner = part.get("file", part)
    if part.get("file_id") or (type(inner) is dict and inner.get("file_id")):
        envelope.stateful = True


def _discount(envelope: Envelope, data: str) -> None:
    envelope.input_tokens_estimate += IMAGE_TOKENS - len(data) // BYTES_PER_TOKEN
