"""The built-in model catalogue: names, limits, capabilities and dated list prices of well-known models.

``prices.json`` beside this module is the data; every entry names the page its numbers were read from and
the day. Invariant: the same file gives the same mapping, and a price's ``version`` changes exactly when
one of its numbers does. The configuration overlays its own prices; nothing here is fetched.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from optimizer.routing import Price

_DATA = Path(__file__).with_name("prices.json")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One known model, under one of its names.

    ``name`` is what a configuration may write, ``model_id`` what is sent. ``upstream`` is ``openai`` or
    ``anthropic`` for the built-in upstreams; other words (``google``, ``mistral``, ``deepseek``) name a provider
    whose upstream the configuration must declare. ``price`` is in USD per million tokens. ``notice`` says that the
    provider has deprecated or retired the model.
    """

    name: str
    model_id: str
    upstream: str
    price: Price
    context_tokens: int | None
    max_output_tokens: int | None
    capabilities: frozenset[str]
    endpoints: frozenset[str]
    notice: str | None = None


def price_version(price: Price) -> str:
    """A word of 12 hex digits that names the numbers of ``price`` (and nothing else about it)."""
    numbers = (
        price.input,
        price.output,
        price.cached_input,
        price.cache_write,
        price.cache_write_1h,
        price.request_usd,
    )
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[:12]


@cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """All entries by name, aliases included; read once per process."""
    document = orjson.loads(_DATA.read_bytes())
    entries: dict[str, CatalogueEntry] = {}
    for model_id, raw in document["models"].items():
        entry = _entry(model_id, raw)
        for name in (model_id, *raw.get("aliases", ())):
            if name in entries:
                raise ValueError(f"prices.json names {name!r} twice")
            entries[name] = replace(entry, name=name)
    return MappingProxyType(entries)


def _entry(model_id: str, raw: Mapping[str, Any]) -> CatalogueEntry:
    rates: Mapping[str, float] = raw["price"]
    price = Price(
        input=float(rates["input"]),
        output=float(rates["output"]),
        cached_input=_rate(rates, "cached_input"),
        cache_write=_rate(rates, "cache_write"),
        cache_write_1h=_rate(rates, "cache_write_1h"),
        source=f"builtin:{raw['checked']}:{raw['source']}",
    )
    return CatalogueEntry(
        name=model_id,
        model_id=model_id,
        upstream=raw["upstream"],
        price=replace(price, version=price_version(price)),
        context_tokens=raw.get("context_tokens"),
        max_output_tokens=raw.get("max_output_tokens"),
        capabilities=frozenset(raw["capabilities"]),
        endpoints=frozenset(raw["endpoints"]),
        notice=raw.get("notice"),
    )


def _rate(rates: Mapping[str, float], name: str) -> float | None:
    """As a float: 1 and 1.0 are one price, and must have one version."""
    rate = rates.get(name)
    return None if rate is None else float(rate)
