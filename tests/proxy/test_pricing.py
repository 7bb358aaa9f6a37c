"""Every token is charged once, at its own rate; not knowing is None.

The cases named after other gateways are billing mistakes that their users reported.
"""

import dataclasses

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.routing import Price
from proxy.envelope import parse
from proxy.pricing import builtin_prices, cost_usd
from proxy.providers.base import ReplyFacts
from proxy.providers.registry import CODECS

OPENAI = Price(input=2.5, output=10.0, cached_input=1.25)
ANTHROPIC = Price(input=3.0, output=15.0, cached_input=0.3, cache_write=3.75, cache_write_1h=6.0)
CHAT = parse("chat", orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}))


def openai_reply(**usage):
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    return CODECS["openai"].unary(CHAT, orjson.dumps({"choices": [choice], "usage": usage}))[1]


def anthropic_reply(**usage):
    doc = {
        "id": "msg_1",
        "type": "message",
        "model": "c",
        "content": [{"type": "text", "text": "a"}],
        "stop_reason": "end_turn",
        "usage": usage,
    }
    return CODECS["anthropic"].unary(CHAT, orjson.dumps(doc))[1]


def test_openai_cached_tokens_are_inside_the_prompt():
    """litellm#14849, #6215, #11364; latitude#4051: cached tokens charged twice."""
    facts = openai_reply(
        prompt_tokens=1000,
        completion_tokens=100,
        total_tokens=1100,
        prompt_tokens_details={"cached_tokens": 800},
    )

    assert cost_usd(OPENAI, facts) == pytest.approx((200 * 2.5 + 800 * 1.25 + 100 * 10) / 1e6)


def test_cached_tokens_are_counted_at_all():
    """litellm#16341: a discount that never came. With no listed rate they cost what input costs."""
    facts = openai_reply(
        prompt_tokens=1000, completion_tokens=0, prompt_tokens_details={"cached_tokens": 1000}
    )

    assert cost_usd(OPENAI, facts) == pytest.approx(1000 * 1.25 / 1e6)
    assert cost_usd(Price(2.5, 10.0), facts) == pytest.approx(1000 * 2.5 / 1e6)


def test_reasoning_is_inside_the_output():
    """litellm#37407 (72 % over): reasoning added to a completion that has it."""
    facts = openai_reply(
        prompt_tokens=10,
        completion_tokens=500,
        total_tokens=510,
        completion_tokens_details={"reasoning_tokens": 450},
    )

    assert cost_usd(OPENAI, facts) == pytest.approx((10 * 2.5 + 500 * 10) / 1e6)


def test_reasoning_outside_the_output_is_charged_once():
    """litellm#37407 (xAI): there the completion excludes what it bills as output."""
    facts = openai_reply(
        prompt_tokens=10,
        completion_tokens=50,
        total_tokens=510,
        completion_tokens_details={"reasoning_tokens": 450},
    )

    assert cost_usd(OPENAI, facts) == pytest.approx((10 * 2.5 + 500 * 10) / 1e6)


def test_anthropic_cache_tokens_are_outside_its_input():
    """bifrost#904: they are extra, and each kind has its rate."""
    facts = anthropic_reply(
        input_tokens=100,
        output_tokens=50,
        cache_read_input_tokens=1000,
        cache_creation_input_tokens=400,
    )

    assert facts.input_tokens == 1500
    assert cost_usd(ANTHROPIC, facts) == pytest.approx((100 * 3 + 1000 * 0.3 + 400 * 3.75 + 50 * 15) / 1e6)


def test_cache_creation_is_counted_once():
    """bifrost#3451: the total and its breakdown by age were added up."""
    facts = anthropic_reply(
        input_tokens=0,
        output_tokens=0,
        cache_creation_input_tokens=500,
        cache_creation={"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 200},
    )

    assert facts.input_tokens == 500
    assert cost_usd(ANTHROPIC, facts) == pytest.approx((300 * 3.75 + 200 * 6) / 1e6)


def test_rates_are_per_million():
    """bifrost#3559: a price per token read as a price per million."""
    facts = openai_reply(prompt_tokens=1_000_000, completion_tokens=1_000_000, total_tokens=2_000_000)

    assert cost_usd(OPENAI, facts) == pytest.approx(12.5)


def test_the_total_is_not_a_basis():
    """Portkey#1754, #875: totals that are not the sum must not change the bill."""
    right = openai_reply(
        prompt_tokens=100, completion_tokens=10, total_tokens=110, prompt_tokens_details={"cached_tokens": 0}
    )
    wrong = openai_reply(
        prompt_tokens=100, completion_tokens=10, total_tokens=190, prompt_tokens_details={"cached_tokens": 0}
    )

    assert cost_usd(OPENAI, wrong) == cost_usd(OPENAI, right)


def test_translated_usage_bills_the_same():
    """What clients of the Anthropic codec see obeys OpenAI's rule: cached tokens inside the prompt."""
    doc = {
        "type": "message",
        "id": "m",
        "model": "c",
        "content": [],
        "usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90},
    }
    body, facts = CODECS["anthropic"].unary(CHAT, orjson.dumps(doc))
    seen = CODECS["openai"].unary(CHAT, body)[1]

    assert orjson.loads(body)["usage"]["total_tokens"] == 105
    assert cost_usd(ANTHROPIC, seen) == pytest.approx(cost_usd(ANTHROPIC, facts))


def test_not_knowing_is_none():
    """Never 0: an unknown price, no usage, half of it."""
    known = openai_reply(prompt_tokens=1, completion_tokens=1)
    half = ReplyFacts()
    half.input_tokens = 5

    assert cost_usd(None, known) is None
    assert cost_usd(OPENAI, ReplyFacts()) is None
    assert cost_usd(OPENAI, half) is None


def test_a_fee_per_request_is_added():
    """Once."""
    price = dataclasses.replace(OPENAI, request_usd=0.01)

    assert cost_usd(price, openai_reply(prompt_tokens=0, completion_tokens=0)) == pytest.approx(0.01)


COUNTS = st.one_of(st.none(), st.integers(0, 10**7))


@given(st.integers(0, 10**7), st.integers(0, 10**7), COUNTS, COUNTS, COUNTS, st.integers(0, 10**7))
def test_no_count_makes_a_bill_negative_or_double(given_in, output, read, written, hour, reasoning):
    """Whatever a provider reports, the bill lies between the cheapest and the dearest rate."""
    facts = ReplyFacts()
    facts.input_tokens, facts.output_tokens, facts.reasoning_tokens = given_in, output, reasoning
    facts.cache_read_tokens, facts.cache_write_tokens, facts.cache_write_1h_tokens = read, written, hour

    cost = cost_usd(ANTHROPIC, facts)

    low = (given_in * 0.3 + output * 15) / 1e6
    high = (given_in * 6 + output * 15) / 1e6
    assert low - 1e-9 <= cost <= high + 1e-9


def test_builtin_prices_know_the_guides_models():
    """The names of the user guide have prices."""
    prices = builtin_prices()

    for name in ("gpt-4", "gpt-3.5-turbo", "claude-3-opus", "claude-3-sonnet"):
        assert prices[name].output > prices[name].input > 0
