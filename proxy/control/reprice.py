"""What a logged request costs at another price: the join of the event's usage with ``proxy.pricing``."""

from collections.abc import Mapping
from typing import Any

from optimizer.routing import Model
from proxy.pricing import cost_usd
from proxy.providers.base import ReplyFacts


def reprice(model: Model, data: Mapping[str, Any]) -> float | None:
    """USD of the request whose event has ``data``, at the model's present price; None when it can't be told."""
    if data.get("usage_source") == "none":
        return None
    facts = ReplyFacts()
    facts.input_tokens = data.get("gen_ai.usage.input_tokens")
    facts.output_tokens = data.get("gen_ai.usage.output_tokens")
    facts.cache_read_tokens = data.get("gen_ai.usage.cache_read.input_tokens")
    facts.cache_write_tokens = data.get("gen_ai.usage.cache_creation.input_tokens")
    facts.cache_write_1h_tokens = data.get("cache_write_1h_tokens")
    return cost_usd(model.price, facts)
