"""What a reply cost, from the tokens that were reported and a price per million of each kind.

Invariant: every token is charged exactly once. ``ReplyFacts.input_tokens`` is all input, so cache reads and
writes are taken out of it before the plain rate applies, and reasoning is already part of the output.
Not knowing is ``None``, never 0.
"""

from collections.abc import Mapping
from types import MappingProxyType

from optimizer.routing import Price
from proxy.catalogue import catalogue
from proxy.providers.base import ReplyFacts

PER = 1_000_000


def cost_usd(price: Price | None, facts: ReplyFacts) -> float | None:
    """USD of one reply, or None when the price or the token counts are unknown.

    A rate that the price does not list is the ``input`` rate; an unlisted one-hour cache write costs what other cache
    writes do. Inconsistent counts (more cached than input) are cut to the input, so nothing is negative.
    """
    if price is None or facts.input_tokens is None or facts.output_tokens is None:
        return None
    total = facts.input_tokens
    read = min(facts.cache_read_tokens or 0, total)
    written = min(facts.cache_write_tokens or 0, total - read)
    written_1h = min(facts.cache_write_1h_tokens or 0, written)
    write_rate = price.input if price.cache_write is None else price.cache_write
    return (
        price.request_usd
        + (
            (total - read - written) * price.input
            + read * (price.input if price.cached_input is None else price.cached_input)
            + (written - written_1h) * write_rate
            + written_1h * (write_rate if price.cache_write_1h is None else price.cache_write_1h)
            + facts.output_tokens * price.output
        )
        / PER
    )


def builtin_prices() -> Mapping[str, Price]:
    """The dated list prices of ``prices.json`` by model name, aliases included."""
    return MappingProxyType({name: entry.price for name, entry in catalogue().items()})
