"""What makes two requests the same: one pure function from a request to the name of its answer.

Whatever can change an answer is in the name: the route and what its side would ask whom, the whole body, the headers
that cross to an upstream, and who asks unless the route says that this does not matter. The order of the body's members
and of those of its messages does not count, nor does whitespace; inside a schema order can change the answer, so there
it counts, as in all of a Messages request. Names are keyed hashes: they tell nobody what was asked, and nobody can make
one up.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import orjson

from optimizer.routing import MESSAGES, Caching
from proxy import headers as crossing
from proxy.compiled import CompiledArm, CompiledSide
from proxy.dispatch import Decision
from proxy.envelope import Envelope
from proxy.http1.messages import Request

KEY_BYTES: Final = 32
# Where SDKs put credentials; the client keys of this proxy are taken out before.
_CREDENTIALS: Final = (b"authorization", b"x-api-key", b"api-key")
# Headers that cross to an upstream and only name the request.
_NAMING: Final = frozenset((b"idempotency-key", b"traceparent", b"tracestate", b"baggage"))
_TELLING: Final = tuple(sorted((crossing.FORWARDED_NAMES | {b"anthropic-version"}) - _NAMING))
# Members of the body in which no schema stands, so that the order inside says nothing.
_UNORDERED: Final = frozenset(("messages", "input", "stream_options"))
# Two numbers that only differ beyond the precision of a double have 16 digits or more, with a point among them, or 20.
_LONG: Final = b"0" * 17
_DIGITS: Final = bytes.maketrans(b"123456789.", _LONG[:10])


def entry_key(
    secret: bytes,
    decision: Decision,
    envelope: Envelope,
    request: Request,
    rules: Caching,
) -> bytes:
    """Name of the answer to a request that was decided, ``KEY_BYTES`` long.

    Args:
        secret: What the hash is keyed with, the same for all who are to find each other's answers.
        decision: Its arm does not count unless it was pinned: whichever was drawn, the answer is the route's.
        envelope: The whole body counts.
        request: Its query, its headers, and the client key that asks, if one is asked for.
        rules: Whether all callers are one. An upstream that is asked with the caller's own credential still tells
            them apart. With another ``ttl_s`` everything is asked anew.
    """
    side, headers, caller = decision.side, request.headers, request.caller
    pin = headers.get(crossing.PIN)
    parts = [
        decision.route.name.encode(),
        side.name.encode(),
        b"%r" % rules.ttl_s,
        # Another rollout is another experiment, even with the same arms.
        (decision.route.rollout or "").encode() if side is decision.route.candidate else b"",
        meaning(side),
        envelope.endpoint.encode(),
        request.query.encode(),
        b"" if pin is None else b"=" + decision.arm.id.encode(),
        # What keeps its arm must not see another's.
        decision.unit_hash.encode(),
        b"" if rules.shared else b"*" if caller is None else b"=" + caller.id.encode(),
    ]
    if (caller is None and not rules.shared) or side.passthrough:
        parts += _values(headers, _CREDENTIALS)
    parts += _values(headers, _TELLING)
    # The input of a tool call is shown to the model as it is written.
    unordered = _UNORDERED if envelope.endpoint != MESSAGES else frozenset()
    parts.append(canonical(envelope.doc, unordered))
    if has_long_numbers(envelope.raw):
        parts.append(envelope.raw)
    return _digest(parts, secret)


def meaning(side: CompiledSide) -> bytes:
    """Hash of what a side would ask and whom: all but shares, prices and patience. Computed once for its arms."""
    known = side.meanings.get("")
    if known is None:
        known = side.meanings[""] = _digest([_asks(arm) for arm in side.arms])
    return known


def canonical(doc: Mapping[str, Any], unordered: frozenset[str] = _UNORDERED) -> bytes:
    """The body in one way of writing, whatever the way it came in.

    ``unordered`` are the members of it inside which order does not count either.
    """
    parts = []
    for name in sorted(doc):
        option = orjson.OPT_SORT_KEYS if name in unordered else None
        parts.append(orjson.dumps(name))
        parts.append(orjson.dumps(doc[name], option=option))
    return b"\n".join(parts)


def has_long_numbers(raw: bytes) -> bool:
    """Whether some number of the body may have more digits than its parsed form holds; then every byte counts."""
    return _LONG in raw.translate(_DIGITS)


def is_ambiguous(raw: bytes) -> bool:
    """Whether a member stands twice in an object of the body: readers differ in which of them they take.

    Who shares answers could else be given what somebody asked for under a harmless name.
    """

    def read(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise _Ambiguous
        return members

    try:
        json.loads(raw, object_pairs_hook=read)
    except (_Ambiguous, ValueError, RecursionError):
        return True
    return False


class _Ambiguous(Exception):
    """A member stands twice."""


def _values(headers: Mapping[bytes, bytes], names: Iterable[bytes]) -> list[bytes]:
    """A part for each name; a header that is not there differs from an empty one."""
    return [b"=" + headers[name] if name in headers else b"" for name in names]


def _asks(arm: CompiledArm) -> bytes:
    model, upstream = arm.model, arm.handle.upstream
    content = {
        "arm": (arm.id, arm.arm.model_key, arm.arm.variant_key, dict(arm.arm.parameters)),
        "model": (model.model_id, model.key, model.max_output_tokens, sorted(model.capabilities)),
        "upstream": (
            *(
                upstream.name,
                upstream.provider,
                upstream.base_url,
                upstream.unix_socket,
                dict(upstream.paths),
            ),
            *(upstream.auth, upstream.secret, upstream.headers),
        ),
    }
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def _digest(parts: Iterable[bytes], secret: bytes = b"") -> bytes:
    """One hash of all parts, none of which can pass for a piece of its neighbour."""
    whole = blake2b(digest_size=KEY_BYTES, key=secret, person=b"cache")
    for part in parts:
        whole.update(b"%d:" % len(part))
        whole.update(part)
    return whole.digest()
