"""Spans on their way to a real HTTP collector: what arrives is OTLP, nothing is lost silently, whatever it answers."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from optimizer.log.node import StateDirectory
from optimizer.log.reader import LogReader
from optimizer.log.writer import LogWriter, encode
from optimizer.settings import TracingSettings
from optimizer.sinks.otlp import OtlpTuning, SpanSender

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
QUICK = OtlpTuning(idle_s=0.01, first_pause_s=0.01, longest_pause_s=0.02, timeout_s=5.0, drain_s=1.0)
Answer = Callable[[], Awaitable[web.StreamResponse]]


@dataclass
class Collector:
    """Takes OTLP over HTTP. ``answers`` are given one after the other, then ``always`` while it is set, then 200."""

    url: str = ""
    calls: int = 0
    spans: list[Any] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    always: Answer | None = None
    last: web.Request | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        self.last = request
        # aiohttp unpacks what says that it is packed.
        body = await request.read()
        if self.answers:
            return await self.answers.pop(0)()
        if self.always is not None:
            return await self.always()
        text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        # Fields that OTLP does not have, or of another type, are errors here.
        got = json_format.ParseDict(_hex_to_base64(text), ExportTraceServiceRequest())
        self.requests.append(got)
        self.headers.append(dict(request.headers))
        for resource in got.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.json_response({})


def _hex_to_base64(text: bytes) -> dict[str, Any]:
    """OTLP writes ids as hex, where protobuf's own JSON has base64; that is the one difference between them."""
    import base64
    import json

    def fix(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: base64.b64encode(bytes.fromhex(one)).decode()
                if key in ("traceId", "spanId", "parentSpanId")
                else fix(one)
                for key, one in value.items()
            }
        return [fix(one) for one in value] if isinstance(value, list) else value

    fixed: dict[str, Any] = fix(json.loads(text))
    return fixed


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", made.serve)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    yield made
    await runner.cleanup()


@dataclass
class Node:
    state: StateDirectory
    writer: LogWriter
    logged: int = 0

    def log(self, count: int = 1, *, flags: int = 1, **data: Any) -> None:
        """Requests with one attempt, as a worker logs them."""
        for _ in range(count):
            self.logged += 1
            number = self.logged
            event: dict[str, Any] = {
                "route": "assistant", "arm": "small", "model": "small", "endpoint": "chat", "stream": True,
                "outcome": "completed", "status": 200, "started_ms": 1_700_000_000_000, "duration_ms": 120.5,
                "overhead_ms": 0.4, "ttft_ms": 40.0, "reason": "bandit", "requested_model": "assistant",
                "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o-mini",
                "gen_ai.response.finish_reasons": ["stop"], "gen_ai.usage.input_tokens": 10,
                "gen_ai.usage.output_tokens": 5, "cost_usd": 0.002, "trace_id": TRACE, "trace_flags": flags,
                "parent_span_id": PARENT, "span_id": f"{number:016x}",
                "attempts": [{"arm": "small", "upstream": "up", "status": 200, "error": None, "ms": 119.0,
                              "randomised": True, "span_id": f"{number + 2**32:016x}", "at_ms": 0.5}],
            } | data  # fmt: skip
            self.writer.append(
                encode(f"req-{number}", "llm_optimizer.request.v1", "/x", 1000 + number, event)
            )

    def sender(self, url: str, *, tuning: OtlpTuning = QUICK, **changes: Any) -> SpanSender:
        settings = TracingSettings(url, headers=changes.pop("headers", ()))
        return SpanSender(
            settings, LogReader(self.state.log_directory), cursor_file=self.state.traces_cursor_file,
            asked=lambda: {"large": ("gpt-4o", "openai")}, resource={"service.name": "llm-optimizer"},
            version="1", tuning=tuning, **changes,
        )  # fmt: skip


@pytest.fixture
def node(tmp_path: Path) -> Node:
    state = StateDirectory(tmp_path / "state")
    writer = LogWriter(
        state.log_directory, node=state.node, incarnation=state.allocate_incarnation(), role="worker"
    )
    # As if it had been sending before: what is in the log from now on is to be sent.
    state.traces_cursor_file.write_bytes(b"{}")
    return Node(state, writer)


