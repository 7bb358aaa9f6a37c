"""Server-sent events as byte blocks: where they end, and what their ``data`` is.

Lines end in LF or CRLF, or all of them in CR, which is legal and rare. Nothing is decoded to text.
"""

import re
from typing import Final

import orjson

_BOUNDARY: Final = re.compile(rb"\n\r?\n|\r\r")
_ENDS: Final = (b"\n\n", b"\n\r\n", b"\r\r")
_STOP: Final = re.compile(rb'\{\s*"type"\s*:\s*"message_stop"')
_LINE: Final = re.compile(rb"\r\n|\n|\r")


def complete_length(buffer: bytes | bytearray, start: int = 0) -> int:
    """The length of the part of ``buffer`` that holds whole events; ends are searched from ``start`` on."""
    length = 0
    for end in _ENDS:
        at = buffer.rfind(end, start)
        if at >= 0:
            length = max(length, at + len(end))
    return length


def split_events(block: bytes) -> list[bytes]:
    """Cut a block of whole events into events, each with its closing blank line; a rest without one comes last."""
    events: list[bytes] = []
    position = 0
    for match in _BOUNDARY.finditer(block):
        events.append(block[position : match.end()])
        position = match.end()
    if position < len(block):
        events.append(block[position:])
    return events


def event_data(event: bytes) -> bytes:
    """The ``data`` of one event, its lines joined by LF; empty for comments and bare ``event:`` lines."""
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in (_LINE.split(event) if b"\r" in event else event.split(b"\n"))
        if line.startswith(b"data:")
    ]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def tells_the_end(event: bytes) -> bool:
    """Whether it is the one that says that nothing follows."""
    data = event_data(event).strip()
    return data == b"[DONE]" or _STOP.match(data) is not None


def string_end(data: bytes, start: int) -> int:
    """The offset of the quote that closes the JSON string whose text begins at ``start``, or -1."""
    end = data.find(b'"', start)
    while end > start and data[end - 1] == 0x5C:
        slashes = 1
        while end - 1 - slashes >= start and data[end - 1 - slashes] == 0x5C:
            slashes += 1
        if slashes % 2 == 0:
            return end
        end = data.find(b'"', end + 1)
    return end


def unescape(text: bytes) -> str:
    """The text of a JSON string's inside; what cannot be decoded (a pair cut in two) is replaced."""
    try:
        value = orjson.loads(b'"' + text + b'"')
    except orjson.JSONDecodeError:
        return text.decode("utf-8", "replace")
    assert type(value) is str  # it was a JSON string
    return value
