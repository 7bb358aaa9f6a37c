"""Asking a model at its upstream from the optimizer process, through the same codecs and connections as requests do.

Credentials are resolved for each call and kept nowhere; an upstream that takes the caller's own is never called. A call
ends in an answer or in a ``CallFault`` that says whether it is worth trying again, and whether the request itself was
to blame.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from optimizer.judging.sample import answer_of
from optimizer.routing import Arm, Model, Upstream, Variant
from proxy.envelope import Envelope
from proxy.errors import Overloaded, ProxyError, UpstreamFault
from proxy.http1.client import Origin, Pool
from proxy.http1.framing import encode_headers
from proxy.pricing import cost_usd
from proxy.providers.base import Prepared
from proxy.providers.registry import CODECS
from proxy.providers.signals import is_refusal

REPLY_BYTES: Final = 1024 * 1024
TIMEOUT_S: Final = 60.0
# The upstream is there, but not for us, whatever is asked.
_LOCKED: Final = frozenset((401, 402, 403, 404))
_BUSY: Final = frozenset((408, 409, 425, 429))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to one arm."""

    envelope: Envelope
    arm: Arm
    model: Model
    variant: Variant
    upstream: Upstream


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``text`` is None when the reply was no plain text; ``cost_usd`` None when it can't be told."""

    text: str | None
    cost_usd: float | None
    refused: bool = False


class CallFault(Exception):
    """There is no answer. ``word`` is stable; ``blames_request``: another request might be answered at once.

    ``charged`` says that the upstream may have done its work, so that it has to be counted as paid for.
    """

    def __init__(self, word: str, *, blames_request: bool = False, charged: bool = False) -> None:
        super().__init__(word)
        self.word = word
        self.blames_request = blames_request
        self.charged = charged


class Caller(Protocol):
    """Asks one arm."""

    async def __call__(self, asked: Asked) -> Answer:
        """The answer.

        Raises:
            CallFault: There is none.
        """
        ...


class UpstreamCaller:
    """Implements ``Caller``. ``resolve`` finds the value behind a secret's reference. One event loop."""

    def __init__(self, resolve: Callable[[str], str | None], *, timeout_s: float = TIMEOUT_S) -> None:
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._pools: dict[str, tuple[Upstream, Pool]] = {}

    async def __call__(self, asked: Asked) -> Answer:
        """See ``Caller``."""
        upstream = asked.upstream
        codec = CODECS[upstream.provider]
        try:
            prepared = codec.prepare(asked.envelope, asked.arm, asked.model, asked.variant, upstream)
        except ProxyError as fault:
            raise CallFault("unsupported", blames_request=True) from fault
        status, body = await self._send(upstream, prepared, self._head(upstream, prepared))
        if status != 200:
            raise _of_status(status)
        try:
            reply, facts = codec.unary(asked.envelope, body)
        except ProxyError as fault:
            raise CallFault("garbage", blames_request=True, charged=True) from fault
        if facts.error_type is not None:
            raise CallFault("garbage", blames_request=True, charged=True)
        cost = cost_usd(asked.model.price, facts)
        text = answer_of(asked.envelope.endpoint, reply)
        return Answer(text, cost, refused=bool(facts.text_head) and is_refusal(facts.text_head))

    def close(self) -> None:
        """Close every connection."""
        for _, pool in self._pools.values():
            pool.abort()
        self._pools.clear()

    def _head(self, upstream: Upstream, prepared: Prepared) -> bytes:
        headers: list[tuple[bytes | str, bytes | str]] = [
            (b"host", urlsplit(upstream.base_url).netloc.rpartition("@")[2] or "localhost"),
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"llm-optimizer"),
        ]
        if upstream.auth == "passthrough":
            raise CallFault("passthrough")
        if upstream.auth == "key" and upstream.secret is not None:
            secret = self._resolve(upstream.secret)
            if secret is None:
                raise CallFault("no_credentials")
            headers.append(CODECS[upstream.provider].auth_header(upstream, secret))
        headers += upstream.headers
        headers += prepared.headers
        headers.append((b"content-length", b"%d" % len(prepared.body)))
        return b"POST %b HTTP/1.1\r\n%b\r\n" % (prepared.path.encode("latin-1"), encode_headers(headers))

    async def _send(self, upstream: Upstream, prepared: Prepared, head: bytes) -> tuple[int, bytes]:
        try:
            pool = self._pool(upstream)
        except (ValueError, OSError) as error:
            raise CallFault("bad_upstream") from error
        done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        call = pool.send(head, prepared.body, _Reply(done), bound=("judge", self._timeout_s))
        try:
            return await done
        except (UpstreamFault, Overloaded) as fault:
            # A reply that never ended may have been paid for.
            raise CallFault(fault.code or "unreachable", charged=fault.status == 504) from fault
        finally:
            if not done.done() or done.cancelled():
                call.cancel()

    def _pool(self, upstream: Upstream) -> Pool:
        known = self._pools.get(upstream.name)
        if known is not None and known[0] == upstream:
            return known[1]
        if known is not None:
            known[1].close()
        pool = Pool(Origin.from_upstream(upstream))
        self._pools[upstream.name] = (upstream, pool)
        return pool


class _Reply:
    """Collects one reply into a future. Implements ``ReplySink``."""

    __slots__ = ("_body", "_done", "_status")

    def __init__(self, done: "asyncio.Future[tuple[int, bytes]]") -> None:
        self._done = done
        self._status = 0
        self._body = bytearray()

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status

    def reply_body(self, data: bytes) -> None:
        if len(self._body) <= REPLY_BYTES:
            self._body += data

    def reply_flush(self) -> None:
        """Only the whole reply means anything."""

    def reply_end(self) -> None:
        if not self._done.done():
            self._done.set_result((self._status, bytes(self._body)))

    def reply_failed(self, fault: UpstreamFault | Overloaded) -> None:
        if not self._done.done():
            self._done.set_exception(fault)


def _of_status(status: int) -> CallFault:
    if status in _LOCKED:
        return CallFault(f"http_{status}")
    if status in _BUSY or status >= 500:
        return CallFault("busy" if status in _BUSY else f"http_{status}")
    return CallFault("bad_request", blames_request=True)
