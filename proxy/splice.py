"""Change top-level members of a JSON object in its bytes, leaving every other byte as it was.

``rewrite`` never re-serialises what it does not change, so unknown fields, number spellings, white space and
100 KB of messages survive untouched. It needs the parsed document beside the bytes: the document
proves which members exist, so one occurrence of the quoted key in the bytes is enough to find it. Anything less
certain (the word also occurs deeper, a key spelled with escapes, duplicates) takes the exact scanner.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson


class Delete:
    """The type of ``DELETE``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "DELETE"


DELETE: Final = Delete()

_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_COMMA = ord(",")
_HEAD_BYTES = 512
_TAIL_BYTES = 16 * 1024
_SHORT_STRING_MEMBER = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.){0,512}")[ \t\r\n]*([,}])')
_SCALAR = rb"[^\s\"{}\[\],:]++"


def _nested(depth: int) -> bytes:
    """A container of at most ``depth`` levels as one pattern, so skipping it is one call into C."""
    inner = rb'(?:[^"{}\[\]]++|%s)*+' % _STRING
    for _ in range(depth):
        inner = rb'(?:[^"{}\[\]]++|%s|[{\[]%s[}\]])*+' % (_STRING, inner)
    return rb"[{\[]" + inner + rb"[}\]]"


_KEY = re.compile(_SPACE + b"(" + _STRING + b")" + _SPACE + b":" + _SPACE, re.DOTALL)
_COLON = re.compile(_SPACE + b":" + _SPACE)
_VALUE = re.compile(_STRING + b"|" + _SCALAR + b"|" + _nested(8), re.DOTALL)
_DEEP = re.compile(rb'[^"{}\[\]]*+(?:%s[^"{}\[\]]*+)*+' % _STRING, re.DOTALL)
_BLANK = re.compile(_SPACE)
# Keys are ASCII words; only an escape of a printable ASCII character could hide one.
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")


def value_end(raw: bytes, start: int) -> int:
    """The offset after the JSON value that begins at ``start``; ``raw`` must be valid JSON."""
    match = _VALUE.match(raw, start)
    if match is not None:
        return match.end()
    depth = 0
    position = start
    while True:
        opening = raw[position] in b"{["
        depth += 1 if opening else -1
        position += 1
        if depth == 0:
            return position
        skipped = _DEEP.match(raw, position)
        assert skipped is not None  # the pattern matches the empty string
        position = skipped.end()


