"""Requests from one node's admin surface to another's, which believes them because they are signed.

A request goes on once at most: what another node sent is answered from what the node itself has. It is signed with what
all nodes of the cluster know, over everything that it asks for, the node that it is meant for and its time. So nothing
that opens anything is on the wire or, since addresses come from Redis, given to whoever writes one there; the caller's
own key stays on the node that the caller chose. The header's name is one that says of itself that the request is not a
local one, to nodes of any version.
"""

import asyncio
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote, unquote

import aiohttp
import orjson
from yarl import URL

from proxy.control.cluster.peers import Peer, Peers

HEADER: Final = "X-Forwarded-Llm-Optimizer"

CONNECT_S: Final = 1.0
READ_S: Final = 2.0
"""For an answer to a question; nobody waits for a node that does not answer, it is named instead."""
WRITE_S: Final = 12.0
"""For an order: its own node waits for the database before it gives up, and its word is worth more than a guess."""
VALID_S: Final = 60.0
"""How far the clocks of two nodes may be apart, and how long a request could be sent again by a stranger."""

_MOST_BYTES: Final = 64 * 1024 * 1024
_MOST_SEEN: Final = 10_000
_MAC_BYTES: Final = 16
_PERSON: Final = b"llm-opt hop"
_PASSED: Final = ("content-type", "if-match", "if-none-match", "idempotency-key")
"""Headers of the caller that mean something to the other node."""
_SHAPE = re.compile(
    r"v1;from=([0-9a-f]{8});to=([0-9a-f]{8});at=([0-9]{1,15});nonce=([0-9a-f]{16});actor=([!-:<-~]{0,400});"
    r"mac=([0-9a-f]{32})"
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: ``target`` is path and query as they stand in the request line, header names are lower-case."""

    method: str
    target: str
    actor: str
    body: bytes = b""
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return self.method in ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a node answered; header names are lower-case. ``took_s`` is from asking to the last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    took_s: float

    def document(self) -> Any:
        """The body as JSON; None when it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


class Unreachable(Exception):
    """The node did not answer; with ``is_uncertain`` it may have done what it was asked to do all the same."""

    def __init__(self, reason: str, *, is_uncertain: bool = False) -> None:
        super().__init__(reason)
        self.is_uncertain = is_uncertain


class Stranger(Exception):
    """A request that claims to come from a node and does not prove it."""


class Forwarder:
    """Asks other nodes, and recognises what they ask.

    Args:
        peers: The cluster.
        now: Unix seconds.
        read_s: How long an answer to a question may take.
        write_s: How long an order may take.
    """

    def __init__(
        self, peers: Peers, *, now: Callable[[], float], read_s: float = READ_S, write_s: float = WRITE_S
    ) -> None:
        self._peers = peers
        self._now = now
        self._read_s = read_s
        self._write_s = write_s
        self._session: aiohttp.ClientSession | None = None
        self._seen: OrderedDict[str, float] = OrderedDict()

    async def ask(self, peer: Peer, question: Question) -> Reply:
        """The answer of another node, whatever its status.

        Raises:
            Unreachable: There was none in time, or none that could be used.
        """
        headers = [(name, value) for name in _PASSED for value in question.headers.get(name, ())]
        headers.append((HEADER, self._sign(peer, question)))
        clock = asyncio.get_running_loop().time
        began = clock()
        is_sent = False
        try:
            async with asyncio.timeout(self._read_s if question.is_read else self._write_s):
                response = await self._client().request(
                    question.method,
                    URL(f"http://{peer.address}{question.target}", encoded=True),
                    data=question.body or None,
                    headers=headers,
                    # What the caller did not say must not be said, because what is said is signed.
                    skip_auto_headers=_PASSED,
                    allow_redirects=False,
                )
                is_sent = True
                async with response:
                    body = await response.content.read(_MOST_BYTES + 1)
                    while len(body) <= _MOST_BYTES and (more := await response.content.read(_MOST_BYTES)):
                        body += more
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            # A connection that was not made in time carried nothing.
            uncertain = not isinstance(error, aiohttp.ConnectionTimeoutError)
            raise Unreachable("did not answer in time", is_uncertain=uncertain) from error
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"can't be connected to ({error.os_error.strerror or 'no route'})") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"broke off ({type(error).__name__})", is_uncertain=True) from error
        if len(body) > _MOST_BYTES:
            raise Unreachable("answered too much", is_uncertain=is_sent)
        if response.status == 401:
            raise Unreachable(_refusal(body))
        found = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, found, body, clock() - began)

    async def ask_all(
        self, peers: Sequence[Peer], question: Question
    ) -> list[tuple[Peer, "Reply | Unreachable"]]:
        """What each of ``peers`` answers, or why it does not; all are asked at the same time."""

        async def one(peer: Peer) -> Reply | Unreachable:
            try:
                return await self.ask(peer, question)
            except Unreachable as away:
                return away

        return list(zip(peers, await asyncio.gather(*map(one, peers)), strict=True))

    def recognise(self, signature: str, question: Question) -> str:
        """Who asked, of a request that carried ``signature``; ``question.actor`` is not looked at.

        Raises:
            Stranger: No node of this cluster sent it to this node, just now and for the first time.
        """
        found = _SHAPE.fullmatch(signature)
        if found is None:
            raise Stranger("it is not signed as nodes sign")
        sender, to, at, nonce, actor, mac = found.groups()
        expected = self._mac(sender, to, at, nonce, actor, question)
        if not hmac.compare_digest(mac, expected):
            raise Stranger("its signature is not of this cluster (cluster.secret)")
        if int(to, 16) != self._peers.node:
            raise Stranger("it is meant for another node")
        if abs(self._now() - int(at) / 1000.0) > VALID_S:
            raise Stranger(f"the clocks of the two nodes are more than {VALID_S:g} s apart")
        if not question.is_read and not self._is_new(nonce):
            raise Stranger("it was sent before")
        return unquote(actor)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # A kept connection may be gone already, which looks as if an order had been lost under way.
                connector=aiohttp.TCPConnector(limit=256, limit_per_host=16, force_close=True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_S, self._read_s)),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    def _sign(self, peer: Peer, question: Question) -> str:
        sender, to = f"{self._peers.node:08x}", f"{peer.node:08x}"
        at, nonce = str(int(self._now() * 1000)), secrets.token_hex(8)
        actor = quote(question.actor[:100], safe="")
        mac = self._mac(sender, to, at, nonce, actor, question)
        return f"v1;from={sender};to={to};at={at};nonce={nonce};actor={actor};mac={mac}"

    def _mac(self, sender: str, to: str, at: str, nonce: str, actor: str, question: Question) -> str:
        passed = [[name, *question.headers.get(name, ())] for name in _PASSED]
        head = (sender, to, at, nonce, actor, question.method, question.target)
        mac = blake2b(key=self._peers.token, digest_size=_MAC_BYTES, person=_PERSON)
        # JSON, so that no two requests have the same text.
        mac.update(orjson.dumps([*(part.encode("utf-8", "surrogateescape").hex() for part in head), passed]))
        mac.update(question.body)
        return mac.hexdigest()

    def _is_new(self, nonce: str) -> bool:
        now = self._now()
        while self._seen and (
            len(self._seen) > _MOST_SEEN or now - next(iter(self._seen.values())) > 2 * VALID_S
        ):
            self._seen.popitem(last=False)
        if nonce in self._seen:
            return False
        self._seen[nonce] = now
        return True


def _refusal(body: bytes) -> str:
    """Why another node does not believe this one, in its own words."""
    try:
        message = str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = "401"
    return f"refuses this node: {message[:300]}"
