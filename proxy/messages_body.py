"""What a Messages body asks for: which abilities it takes, and what of it only an Anthropic API understands.

Whatever a caller sends, reading it raises for nothing but the two members that everything else relies on. ``own`` names
the first thing that has no counterpart elsewhere (a search result, a hosted tool, a file held there), so that requests
with one go to an arm that speaks the API itself, or are refused with that name.
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.errors import ClientFault

NATIVE: Final = "native_messages"
"""The need of requests that can not be translated."""

# Blocks that every chat model understands once they are translated; reasoning of earlier answers is left out.
_PLAIN_BLOCKS: Final = frozenset(("text", "tool_use", "thinking", "redacted_thinking"))
# Tools of the API's own making that the caller runs; the others run there, and leave things behind there.
_CALLERS_TOOLS: Final = ("bash_", "text_editor_", "computer_", "memory_")
_STATE_MEMBERS: Final = ("container", "mcp_servers")
_ROLES: Final = frozenset(("user", "assistant", "system"))


class MessagesBody:
    """What was found. ``base64`` lists the lengths of pictures that stand in the body."""

    __slots__ = ("base64", "needs", "own", "stateful", "user")

    def __init__(self) -> None:
        self.needs: set[str] = set()
        self.own: str | None = None
        self.stateful = False
        self.base64: list[int] = []
        self.user: str | None = None

    def keep_native(self, where: str, *, stateful: bool = False) -> None:
        """Only an Anthropic API can take it; with ``stateful`` only the one that holds what it names."""
        if self.own is None:
            self.own = where
        self.needs.add(NATIVE)
        self.stateful |= stateful


def read_messages_body(doc: Mapping[str, Any]) -> MessagesBody:
    """Read a parsed body.

    Raises:
        ClientFault: ``messages`` is no array of objects.
    """
    found = MessagesBody()
    messages = doc.get("messages")
    if type(messages) is not list or not messages:
        raise ClientFault("'messages' must be a non-empty array.", param="messages")
    for index, message in enumerate(messages):
        if type(message) is not dict:
            where = f"messages[{index}]"
            raise ClientFault(f"'{where}' must be an object.", param=where)
        content = message.get("content")
        if type(content) is list:
            _read_blocks(found, content, f"messages[{index}].content")
        role = message.get("role")
        if type(role) is not str or role not in _ROLES:
            found.keep_native(f"messages[{index}].role")
    system = doc.get("system")
    if type(system) is list:
        _read_blocks(found, system, "system")
    if tools := doc.get("tools"):
        found.needs.add("tools")
        _read_tools(found, tools)
    for name in _STATE_MEMBERS:
        if doc.get(name):
            found.keep_native(f"'{name}'", stateful=True)
    if output_schema(doc) is not None:
        found.needs.add("json_schema")
    metadata = doc.get("metadata")
    user = metadata.get("user_id") if type(metadata) is dict else None
    found.user = user if type(user) is str and user else None
    return found


def output_schema(doc: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that the answer has to follow, as ``output_config.format`` or, before that, ``output_format``."""
    config = doc.get("output_config")
    form = config.get("format") if type(config) is dict else None
    form = form or doc.get("output_format")
    if type(form) is not dict or form.get("type") != "json_schema":
        return None
    schema = form.get("schema")
    return schema if type(schema) is dict else {}


def _read_blocks(found: MessagesBody, blocks: list[Any], where: str) -> None:
    for index, block in enumerate(blocks):
        kind = block.get("type") if type(block) is dict else None
        if kind == "text":
            continue
        here = f"{where}[{index}]"
        if type(kind) is not str:
            found.keep_native(here)
        elif kind in ("image", "document"):
            _read_source(found, block, kind, here)
        elif kind == "tool_result":
            if type(inner := block.get("content")) is list:
                _read_blocks(found, inner, f"{here}.content")
        elif kind not in _PLAIN_BLOCKS:
            # Results of hosted tools are sealed for the provider that made them.
            hosted = kind == "server_tool_use" or kind.endswith("_tool_result") or bool(block.get("file_id"))
            found.keep_native(f"{here} of type {kind[:64]!r}", stateful=hosted)


def _read_source(found: MessagesBody, block: Mapping[str, Any], kind: str, here: str) -> None:
    source = block.get("source")
    form = source.get("type") if type(source) is dict else None
    if type(source) is not dict or type(form) is not str:
        found.keep_native(f"{here}.source")
    elif form == "base64":
        found.needs.add("vision")
        if kind == "image" and type(data := source.get("data")) is str:
            found.base64.append(len(data))
    elif form == "url" and kind == "image":
        found.needs.add("vision")
    elif form == "file":
        found.needs.add("vision")
        found.keep_native(f"{here}.source of type 'file'", stateful=True)
    elif form != "text" or kind != "document":
        found.needs.add("vision")
        found.keep_native(f"{here}.source of type {form[:64]!r}")
    citations = block.get("citations")
    if type(citations) is dict and citations.get("enabled"):
        found.keep_native(f"{here}.citations")


def _read_tools(found: MessagesBody, tools: Any) -> None:
    for index, tool in enumerate(tools if type(tools) is list else ()):
        kind = tool.get("type", "custom") if type(tool) is dict else None
        if kind in ("custom", None) and type(tool) is dict:
            continue
        named = kind if type(kind) is str else "?"
        callers = named.startswith(_CALLERS_TOOLS)
        found.keep_native(f"tools[{index}] of type {named[:64]!r}", stateful=not callers)
