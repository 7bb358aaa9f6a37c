"""A real worker, a real upstream and a real judge: what is sampled, judged, learned, and what never gets anywhere."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import uvloop
from aiohttp import web

from optimizer import events
from optimizer.ingest import Ingest
from optimizer.judging.judgements import Judgements
from optimizer.log.node import StateDirectory
from optimizer.routing import RoutingTable, Sampling
from optimizer.settings import JudgeSettings, RouteSettings, Settings
from optimizer.table_file import write_table
from proxy.config.resolver import SecretResolver
from proxy.control.journal import Journal
from proxy.control.judge import Judge
from proxy.control.judge_caller import UpstreamCaller
from proxy.control.judge_ledger import Ledger
from proxy.worker import Worker

QUESTION = "planted-question-98c1"
ANSWER = "planted-answer-7d2e"
JUDGE = JudgeSettings("grader", "b", "Is it right?", "v1", rate=1.0, usd_per_day=100.0)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """As in the folder above."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Scene:
    """A node: a worker in front of ``url``, and the optimizer's judge, which is started by hand."""

    state: StateDirectory
    settings: Settings
    client: httpx.AsyncClient
    worker: Worker
    url: str
    now: Callable[[], float] = time.time
    tested: bool = False
    judges: list[Judge] = field(default_factory=list)

    async def ask(self, **fields: Any) -> str:
        """One chat request; its id."""
        body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}], **fields}
        reply = await self.client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        return reply.headers["x-llm-optimizer-request-id"]

    def close_segment(self) -> None:
        """What a worker does after a second."""
        self.worker._content.close()

    @asynccontextmanager
    async def judging(self, caller: Any = None) -> AsyncIterator[Judge]:
        """The judge at work."""
        journal = Journal(self.state, segment_bytes=2**20, now=self.now)
        calls = UpstreamCaller({"literal:key": "judge-secret"}.get, timeout_s=1.0)
        judge = Judge(
            self.state.content_directory,
            ledger=Ledger(self.state.judge_file, now=self.now),
            settings=lambda: self.settings,
            caller=caller or calls,
            write=journal.write,
            is_tested=lambda route: self.tested,
            now=self.now,
            jitter=lambda: 0.0,
        )
        task = asyncio.create_task(judge.run())
        try:
            yield judge
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            calls.close()
            journal.close()

    def logged(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.lines() if event["type"] == kind]

    def lines(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.state.log_directory.rglob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                yield orjson.loads(line)

    def content(self) -> list[Path]:
        return sorted(path for path in self.state.content_directory.iterdir() if path.is_file())


class Models:
    """An upstream that answers as arm ``a``, and judges as ``b`` as told."""

    def __init__(self, completion: Callable[..., dict[str, Any]]) -> None:
        self.completion = completion
        self.judged: list[dict[str, Any]] = []
        self.verdict: Callable[[dict[str, Any]], Any] = lambda body: 'Right.\n{"score": 8}'

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["model"] == "b-id":
            self.judged.append({"body": body, "auth": request.headers.get("authorization")})
            said = self.verdict(body)
            if isinstance(said, web.StreamResponse):
                return said
            return web.json_response(self.completion("b-id", said))
        if body.get("stream"):
            return await self.stream(request)
        text = "terse answer" if body["messages"][0]["role"] == "system" else ANSWER
        return web.json_response(self.completion(body["model"], text))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in (ANSWER[:7], ANSWER[7:]):
            delta = {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
            await response.write(b"data: " + orjson.dumps(delta) + b"\n\n")
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await response.write(b"data: " + orjson.dumps(end) + b"\n\ndata: [DONE]\n\n")
        return response


@pytest.fixture
def models(shapes: Any) -> Models:
    return Models(shapes.completion)


@pytest.fixture
async def scene(
    tmp_path: Path, serve: Callable[..., Awaitable[str]], shapes: Any, models: Models
) -> AsyncIterator[Scene]:
    url = await serve(models.serve) + "/v1"
    table: RoutingTable = shapes.table(url)
    arms = (shapes.arm("a"), shapes.arm("a", "terse"))
    route = replace(
        table.routes[0],
        control=shapes.side(*arms, probabilities=(1.0, 0.0)),
        sampling=Sampling(JUDGE.rate, JUDGE.max_content_bytes),
    )
    table = replace(table, routes=(route,))
    state = StateDirectory(tmp_path / "state")
    write_table(state.table_file, table)
    worker = Worker(
        state,
        incarnation=state.allocate_incarnation(),
        resolver=SecretResolver({}, {"literal:key": "worker-secret"}),
        uniform_seed=7,
    )
    # Its clock stands still: segments are closed by hand, and no write counts as slow on a busy machine.
    worker._content._clock = lambda: 0.0
    port = await worker.start("127.0.0.1", 0)
    settings = Settings(
        config_hash="c",
        upstreams=table.upstreams,
        models=table.models,
        variants=table.variants,
        routes=(RouteSettings("chat", arms, "a", (), judge=JUDGE),),
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield Scene(state, settings, client, worker, url)
    await worker.stop(0.2)


async def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_judged_behind_the_requests_back(
    scene: Scene, models: Models, stream: bool
) -> None:
    """Rated by the judge's model with the optimizer's own credentials; the file goes, the rating and its cost stay."""
    request_id = await scene.ask(stream=stream)
    scene.close_segment()

    async with scene.judging():
        await until(lambda: scene.logged(events.JUDGEMENT) and not scene.content())

    (rating,) = scene.logged(events.FEEDBACK)
    assert rating["data"] == {
        "request_id": request_id, "metric": "quality", "value": 0.8, "source": "judge:grader@v1", "comment_bytes": 0,
    }  # fmt: skip
    (judgement,) = scene.logged(events.JUDGEMENT)
    told = judgement["data"]
    assert (told["result"], told["value"], told["judge"], told["version"]) == ("scored", 0.8, "grader", "v1")
    assert told["cost_usd"] == pytest.approx(20e-6)  # 10 tokens at 1 USD, 5 at 2 USD a million
    (asked,) = models.judged
    assert asked["auth"] == "Bearer judge-secret"
    prompt = asked["body"]["messages"][1]["content"]
    assert QUESTION in prompt
    assert ANSWER in prompt


async def test_content_is_nowhere_but_in_its_directory(scene: Scene) -> None:
    """Not in the log, not in any other file; 0600 below 0700; and gone once judged."""
    await scene.ask()
    (path,) = scene.content()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert QUESTION.encode() in path.read_bytes()
    scene.close_segment()

    async with scene.judging():
        await until(lambda: not scene.content())

    for path in scene.state.path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert QUESTION.encode() not in data, path
            assert ANSWER.encode() not in data, path


async def test_the_rate_is_logged_and_kept(scene: Scene, shapes: Any) -> None:
    """Of a route that samples a quarter about a quarter is drawn, and every event says the rate and who was."""
    table = shapes.table(scene.url, version=2)
    route = replace(table.routes[0], control=shapes.side(shapes.arm("a")), sampling=Sampling(0.25))
    write_table(scene.state.table_file, replace(table, routes=(route,)))
    assert scene.worker.refresh()

    for _ in range(80):
        await scene.ask()

    rows = [event["data"] for event in scene.logged(events.REQUEST)]
    assert {row["sampling_rate"] for row in rows} == {0.25}
    drawn = sum(row.get("sampled", False) for row in rows)
    assert 8 <= drawn <= 32  # 80 draws of a quarter; outside of this with 2 in 10,000
    lines = b"".join(path.read_bytes() for path in scene.content()).splitlines()
    assert len(lines) == drawn


async def test_a_route_without_a_judge_leaves_nothing(scene: Scene, shapes: Any) -> None:
    """No draw, no file, no field."""
    write_table(scene.state.table_file, shapes.table(scene.url, version=2))
    assert scene.worker.refresh()

    await scene.ask()

    assert scene.content() == []
    assert "sampling_rate" not in scene.logged(events.REQUEST)[-1]["data"]


async def test_a_rating_is_learned_once_whatever_is_repeated(scene: Scene, models: Models) -> None:
    """Killed after the rating was written and before that was saved: judged again, under the same ids."""
    await scene.ask()
    scene.close_segment()
    (path,) = scene.content()
    kept = path.read_bytes()
    async with scene.judging():
        await until(lambda: not scene.content())
    # As if the process had died in between: file and ledger are as they were.
    path.write_bytes(kept)
    scene.state.judge_file.unlink()
    models.verdict = lambda body: '{"score": 1}'

    async with scene.judging():
        await until(lambda: not scene.content())

    assert len({event["id"] for event in scene.logged(events.FEEDBACK)}) == 1
    assert len(scene.logged(events.FEEDBACK)) == 2
    ingest, judgements = Ingest(scene.state), Judgements()
    ingest.configure(scene.settings)
    ingest.add_consumer(judgements)
    while ingest.step():
        pass
    ingest.close()
    assert ingest.learner.counts["feedback_learned"] == 1
    assert ingest.learner.counts["feedback_repeated"] == 1
    assert judgements.totals == {("chat", "score", "scored"): 1}


async def test_the_budget_bounds_what_is_spent_over_restarts(scene: Scene, models: Models) -> None:
    """A day's limit for about three calls buys no more, in two lives of the process; the others are told."""
    settings = scene.settings.routes[0]
    judge = replace(JUDGE, usd_per_day=0.004)
    scene.settings = replace(scene.settings, routes=(replace(settings, judge=judge),))
    scene.now = lambda: 1_795_046_399.0  # a second before midnight, UTC: all of the day's limit is available
    models.verdict = lambda body: web.json_response(
        models.completion("b-id", '{"score": 5}', prompt_tokens=200, completion_tokens=500)
    )
    for _ in range(4):
        await scene.ask()
        scene.close_segment()
    async with scene.judging():
        await until(lambda: not scene.content())
    for _ in range(3):
        await scene.ask()
        scene.close_segment()
    async with scene.judging():
        await until(lambda: not scene.content())

    rows = [event["data"] for event in scene.logged(events.JUDGEMENT)]
    assert len(rows) == 7
    assert {row["result"] for row in rows} == {"scored", "over_budget"}
    assert 2 <= len(models.judged) <= 3
    assert sum(row["cost_usd"] for row in rows) <= judge.usd_per_day


async def test_a_dead_judge_is_left_alone_and_found_again(scene: Scene, models: Models) -> None:
    """It is paused and counted; requests are served as before; when it answers, what waited is judged."""
    dead = True
    models.verdict = lambda body: web.Response(status=503) if dead else '{"score": 10}'
    await scene.ask()
    scene.close_segment()

    async with scene.judging() as judge:
        await until(lambda: judge.paused)
        assert judge.paused == {"judge:grader@v1": "http_503"}
        await scene.ask()
        assert scene.logged(events.JUDGEMENT) == []
        dead = False
        await until(lambda: scene.logged(events.JUDGEMENT))
        assert judge.paused == {}

    assert scene.logged(events.FEEDBACK)[0]["data"]["value"] == 1.0


async def test_nonsense_costs_the_sample_and_not_the_judge(scene: Scene, models: Models) -> None:
    """Asked once more for the last line, then told as failed; nothing is rated, what it cost is counted."""
    models.verdict = lambda body: "I would rather not put a number on it."
    await scene.ask()
    scene.close_segment()

    async with scene.judging() as judge:
        await until(lambda: not scene.content())
        assert judge.paused == {}

    (row,) = [event["data"] for event in scene.logged(events.JUDGEMENT)]
    assert (row["result"], row["word"]) == ("failed", "unreadable")
    assert len(models.judged) == 2
    assert row["cost_usd"] == pytest.approx(40e-6)
    assert scene.logged(events.FEEDBACK) == []


async def test_a_judge_that_hangs_is_cut(scene: Scene, serve: Callable[..., Awaitable[str]]) -> None:
    """After its time it counts as not answering, and what it may have cost as spent."""

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    url = await serve(hang) + "/v1"
    await scene.ask()
    scene.close_segment()
    upstreams = tuple(replace(upstream, base_url=url) for upstream in scene.settings.upstreams)
    scene.settings = replace(scene.settings, upstreams=upstreams)

    async with scene.judging() as judge:
        await until(lambda: judge.paused)
        assert judge.spent_usd("judge:grader@v1") > 0.0

    assert len(scene.content()) == 1


async def test_prompts_are_compared_in_both_orders(scene: Scene, models: Models) -> None:
    """During a prompt test the other prompt answers too; who wins in one order only has tied."""
    scene.tested = True

    def verdict(body: dict[str, Any]) -> str:
        text = body["messages"][1]["content"]
        if "answer B" not in text:
            return '{"score": 7}'
        first = text.index("terse answer") < text.index(ANSWER)
        return '{"winner": "A"}' if first or biased else '{"winner": "B"}'

    models.verdict, biased = verdict, False
    await scene.ask()
    scene.close_segment()
    async with scene.judging():
        await until(lambda: not scene.content())
        biased = True
        await scene.ask()
        scene.close_segment()
        await until(lambda: not scene.content())

    pairs = [event["data"] for event in scene.logged(events.JUDGEMENT) if event["data"]["kind"] == "pair"]
    assert [(row["value"], row["consistent"], row["other_arm"]) for row in pairs] == [
        (0.0, True, "a+terse"),
        (0.5, False, "a+terse"),
    ]
    assert len(scene.logged(events.FEEDBACK)) == 2


async def test_what_nobody_judged_in_time_expires_unseen(scene: Scene, models: Models) -> None:
    """A sample of yesterday is told as expired and deleted; no model sees it."""
    await scene.ask()
    scene.close_segment()
    scene.now = lambda: time.time() + 24 * 3600 + 60
    (path,) = scene.content()
    os.utime(path, (time.time() + 3600, time.time() + 3600))

    async with scene.judging():
        await until(lambda: not scene.content())

    assert [event["data"]["result"] for event in scene.logged(events.JUDGEMENT)] == ["expired"]
    assert models.judged == []


async def test_a_route_that_lost_its_judge_loses_its_samples(scene: Scene, models: Models) -> None:
    """Nobody asked for it any more, so nothing is sent, said or kept."""
    await scene.ask()
    scene.close_segment()
    route = replace(scene.settings.routes[0], judge=None)
    scene.settings = replace(scene.settings, routes=(route,))

    async with scene.judging():
        await until(lambda: not scene.content())

    assert models.judged == []
    assert scene.logged(events.JUDGEMENT) == []


async def test_what_a_callers_own_credential_opened_is_never_kept(scene: Scene, shapes: Any) -> None:
    """Passthrough restricts the judge of a request as well, so there is none."""
    table = shapes.table(scene.url, version=2)
    upstreams = (replace(table.upstreams[0], auth="passthrough", secret=None),)
    route = replace(table.routes[0], control=shapes.side(shapes.arm("a")), sampling=Sampling(1.0))
    write_table(scene.state.table_file, replace(table, upstreams=upstreams, routes=(route,)))
    assert scene.worker.refresh()

    await scene.ask()

    assert scene.content() == []
    assert scene.worker._content.report()["passthrough"] == 1


async def test_a_judge_that_takes_no_temperature_is_asked_without(scene: Scene, models: Models) -> None:
    """Reasoning models refuse it; found out once, not for every sample."""

    def verdict(body: dict[str, Any]) -> Any:
        if "temperature" in body or "max_tokens" in body:
            return web.json_response({"error": {"message": "unsupported parameter"}}, status=400)
        return '{"score": 4}'

    models.verdict = verdict
    await scene.ask()
    scene.close_segment()

    async with scene.judging():
        await until(lambda: not scene.content())
        await scene.ask()
        scene.close_segment()
        await until(lambda: len(scene.logged(events.FEEDBACK)) == 2)

    assert len(models.judged) == 3
    assert {event["data"]["value"] for event in scene.logged(events.FEEDBACK)} == {0.4}


@pytest.mark.parametrize(
    ("changes", "price", "word"),
    [
        ({"secret": "env:NOBODY_SET_THIS"}, True, "no_credentials"),
        ({"auth": "passthrough"}, True, "passthrough"),
        ({"base_url": "http://127.0.0.1:1/v1"}, True, "connect"),
        ({}, False, "no_price"),
    ],
)
async def test_a_judge_that_can_not_be_asked_keeps_its_samples(
    scene: Scene, models: Models, changes: dict[str, Any], price: bool, word: str
) -> None:
    """Nothing is sent or spent, the reason is shown, and the samples wait for a better configuration."""
    await scene.ask()
    scene.close_segment()
    good = scene.settings
    upstreams = tuple(replace(upstream, **changes) for upstream in good.upstreams)
    priced = tuple(model if price else replace(model, price=None) for model in good.models)
    scene.settings = replace(good, upstreams=upstreams, models=priced)

    async with scene.judging() as judge:
        await until(lambda: judge.paused)
        (found,) = judge.paused.values()
        assert word in found
        assert judge.spent_usd("judge:grader@v1") == 0.0
        assert len(scene.content()) == 1
        assert models.judged == []
        scene.settings = good
        await until(lambda: not scene.content())

    assert len(scene.logged(events.FEEDBACK)) == 1


async def test_a_model_of_another_provider_judges(
    scene: Scene, models: Models, serve: Callable[..., Awaitable[str]]
) -> None:
    """Through the same codecs as requests; what it reports is what it cost."""
    heard: list[tuple[str, dict[str, Any]]] = []

    async def messages(request: web.Request) -> web.Response:
        heard.append((request.headers["x-api-key"], await request.json()))
        return web.json_response(
            {
                "id": "msg_1", "type": "message", "role": "assistant", "model": "b-id", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": '{"score": 9}'}],
                "usage": {"input_tokens": 100, "output_tokens": 10},
            }
        )  # fmt: skip

    url = await serve(messages)
    judge = replace(scene.settings.upstreams[0], name="other", provider="anthropic", base_url=url)
    moved = tuple(
        replace(model, upstream="other") if model.name == "b" else model for model in scene.settings.models
    )
    scene.settings = replace(scene.settings, upstreams=(*scene.settings.upstreams, judge), models=moved)
    await scene.ask()
    scene.close_segment()

    async with scene.judging():
        await until(lambda: not scene.content())

    ((key, body),) = heard
    assert key == "judge-secret"
    assert "Is it right?" in orjson.dumps(body["system"]).decode()
    (row,) = [event["data"] for event in scene.logged(events.JUDGEMENT)]
    assert (row["value"], row["cost_usd"]) == (0.9, pytest.approx(120e-6))


async def test_samples_of_a_dead_judge_do_not_keep_others_waiting(
    scene: Scene, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When memory is full of what a silent judge should rate, its oldest are given up."""
    monkeypatch.setattr("proxy.control.judge.MOST_WAITING", 8)
    models.verdict = lambda body: web.Response(status=503)
    for _ in range(8):
        await scene.ask()
        scene.close_segment()

    async with scene.judging():
        await until(lambda: len(scene.logged(events.JUDGEMENT)) >= 2)

    rows = [event["data"] for event in scene.logged(events.JUDGEMENT)]
    assert {(row["result"], row["word"]) for row in rows} == {("expired", "crowded_out")}


async def test_a_restart_in_the_middle_of_a_call_loses_nothing_and_counts_it_as_paid(
    scene: Scene, models: Models
) -> None:
    """What was asked may have been answered, so it is paid for; the sample is still there and is judged again."""
    asked = asyncio.Event()

    class Silent:
        async def __call__(self, question: Any) -> Any:
            asked.set()
            await asyncio.Event().wait()

    await scene.ask()
    scene.close_segment()
    async with scene.judging(caller=Silent()):
        await asyncio.wait_for(asked.wait(), 5)
    assert scene.logged(events.JUDGEMENT) == []
    assert len(scene.content()) == 1

    async with scene.judging() as judge:
        before = judge.spent_usd("judge:grader@v1")
        assert before > 500e-6  # what 512 tokens of an answer would have cost, at least
        await until(lambda: not scene.content())

    assert len(scene.logged(events.FEEDBACK)) == 1
    (row,) = [event["data"] for event in scene.logged(events.JUDGEMENT)]
    assert row["cost_usd"] == pytest.approx(20e-6)


async def test_requests_do_not_wait_for_a_judge(scene: Scene, models: Models) -> None:
    """While sixteen calls hang at the judge, requests are answered as if there were none."""

    async def hang(question: Any) -> Any:
        await asyncio.Event().wait()

    for _ in range(16):
        await scene.ask()
        scene.close_segment()
    async with scene.judging(caller=hang) as judge:
        await until(lambda: judge.waiting == 16)
        before = time.monotonic()
        for _ in range(20):
            await scene.ask()
        assert time.monotonic() - before < 5.0
    assert len(scene.logged(events.REQUEST)) == 36
    assert models.judged == []


async def test_a_stream_from_another_provider_leaves_the_same_sample(
    scene: Scene, models: Models, serve: Callable[..., Awaitable[str]], shapes: Any
) -> None:
    """The answer is kept as the caller got it, whoever spoke which dialect."""

    async def messages(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        usage = {"input_tokens": 5, "output_tokens": 1}
        rows = [
            {
                "type": "message_start",
                "message": {"id": "m", "role": "assistant", "model": "x", "usage": usage},
            },
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ANSWER}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ]
        for row in rows:
            await response.write(b"event: %b\ndata: %b\n\n" % (row["type"].encode(), orjson.dumps(row)))
        return response

    url = await serve(messages)
    table = shapes.table(url, version=2)
    upstream = replace(table.upstreams[0], provider="anthropic", base_url=url)
    route = replace(table.routes[0], control=shapes.side(shapes.arm("a")), sampling=Sampling(1.0))
    write_table(scene.state.table_file, replace(table, upstreams=(upstream,), routes=(route,)))
    assert scene.worker.refresh()

    await scene.ask(stream=True, max_tokens=50)

    (path,) = scene.content()
    (line,) = path.read_bytes().splitlines()
    assert orjson.loads(line)["answer"] == ANSWER
