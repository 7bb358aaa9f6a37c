"""Callers of a cluster: requests at a steady rate to any node, ratings of some of the answers to any other.

Invariant: what a caller has seen is written down the moment it is seen, so that it can be held against the topic later:
an answer that came completely, a rating that was accepted, and whatever may or may not have happened.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson

from loadtests.cluster.scene import ROUTES, Node

PATIENCE_S: Final = 30.0
_PACE_S: Final = 0.01
_MOST_AT_ONCE: Final = 500
_RATED_AFTER_S: Final = (0.2, 3.0)
_TRIES: Final = 40
_AGAIN_S: Final = 1.0


@dataclass
class Seen:
    """What callers saw.

    ``answered``: request ids whose answer came completely. ``rated``: of these, whose rating was accepted. ``broken``:
    requests whose connection ended, which may have been served nevertheless. ``refused``: connections that nobody took.
    ``failures``: replies that are no answer, by what was happening and status. ``unsure``: ratings that may have been
    taken though no answer came. ``streams``: streams that came to their end. ``candidates``: when, by the monotonic
    clock, a request was sent that a candidate answered, and by which node. ``slowest_s`` is of whole answers only.
    """

    sent: int = 0
    answered: set[str] = field(default_factory=set)
    repeated: int = 0
    rated: dict[str, float] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    broken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    given_up: int = 0
    slowest_s: float = 0.0
    streams: int = 0
    candidates: list[tuple[float, str]] = field(default_factory=list)


class Traffic:
    """Callers of all ``nodes``: ``rated`` is the share of answers that are rated, ``streamed`` that of streams.

    ``during`` says what is happening, for the record; ``among`` whom a load balancer would send to just now.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        rate: float,
        rated: float = 0.3,
        streamed: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.seen = Seen()
        self.among: Callable[[], Sequence[Node]] = lambda: nodes
        self._rate = rate
        self._rated = rated
        self._streamed = streamed
        self._rng = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.during: Callable[[], str] = lambda: "nothing"

    async def run(self, requests: int, over: Callable[[], bool]) -> None:
        """Send at least ``requests`` at the rate, open loop, until it is ``over``; wait for all answers and ratings."""
        loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=10.0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
        ) as session:
            began = loop.time()
            while self.seen.sent < requests or not over():
                due = int((loop.time() - began) * self._rate) - self.seen.sent
                for _ in range(due):
                    if len(self._tasks) >= _MOST_AT_ONCE:
                        # The load side fell behind; what is not sent now is sent a moment later.
                        break
                    self.seen.sent += 1
                    self._spawn(self._ask(session))
                await asyncio.sleep(_PACE_S)
            while self._tasks:
                await asyncio.wait(self._tasks)

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        node = self._rng.choice(self.among())
        route = self._rng.choice(ROUTES)
        body: dict[str, Any] = {"model": route, "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
        if is_stream := self._rng.random() < self._streamed:
            body["stream"] = True
        during, began = self.during(), time.monotonic()
        try:
            async with session.post(f"{node.url}/v1/chat/completions", json=body) as reply:
                text = await reply.read()
        except aiohttp.ClientConnectorError:
            self.seen.refused[f"{node.name} while {self._since(during)}"] += 1
            return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.seen.broken[f"{node.name} while {self._since(during)}: {type(error).__name__}"] += 1
            return
        finally:
            if not is_stream:
                self.seen.slowest_s = max(self.seen.slowest_s, time.monotonic() - began)
        request_id = reply.headers.get("x-request-id", "")
        if reply.status != 200 or not _is_whole(text, is_stream=is_stream):
            self.seen.failures[f"{reply.status} of {node.name} while {self._since(during)}"] += 1
            return
        self.seen.streams += is_stream
        if reply.headers.get("x-llm-optimizer-side") == "candidate":
            self.seen.candidates.append((began, node.name))
        self.seen.repeated += request_id in self.seen.answered
        self.seen.answered.add(request_id)
        if self._rng.random() < self._rated:
            # Arms differ, so that there is something to learn.
            good = 0.9 if reply.headers.get("x-llm-optimizer-arm") == "gamma" else 0.5
            value = float(self._rng.random() < good)
            await asyncio.sleep(self._rng.uniform(*_RATED_AFTER_S))
            await self._rate_answer(session, request_id, value)

    def _since(self, during: str) -> str:
        """What was happening when a request began, and since then."""
        now = self.during()
        return during if now == during else f"{during}, {now}"

    async def _rate_answer(self, session: aiohttp.ClientSession, request_id: str, value: float) -> None:
        """Post a rating to any node until one says that it has it; the same rating is one however often it comes."""
        item = {"request_id": request_id, "metric": "quality", "value": value}
        for _ in range(_TRIES):
            node = self._rng.choice(self.among())
            try:
                async with session.post(f"{node.url}/v1/feedback", json=item) as reply:
                    await reply.read()
            except aiohttp.ClientConnectorError:
                pass
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.seen.unsure.add(request_id)
            else:
                if reply.status == 200:
                    self.seen.rated[request_id] = value
                    return
                if reply.status < 500:
                    self.seen.failures[f"feedback {reply.status} of {node.name} while {self.during()}"] += 1
                    return
            await asyncio.sleep(_AGAIN_S)
        self.seen.given_up += 1


def _is_whole(text: bytes, *, is_stream: bool) -> bool:
    """Whether it is an answer with an end."""
    if is_stream:
        return text.rstrip().endswith(b"data: [DONE]") and b'"error"' not in text
    return bool(orjson.loads(text).get("choices"))
