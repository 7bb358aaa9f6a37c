"""What is known without being told: built-in upstreams and models, and what to assume of strangers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.routing import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Price
from proxy.catalogue import CatalogueEntry, catalogue

OPENAI = "openai"
ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class BuiltinUpstream:
    """A public service: its base URL and the variable that holds its key."""

    provider: str
    base_url: str
    key_variable: str


BUILTIN: Mapping[str, BuiltinUpstream] = {
    OPENAI: BuiltinUpstream(OPENAI, "https://api.openai.com/v1", "OPENAI_API_KEY"),
    ANTHROPIC: BuiltinUpstream(ANTHROPIC, "https://api.anthropic.com", "ANTHROPIC_API_KEY"),
}

_FAMILIES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(gpt-|chatgpt-|o\d|text-embedding-|ft:gpt-)"), OPENAI),
    (re.compile(r"claude-"), ANTHROPIC),
)
# A name that ends in a date asks for exactly that snapshot; the catalogue may list it as an alias.
_SNAPSHOT = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|\d{4})$")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is assumed about a model unless the configuration says otherwise."""

    model_id: str
    upstream: str | None
    price: Price | None
    context_tokens: int | None
    max_output_tokens: int | None
    capabilities: frozenset[str]
    endpoints: frozenset[str]
    listed: bool
    notice: str | None = None


def facts_of(name: str, model_id: str | None, provider: str | None) -> Facts:
    """Facts about the model called ``name``, from the catalogue by its id or name, else assumptions.

    ``provider`` is that of its upstream when it is known.
    """
    entry = catalogue().get(model_id or name) or catalogue().get(name)
    if entry is not None:
        return _listed(entry, name, model_id)
    wanted = model_id or name
    family = next((upstream for pattern, upstream in _FAMILIES if pattern.match(wanted)), None)
    return Facts(
        model_id=wanted,
        upstream=family,
        price=None,
        context_tokens=None,
        max_output_tokens=None,
        capabilities=_assumed_capabilities(wanted, provider or family),
        endpoints=_assumed_endpoints(wanted, provider or family),
        listed=False,
    )


def builtin_models() -> list[str]:
    """Names of the catalogue that a built-in upstream serves."""
    return [name for name, entry in catalogue().items() if entry.upstream in BUILTIN]


def _listed(entry: CatalogueEntry, name: str, model_id: str | None) -> Facts:
    sent = model_id or (name if _SNAPSHOT.search(name) else entry.model_id)
    return Facts(
        model_id=sent,
        upstream=entry.upstream,
        price=entry.price,
        context_tokens=entry.context_tokens,
        max_output_tokens=entry.max_output_tokens,
        capabilities=entry.capabilities,
        endpoints=entry.endpoints,
        listed=True,
        notice=entry.notice,
    )


def _assumed_capabilities(model_id: str, provider: str | None) -> frozenset[str]:
    """Optimistic: refusing what a model could do would break an application that worked without us."""
    if "embed" in model_id.lower():
        return frozenset()
    if provider == ANTHROPIC:
        return frozenset(("tools", "vision", "json_schema"))
    return frozenset(("tools", "vision", "json_object", "json_schema"))


def _assumed_endpoints(model_id: str, provider: str | None) -> frozenset[str]:
    if "embed" in model_id.lower():
        return frozenset((EMBEDDINGS,))
    if provider == ANTHROPIC:
        return frozenset((CHAT,))
    return frozenset((CHAT, COMPLETIONS, RESPONSES))
