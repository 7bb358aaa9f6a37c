"""The callers: every kind of request that an application makes, what came back, and whether that is explained.

Invariant: a failure is explained only by the fault that its own route was told to make. On the other routes nothing
may fail, whatever is done to the product meanwhile.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import orjson

CHAT: Final = "/v1/chat/completions"
_RECENT = 2000
_MOST_AT_ONCE = 300
_BIG_BYTES = 1_000_000
_HUGE_BYTES = 2 * 1024 * 1024
_PACE_S = 0.02


class Unexplained(Exception):
    """Something came back that no injected fault explains."""


class Traffic:
    """Sends requests at a rate, open loop.

    ``sent`` counts requests that must be in the log, ``uncertain`` those that were given up before anything came
    back, ``answered`` holds the ids of all others, ``failures`` what went wrong without an excuse.
    """

    def __init__(self, url: str, *, seed: int = 0) -> None:
        self.sent = 0
        self.uncertain = 0
        self.skipped = 0
        self.by_kind: Counter[str] = Counter()
        self.replies: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._url = url
        self._rng = random.Random(seed)
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._padding = "lorem ipsum " * (_BIG_BYTES // 12)
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "unary": (40, self._unary),
            "stream": (12, self._stream),
            "shaky": (14, self._shaky),
            "torn": (10, self._torn),
            "feedback": (12, self._feedback),
            "pass-through": (5, self._pass_through),
            "leaves in a stream": (3, self._leaves),
            "gives up": (2, self._gives_up),
            "big body": (1, self._big),
            "slow reader": (1, self._slow_reader),
        }

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Send about ``rate`` requests a second until ``stop``, then wait for what is under way."""
        names = list(self._kinds)
        weights = [weight for weight, _ in self._kinds.values()]
        loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=5.0)
        timeout = aiohttp.ClientTimeout(total=60.0)
        async with aiohttp.ClientSession(self._url, connector=connector, timeout=timeout) as session:
            self._session = session
            began, due = loop.time(), 0
            while not stop.is_set():
                wanted = int((loop.time() - began) * rate)
                for name in self._rng.choices(names, weights, k=max(wanted - due, 0)):
                    if len(self._tasks) >= _MOST_AT_ONCE:
                        self.skipped += 1
                        continue
                    task = loop.create_task(self._guarded(name))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                due = max(wanted, due)
                await asyncio.sleep(_PACE_S)
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def _guarded(self, name: str) -> None:
        self.by_kind[name] += 1
        try:
            await self._kinds[name][1]()
        except (Unexplained, aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
            what = f"{name}: {type(error).__name__}"
            self.failures[what] += 1
            self.examples.setdefault(what, str(error)[:300])

    def _post(self, route: str, path: str = CHAT, **fields: Any) -> Any:
        """A request that must leave an event."""
        assert self._session is not None
        self.sent += 1
        prompt = [{"role": "user", "content": "tag=soak What is 2 + 2?"}]
        return self._session.post(path, json={"model": route, "messages": prompt, **fields})

    def _note(self, reply: aiohttp.ClientResponse) -> None:
        request_id = reply.headers.get("x-request-id")
        if request_id is None or request_id in self.answered:
            raise Unexplained(
                f"the request id {request_id!r} with status {reply.status} is missing or repeated"
            )
        self.answered.add(request_id)
        self.replies[str(reply.status)] += 1
        if reply.headers.get("x-llm-optimizer-arm"):
            self._recent.append(request_id)

    async def _unary(self) -> None:
        async with self._post("steady") as reply:
            self._note(reply)
            body = await reply.read()
        _expect(reply.status == 200 and orjson.loads(body)["choices"], reply.status, body)

    async def _big(self) -> None:
        async with self._post("steady", user=self._padding) as reply:
            self._note(reply)
            body = await reply.read()
        _expect(reply.status == 200 and orjson.loads(body)["choices"], reply.status, body)

    async def _stream(self) -> None:
        async with self._post("flow", stream=True) as reply:
            self._note(reply)
            body = await reply.read()
        _expect(reply.status == 200 and body.endswith(b"data: [DONE]\n\n"), reply.status, body)

    async def _slow_reader(self) -> None:
        size = 0
        async with self._post("huge") as reply:
            self._note(reply)
            while data := await reply.content.read(65536):
                size += len(data)
                await asyncio.sleep(_PACE_S)
        _expect(reply.status == 200 and size > _HUGE_BYTES, reply.status, b"%d bytes" % size)

    async def _pass_through(self) -> None:
        async with self._post("answer", "/v1/moderations") as reply:
            self._note(reply)
            body = await reply.read()
        _expect(reply.status == 200, reply.status, body)

    async def _shaky(self) -> None:
        async with self._post("shaky") as reply:
            self._note(reply)
            body = await reply.read()
        if reply.status == 200:
            return
        error = orjson.loads(body)["error"]
        _expect(reply.status >= 400 and error["message"], reply.status, body)

    async def _torn(self) -> None:
        async with self._post("torn", stream=True) as reply:
            self._note(reply)
            body = await reply.read()
        if reply.status == 200:
            *_, last = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
            _expect(last == b"data: [DONE]" or b'"error"' in last, reply.status, body)
        else:
            _expect(orjson.loads(body)["error"]["message"], reply.status, body)

    async def _feedback(self) -> None:
        assert self._session is not None
        if not self._recent:
            return
        request_id = self._recent.popleft()
        async with self._session.post("/v1/feedback", json={"request_id": request_id, "score": 1}) as reply:
            body = await reply.read()
        _expect(reply.status == 200, reply.status, body)

    async def _leaves(self) -> None:
        async with self._post("flow", stream=True) as reply:
            self._note(reply)
            await reply.content.readany()
            reply.close()

    async def _gives_up(self) -> None:
        """Before anything came back; whether it had arrived whole is not known here."""
        self.uncertain += 1
        try:
            async with asyncio.timeout(self._rng.uniform(0.0, 0.03)):
                async with self._post("flow", stream=True) as reply:
                    self._note(reply)
                    self.uncertain -= 1
                    reply.close()
        except TimeoutError:
            pass


def _expect(good: object, status: int, body: bytes) -> None:
    if not good:
        raise Unexplained(f"{status} {body[-200:]!r}")
