"""The demo's application: asks questions through the official SDK, grades the replies, posts feedback.

Invariant: it knows of the proxy only what every client sees: ``base_url``, replies and response headers.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openai import APIError, AsyncOpenAI, DefaultAsyncHttpxClient

from proxy.demo.stage import ROUTE
from proxy.demo.tally import Seen, Tally
from proxy.demo.tasks import Question, grade
from proxy.simulator.profiles import ModelProfile

ARM = "x-llm-optimizer-arm"
MODEL = "x-llm-optimizer-model"
REQUEST_ID = "x-llm-optimizer-request-id"
STREAM_EVERY = 2


def connect(base_url: str) -> AsyncOpenAI:
    """The SDK as applications set it up, except that proxies named in the environment are not used."""
    return AsyncOpenAI(
        base_url=f"{base_url}/v1",
        api_key="demo",
        max_retries=0,
        timeout=30.0,
        http_client=DefaultAsyncHttpxClient(trust_env=False),
    )


class Application:
    """Sends questions until told to stop, a fixed number at a time."""

    def __init__(
        self, client: AsyncOpenAI, profiles: Sequence[ModelProfile], source: Iterator[Question], tally: Tally
    ) -> None:
        self._client = client
        self._prices = {profile.id: (profile.input_price, profile.output_price) for profile in profiles}
        self._source = source
        self._tally = tally
        self._asked = 0

    async def run(self, *, concurrency: int, seconds: float) -> None:
        """Keep ``concurrency`` questions in flight for ``seconds``."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._ask_until(until))

    async def _ask_until(self, until: float) -> None:
        while time.monotonic() < until:
            self._asked += 1
            question = next(self._source)
            try:
                await self._ask(question, stream=self._asked % STREAM_EVERY == 0)
            except APIError as error:
                self._tally.errors[type(error).__name__] += 1
                # A broken upstream must not turn this loop into a flood.
                await asyncio.sleep(0.2)

    async def _ask(self, question: Question, *, stream: bool) -> None:
        started = time.monotonic()
        if stream:
            headers, text, tokens = await self._streamed(question)
        else:
            headers, text, tokens = await self._whole(question)
        latency = time.monotonic() - started
        model = headers[MODEL]
        quality = grade(text, question)
        cost = sum(price * count for price, count in zip(self._prices[model], tokens, strict=True)) / 1e6
        self._tally.add(Seen(headers[ARM], model, cost, latency, quality, stream))
        await self._rate(headers[REQUEST_ID], quality)

    async def _whole(self, question: Question) -> tuple[Mapping[str, str], str, tuple[int, int]]:
        raw = await self._client.chat.completions.with_raw_response.create(
            model=ROUTE, messages=[{"role": "user", "content": question.text}]
        )
        reply = raw.parse()
        text = reply.choices[0].message.content or ""
        return raw.headers, text, _tokens(reply.usage)

    async def _streamed(self, question: Question) -> tuple[Mapping[str, str], str, tuple[int, int]]:
        raw = await self._client.chat.completions.with_raw_response.create(
            model=ROUTE,
            messages=[{"role": "user", "content": question.text}],
            stream=True,
            stream_options={"include_usage": True},
        )
        pieces: list[str] = []
        tokens = (0, 0)
        async for chunk in raw.parse():
            if chunk.usage is not None:
                tokens = _tokens(chunk.usage)
            if chunk.choices:
                pieces.append(chunk.choices[0].delta.content or "")
        return raw.headers, "".join(pieces), tokens

    async def _rate(self, request_id: str, quality: float) -> None:
        body = {"request_id": request_id, "metric": "quality", "value": quality, "source": "demo-grader"}
        await self._client.post("/feedback", body=body, cast_to=object)
        self._tally.feedback += 1


def _tokens(usage: Any) -> tuple[int, int]:
    return (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, 0)
