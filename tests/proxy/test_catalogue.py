"""The built-in model file: complete, dated, consistent."""

import dataclasses
import re
from pathlib import Path

import orjson

import proxy.catalogue
from optimizer.routing import ENDPOINTS, Price
from proxy.catalogue import catalogue, price_version

RAW = orjson.loads(Path(proxy.catalogue.__file__).with_name("prices.json").read_bytes())["models"]
CAPABILITIES = {"tools", "vision", "audio", "json_object", "json_schema", "stream_usage", "prefill"}


def test_every_entry_names_its_source_and_day():
    """A price without a source is a rumour."""
    for name, entry in RAW.items():
        assert entry["source"].startswith("https://"), name
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", entry["checked"]), name


def test_entries_are_sane():
    """Rates are per million, cached input is cheaper, words are known."""
    for name, entry in catalogue().items():
        price = entry.price
        assert 0 < price.input < 1000, name
        assert 0 <= price.output < 1000, name
        assert price.cached_input is None or price.cached_input < price.input, name
        assert price.cache_write is None or price.cache_write > price.input, name
        assert entry.capabilities <= CAPABILITIES, name
        assert entry.endpoints <= set(ENDPOINTS), name
        assert entry.endpoints, name
        assert price.source.startswith("builtin:20"), name


def test_a_begun_answer_is_sent_only_where_a_page_says_so():
    """Claude 4.6 and later answer 400 to it, OpenAI's chat models begin anew."""
    takes = {name for name, entry in RAW.items() if "prefill" in entry["capabilities"]}

    assert takes == {name for name, entry in RAW.items() if "prefill_source" in entry}
    assert {RAW[name]["upstream"] for name in takes} == {"anthropic"}
    assert {"claude-haiku-4-5-20251001", "claude-opus-4-5-20251101"} <= takes
    assert not {"claude-opus-4-6", "claude-sonnet-4-6", "claude-sonnet-4-5-20250929"} & takes


def test_aliases_lead_to_the_dated_model():
    """What is written in a configuration is not always what a provider accepts."""
    entry = catalogue()["claude-3-opus"]

    assert (entry.name, entry.model_id, entry.upstream) == (
        "claude-3-opus",
        "claude-3-opus-20240229",
        "anthropic",
    )
    assert catalogue()["gpt-4"].upstream == "openai"


def test_the_version_follows_the_numbers_only():
    """Learned costs are rebuilt when a number changes, not when a comment does."""
    price = Price(1.0, 2.0)

    assert price_version(price) == price_version(dataclasses.replace(price, source="x", version="y"))
    assert price_version(price) != price_version(dataclasses.replace(price, cached_input=0.5))