def members(raw: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Yield (key, key start, value start, value end) of every top-level member of a valid JSON object."""
    blank = _BLANK.match(raw)
    assert blank is not None  # the pattern matches the empty string
    position = blank.end() + 1
    while (match := _KEY.match(raw, position)) is not None:
        end = value_end(raw, match.end())
        yield orjson.loads(match.group(1)), match.start(1), match.end(), end
        blank = _BLANK.match(raw, end)
        assert blank is not None  # the pattern matches the empty string
        position = blank.end()
        if raw[position : position + 1] != b",":
            return
        position += 1


def parse_around(raw: bytes, key: str) -> tuple[dict[str, Any], int, int] | None:
    """Parse a large object in two pieces, before and after its string member ``key``.

    Both pieces being objects of their own, neither with ``key`` in it, proves that the member stands at the
    top level exactly once, so replacing it later needs no further look at the bytes. The key is looked for
    near both ends, where clients put it.

    Returns:
        (document, start of the value, end of the value), or None when this does not apply, which says
        nothing about whether ``raw`` is valid.
    """
    word = orjson.dumps(key)
    at = raw.find(word, 0, _HEAD_BYTES)
    if at < 0:
        at = raw.rfind(word, max(0, len(raw) - _TAIL_BYTES))
    found = _SHORT_STRING_MEMBER.match(raw, at + len(word)) if at >= 0 else None
    if found is None:
        return None
    view = memoryview(raw)
    opening = at
    while raw[opening - 1] in b" \t\r\n":
        opening -= 1
    try:
        before = _piece(view, 0, opening, first=raw[opening - 1 : opening] == b"{")
        last = found.group(2) == b"}"
        after: Any = {} if last else orjson.loads(b"".join((b"{", view[found.end() :])))
        value = orjson.loads(found.group(1))
    except (orjson.JSONDecodeError, ValueError):
        return None
    if last and raw[found.end() :].strip(b" \t\r\n"):
        return None
    # An empty piece beside a comma would hide a comma too many.
    if (not last and not after) or key in before or key in after:
        return None
    before[key] = value
    before.update(after)
    return before, found.start(1), found.end(1)


def _piece(view: memoryview, start: int, end: int, *, first: bool) -> dict[str, Any]:
    """The members up to a comma (or to the opening brace when the key is ``first``) as an object."""
    if first:
        if bytes(view[start:end]).strip() != b"{":
            raise ValueError("the brace opens something deeper")
        return {}
    if view[end - 1] != _COMMA:
        raise ValueError("no member ends here")
    piece = orjson.loads(b"".join((view[start : end - 1], b"}")))
    if not isinstance(piece, dict) or not piece:
        raise ValueError("no members before a comma")
    return piece


def rewrite(
    raw: bytes,
    doc: Mapping[str, Any],
    changes: Mapping[str, Any],
    *,
    known: tuple[str, int, int] | None = None,
) -> bytes:
    """Return ``raw`` with top-level members set, added or (value ``DELETE``) removed.

    ``raw`` is a JSON object and ``doc`` what it parses to. Duplicates of a changed key are changed too, unless
    their values are of another kind (they lose to the last one in any case). New members go before the closing
    brace. Raises ``TypeError`` for values that are not JSON. ``known`` is a member whose only value is known to
    stand at raw[start:end] (see ``parse_around``).
    """
    if known is not None and changes.get(known[0], DELETE) is not DELETE:
        changes = dict(changes)
        value = orjson.dumps(changes.pop(known[0]))
        view = memoryview(raw)
        raw = b"".join((view[: known[1]], value, view[known[2] :]))
    added: list[bytes] = []
    removed: list[str] = []
    for key, value in changes.items():
        if value is DELETE:
            if key in doc:
                removed.append(key)
        elif key in doc:
            raw = _replace(raw, key, doc[key], orjson.dumps(value))
        else:
            added.append(orjson.dumps(key) + b":" + orjson.dumps(value))
    if added:
        closing = raw.rindex(b"}")
        separator = b"," if doc else b""
        raw = b"".join((raw[:closing], separator, b",".join(added), raw[closing:]))
    for key in removed:
        raw = _remove(raw, key)
    return raw


@lru_cache(maxsize=256)
def _locator(key: str, of_string: bool) -> re.Pattern[bytes]:
    """Finds the key as it is usually spelled, up to its value."""
    value = rb'(?=")' if of_string else b""
    return re.compile(re.escape(orjson.dumps(key)) + _SPACE + b":" + _SPACE + value)


def _replace(raw: bytes, key: str, current: Any, replacement: bytes) -> bytes:
    """Put ``replacement`` where the values of ``key`` are; ``current`` is the one that the parser saw.

    Without escapes in keys the top-level member must occur literally, so a single candidate is the member:
    text inside strings has its quotes escaped, and candidates whose value is of another kind are not it.
    """
    search = _locator(key, type(current) is str).search
    found = search(raw)
    if found is not None and search(raw, found.end()) is None and not _may_hide_keys(raw):
        start = found.end()
        return b"".join((raw[:start], replacement, raw[value_end(raw, start) :]))
    parts: list[bytes] = []
    position = 0
    for name, _, start, end in members(raw):
        if name == key:
            parts += (raw[position:start], replacement)
            position = end
    parts.append(raw[position:])
    return b"".join(parts)


def _may_hide_keys(raw: bytes) -> bool:
    return b"\\" in raw and _ESCAPED_ASCII.search(raw) is not None


def _remove(raw: bytes, key: str) -> bytes:
    """Cut every member called ``key`` together with one neighbouring comma."""
    while True:
        for name, start, _, end in members(raw):
            if name == key:
                raw = cut_member(raw, start, end)
                break
        else:
            return raw


def cut_member(raw: bytes, start: int, end: int) -> bytes:
    """Remove the member whose key starts at ``start`` and whose value ends at ``end``.

    The comma before it goes too, or the one after it when it is the first; what is left is what a serializer
    of the same style would have written without the member.
    """
    before = start - 1
    while raw[before] in b" \t\r\n":
        before -= 1
    if raw[before : before + 1] == b",":
        return raw[:before] + raw[end:]
    after = _BLANK.match(raw, end)
    assert after is not None  # the pattern matches the empty string
    if raw[after.end() : after.end() + 1] == b",":
        after = _BLANK.match(raw, after.end() + 1)
        assert after is not None  # the pattern matches the empty string
        return raw[:start] + raw[after.end() :]
    return raw[:start] + raw[end:]
