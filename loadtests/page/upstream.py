"""Simulated models for whoever looks at the page: slow and fast, dear and cheap, good or less so, broken on demand."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Sort:
    """What a model is like: prices in USD per million tokens, median delay in s, share of good answers, tokens."""

    input_price: float
    output_price: float
    delay_s: float
    skill: float
    tokens: int


MODELS = {
    "large": Sort(5.0, 20.0, 0.36, 0.95, 160),
    "medium": Sort(0.8, 3.2, 0.17, 0.90, 130),
    "small": Sort(0.1, 0.4, 0.07, 0.72, 110),
    "medium-next": Sort(0.5, 2.0, 0.15, 0.93, 120),
}
CAREFUL = "step by step"


class Upstream:
    """Answers chat. What is named in ``failing`` gets a 500; ``speed`` divides every delay.

    ``names`` is what models call themselves in their answers, where that is not their name.
    """

    def __init__(self, *, seed: int = 7, speed: float = 1.0) -> None:
        self.failing: set[str] = set()
        self.names: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.speed = speed
        self._random = random.Random(seed)

    def rating(self, model: str, *, careful: bool) -> float:
        """What a user would say of an answer, 0..1."""
        skill = MODELS[model].skill + (0.06 if careful else 0.0)
        return self._random.betavariate(12 * skill, 12 * (1.02 - min(skill, 1.0)))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One answer, whole or as a stream."""
        asked = orjson.loads(await request.read())
        model = asked["model"]
        self.asked[model] += 1
        if model in self.failing:
            return web.json_response({"error": {"message": "planted", "type": "server_error"}}, status=500)
        sort = MODELS[model]
        careful = CAREFUL in str(asked["messages"][0].get("content"))
        delay = sort.delay_s * self._random.lognormvariate(0.0, 0.3) * (1.5 if careful else 1.0) / self.speed
        tokens = max(
            1, round(sort.tokens * self._random.lognormvariate(0.0, 0.25) * (1.3 if careful else 1.0))
        )
        usage = {"prompt_tokens": 90, "completion_tokens": tokens, "total_tokens": 90 + tokens}
        name = self.names.get(model, model)
        if asked.get("stream"):
            return await _streamed(request, name, usage, delay)
        await asyncio.sleep(delay)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "An answer."},
            "finish_reason": "stop",
        }
        return web.json_response(_frame(name, "chat.completion") | {"choices": [choice], "usage": usage})

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The base URL, while it is served."""
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self.serve)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def _frame(model: str, kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": model}


async def _streamed(
    request: web.Request, model: str, usage: dict[str, int], delay: float
) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await asyncio.sleep(delay / 3)
    await reply.prepare(request)
    for word in ("An ", "answer."):
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        chunk = orjson.dumps(_frame(model, "chat.completion.chunk") | {"choices": [choice]})
        await reply.write(b"data: " + chunk + b"\n\n")
        await asyncio.sleep(delay / 3)
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
    last = orjson.dumps(_frame(model, "chat.completion.chunk") | end)
    await reply.write(b"data: " + last + b"\n\ndata: [DONE]\n\n")
    return reply