@asynccontextmanager
async def sending(sender: SpanSender) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(sender.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for pair in span.attributes:
        which = pair.value.WhichOneof("value")
        value = getattr(pair.value, which)
        found[pair.key] = [one.string_value for one in value.values] if which == "array_value" else value
    return found


async def test_what_arrives_is_otlp_with_the_conventions_of_genai(node: Node, collector: Collector) -> None:
    node.log()
    sender = node.sender(
        collector.url, headers=(("authorization", "env:TOKEN"),), secret={"env:TOKEN": "t0k"}.get
    )
    async with sending(sender):
        await until(lambda: len(collector.spans) == 2)
    request, attempt = collector.spans
    (resource,) = collector.requests[0].resource_spans
    assert attributes(resource.resource) == {"service.name": "llm-optimizer"}
    assert collector.headers[0]["Authorization"] == "t0k"

    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert (request.kind, request.name) == (Span.SPAN_KIND_SERVER, "chat assistant")
    assert request.end_time_unix_nano - request.start_time_unix_nano == 120_500_000
    assert attributes(request)["llm_optimizer.route"] == "assistant"
    assert attributes(request)["http.response.status_code"] == 200
    assert request.status.code == Status.STATUS_CODE_UNSET

    assert (attempt.trace_id, attempt.parent_span_id) == (request.trace_id, request.span_id)
    assert (attempt.kind, attempt.name) == (Span.SPAN_KIND_CLIENT, "chat gpt-4o-mini")
    assert attempt.start_time_unix_nano == request.start_time_unix_nano + 500_000
    assert attributes(attempt) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.0395,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "http.response.status_code": 200,
        "llm_optimizer.arm": "small",
        "llm_optimizer.cost_usd": 0.002,
        "llm_optimizer.upstream": "up",
    }
    assert not list(attempt.links)


async def test_a_fallback_is_linked_to_the_attempt_that_failed(node: Node, collector: Collector) -> None:
    first = {"arm": "small", "upstream": "up", "status": 500, "error": "upstream_error", "ms": 20.0, "why": "first",
             "randomised": True, "model": "small", "cost_usd": None, "input_tokens": None, "output_tokens": None,
             "span_id": "00000000000000a1", "at_ms": 0.2}  # fmt: skip
    second = first | {"arm": "large", "model": "large", "status": 200, "error": None, "why": "fallback",
                      "cost_usd": 0.01, "span_id": "00000000000000a2", "at_ms": 21.0}  # fmt: skip
    node.log(attempts=[first, second], served_by="large")
    async with sending(node.sender(collector.url)):
        await until(lambda: len(collector.spans) == 3)
    _, failed, served = collector.spans
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == "upstream_error"
    assert served.name == "chat gpt-4o"
    assert served.status.code == Status.STATUS_CODE_UNSET
    (link,) = served.links
    assert link.span_id == failed.span_id
    assert attributes(link) == {"llm_optimizer.why": "fallback"}
    # Tokens are counted where they were spent.
    assert "gen_ai.usage.input_tokens" not in attributes(failed)
    assert attributes(served)["gen_ai.usage.input_tokens"] == 10


async def test_only_sampled_requests_with_spans_of_ours_are_sent(node: Node, collector: Collector) -> None:
    node.log(flags=0)
    node.writer.append(
        encode("x", "llm_optimizer.request.v1", "/x", 1, {"trace_id": TRACE, "trace_flags": 1})
    )
    node.log(outcome="upstream_fault", status=502, **{"error.type": "upstream_timeout"}, attempts=[])
    async with sending(node.sender(collector.url)):
        await until(lambda: bool(collector.spans))
    (span,) = collector.spans
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "upstream_timeout"


def say(status: int, body: dict[str, Any] | None = None, **headers: str) -> Answer:
    async def answer() -> web.StreamResponse:
        return web.json_response(body or {}, status=status, headers=headers)

    return answer


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_a_collector_that_may_take_it_later_gets_it_again(
    node: Node, collector: Collector, status: int
) -> None:
    collector.answers = [say(status, **{"retry-after": "0"}), say(status)]
    node.log(3)
    sender = node.sender(collector.url)
    async with sending(sender):
        await until(lambda: sender.stats.delivered == 6)
    assert sender.stats.errors == 2
    assert len({span.span_id for span in collector.spans}) == len(collector.spans) == 6
    assert not sum(sender.lost.values())


async def test_what_a_collector_refuses_is_counted_and_the_next_is_sent(
    node: Node, collector: Collector
) -> None:
    collector.always = say(401, {"message": "no such token"})
    node.log(2)
    sender = node.sender(collector.url)
    async with sending(sender):
        await until(lambda: sender.lost["refused"] == 4)
        assert "401" in sender.stats.last_error
        assert not sender.stats.up
        collector.always = None
        node.log()
        await until(lambda: sender.stats.delivered == 2)
        assert sender.stats.up
    assert sender.stats.last_error == ""


