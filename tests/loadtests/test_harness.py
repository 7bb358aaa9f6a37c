"""The measuring itself: budgets, kept results, the report, the clients and the mock."""

import asyncio
import json
from datetime import UTC, datetime

import httpx
import pytest

from loadtests import figures, report
from loadtests.budgets import BUDGETS
from loadtests.figures import Figure, Result
from loadtests.load import Reply, chat_body, spread
from loadtests.mock_upstream import MockUpstream, Pacer, framed, unary_document
from loadtests.processes import Failed
from loadtests.scenarios import SCENARIOS


def result(*shown: Figure, status: str = "done", reason: str = "") -> Result:
    machine = {"cpu": "C", "cores": 2, "memory_gib": 1.0, "kernel": "K", "load_before": 0.1}
    return Result("unary", status, "abc", machine, shown, reason)


@pytest.mark.parametrize(
    ("value", "void", "verdict"), [(2.6, "", "kept"), (2.4, "", "missed"), (9.0, "load side at 95%", "void")]
)
def test_a_figure_is_judged_by_its_budget_unless_void(value: float, void: str, verdict: str) -> None:
    """A void figure is never called kept."""
    assert Figure("unary: throughput / aiohttp", value, void=void).verdict == verdict


def test_every_bound_points_one_way_and_names_itself() -> None:
    """Nothing is kept by having no bound."""
    for name, budget in BUDGETS.items():
        assert (budget.at_least is None) != (budget.at_most is None), name
        assert Figure(name, -1e9).verdict != Figure(name, 1e9).verdict


def test_a_result_is_taken_up_again_as_it_was_written(tmp_path, monkeypatch) -> None:
    """What is kept is what was measured."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    written = result(Figure("a", 1.5, "x", note="n"))

    figures.save(written)

    assert figures.load("unary") == written
    assert figures.load("nothing") is None
    assert (tmp_path / ".gitignore").read_text() == "*\n!statistics.json\n!learning.json\n!cluster.json\n"


def test_the_report_shows_verdicts_skips_and_the_machine() -> None:
    """A budget without a figure says so; a skip gives its reason."""
    text = report.render(
        [result(Figure("unary: throughput / aiohttp", 3.0, "x")), result(status="skipped", reason="no wrk")],
        now=datetime(2026, 1, 2, tzinfo=UTC),
    )

    assert "| unary: throughput / aiohttp | 3.00 x | >= 2.5 | kept |" in text
    assert "| learner | not measured |" in text
    assert "skipped: no wrk" in text
    assert "C, 2 cores" in text


def test_scenarios_are_callable_and_named_once() -> None:
    """The registry is what `run` offers."""
    assert len(set(SCENARIOS.values())) == len(SCENARIOS)


@pytest.mark.parametrize("size", [512, 2048, 100_000])
def test_prompts_have_the_size_they_are_named_for(size: int) -> None:
    """A 2 KB prompt is 2,048 bytes of valid JSON."""
    body = chat_body(size)

    assert len(body) == size
    assert json.loads(body)["messages"][1]["content"]


def test_a_reply_is_complete_exactly_at_its_length() -> None:
    """The latency clients stop at the last byte and refuse errors."""
    whole = framed(unary_document(700))
    reply = Reply()

    assert not reply.feed(whole[:40])
    assert not reply.feed(whole[40:-1])
    assert reply.feed(whole[-1:])
    with pytest.raises(Failed, match="unexpected reply"):
        Reply().feed(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
    with pytest.raises(Failed, match="ended"):
        Reply().feed(b"")


def test_spread_is_zero_for_equal_rounds() -> None:
    """Half the interquartile range over the median."""
    assert spread([5.0, 5.0, 5.0, 5.0]) == 0.0
    assert spread([5.0]) == 0.0


async def test_the_mock_answers_unary_and_streams_with_usage_when_asked() -> None:
    """Replies parse in a real client; a stream has all its chunks, usage only on request, and [DONE]."""
    loop = asyncio.get_running_loop()
    pacer = Pacer(chunks=3, rate=200.0)
    pacer.start(loop)
    reply = framed(unary_document())
    server = await loop.create_server(lambda: MockUpstream(lambda _: reply, pacer), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, httpx.AsyncClient(trust_env=False) as client:
        unary = (await client.post(url, json={"messages": []})).json()
        plain = (await client.post(url, content=b'{"stream":true}')).text
        asked = b'{"stream":true,"stream_options":{"include_usage":true}}'
        with_usage = (await client.post(url, content=asked)).text
        sent = (await client.get(url)).json()["chunks"]

    assert unary["usage"]["total_tokens"] == 600
    assert plain.count("data: ") == 5
    assert '"usage"' not in plain
    assert with_usage.count('"usage":null') == 3
    assert '"completion_tokens":100' in with_usage
    assert with_usage.endswith("data: [DONE]\n\n")
    assert sent >= 6