async def test_what_a_collector_takes_in_part_is_counted(node: Node, collector: Collector) -> None:
    collector.answers = [say(200, {"partialSuccess": {"rejectedSpans": "1", "errorMessage": "too old"}})]
    node.log(2)
    sender = node.sender(collector.url)
    async with sending(sender):
        await until(lambda: sender.stats.delivered == 3)
    assert sender.lost["rejected"] == 1


async def test_a_collector_that_is_silent_is_given_up_and_asked_again(
    node: Node, collector: Collector
) -> None:
    async def silent() -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    collector.answers = [silent]
    node.log()
    sender = node.sender(collector.url, tuning=OtlpTuning(idle_s=0.01, first_pause_s=0.01, timeout_s=0.2))
    async with sending(sender):
        await until(lambda: sender.stats.delivered == 2)
    assert sender.stats.errors == 1


async def test_it_goes_on_where_it_was_after_a_restart(node: Node, collector: Collector) -> None:
    node.log(5)
    first = node.sender(collector.url)
    async with sending(first):
        await until(lambda: first.stats.delivered == 10)
    node.log(2)
    second = node.sender(collector.url)
    async with sending(second):
        await until(lambda: second.stats.delivered == 4)
    assert len({span.span_id for span in collector.spans}) == len(collector.spans) == 14


async def test_when_too_much_waits_the_oldest_is_left_out_and_counted(
    node: Node, collector: Collector
) -> None:
    """Everything is either delivered or counted."""
    collector.always = say(503)
    node.log(400)
    sender = node.sender(collector.url, tuning=OtlpTuning(
        idle_s=0.01, first_pause_s=0.01, longest_pause_s=0.01, batch_bytes=20_000, most_lag_bytes=200_000
    ))  # fmt: skip
    async with sending(sender):
        await until(lambda: sender.lost["behind"] > 0)
        collector.always = None
        await until(lambda: sender.stats.delivered + sender.lost["behind"] == 800)
    assert 0 < sender.lost["behind"] < 800
    assert len({span.span_id for span in collector.spans}) == sender.stats.delivered


async def test_who_begins_to_send_leaves_the_past_alone(node: Node, collector: Collector) -> None:
    node.state.traces_cursor_file.unlink()
    node.log(5)
    sender = node.sender(collector.url)
    async with sending(sender):
        await until(lambda: bool(sender.cursor))
        node.log()
        await until(lambda: sender.stats.delivered == 2)
    assert not sum(sender.lost.values())


async def test_a_secret_that_is_not_set_holds_everything_back(node: Node, collector: Collector) -> None:
    node.log()
    secrets: dict[str, str] = {}
    sender = node.sender(collector.url, headers=(("authorization", "env:TOKEN"),), secret=secrets.get)
    async with sending(sender):
        await until(lambda: sender.stats.errors > 1)
        assert sender.stats.last_error == "env:TOKEN is not set"
        assert collector.calls == 0
        secrets["env:TOKEN"] = "t0k"
        await until(lambda: sender.stats.delivered == 2)


async def test_without_a_collector_it_waits_counts_and_stops(node: Node) -> None:
    node.log(10)
    sender = node.sender("http://127.0.0.1:9/v1/traces")
    async with sending(sender):
        await until(lambda: sender.stats.errors > 1)
        assert sender.stats.lag_bytes > 0
        assert not sender.cursor
    assert sender.stats.delivered == 0


async def test_what_makes_no_spans_is_counted_and_the_next_is_sent(node: Node, collector: Collector) -> None:
    """A line that the disk has damaged, and an event that lacks what every event has: once each, never again."""
    node.writer.append(b'{"type": "llm_optimizer.request.v1", "data": {"span_id":"1", "tr}\n')
    node.log(status=None)
    node.log()
    sender = node.sender(collector.url)

    async with sending(sender):
        await until(lambda: sender.stats.delivered == 2)

    assert sender.lost["malformed"] == 2
    assert [span.name for span in collector.spans] == ["chat assistant", "chat gpt-4o-mini"]


async def test_an_answer_in_pieces_is_read_to_its_end(node: Node, collector: Collector) -> None:
    """How many spans were rejected may be in a later packet than the beginning of the answer."""

    async def in_pieces() -> web.StreamResponse:
        reply = web.StreamResponse()
        assert collector.last is not None
        await reply.prepare(collector.last)
        await reply.write(b'{"partialSuccess": {"rejec')
        await asyncio.sleep(0.05)  # so that the rest is a packet of its own
        await reply.write(b'tedSpans": "1"}}')
        return reply

    collector.answers.append(in_pieces)
    node.log()
    sender = node.sender(collector.url)

    async with sending(sender):
        await until(lambda: sender.stats.delivered > 0)

    assert (sender.stats.delivered, sender.lost["rejected"]) == (1, 1)
