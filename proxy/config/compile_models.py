"""Model blocks, joined with the catalogue, to ``optimizer.routing.Model``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from optimizer.routing import EMBEDDINGS, Model, Price
from proxy.catalogue import price_version
from proxy.config.compile_resilience import PREFILLS
from proxy.config.compile_upstreams import UpstreamCompiler
from proxy.config.flat import PROMPTS
from proxy.config.identity import model_key, origin_of
from proxy.config.known import BUILTIN, Facts, builtin_models, facts_of
from proxy.config.models_upstream import ModelBlock, PriceBlock
from proxy.config.problems import Findings, KeyPath, suggest

STREAM_USAGE = "stream_usage"
_MOST_NAMES = 6


@dataclass(slots=True)
class _Assumed:
    """Models about which something had to be assumed or must be said, with the place that names them."""

    implied: list[tuple[KeyPath, str, str]] = field(default_factory=list)
    unpriced: list[tuple[KeyPath, str]] = field(default_factory=list)
    capable: list[tuple[KeyPath, str]] = field(default_factory=list)
    noticed: dict[str, list[tuple[KeyPath, str]]] = field(default_factory=dict)


class ModelCompiler:
    """Compiles models by name, each once: declared ones, and known ones when something names them."""

    def __init__(
        self, blocks: Mapping[str, ModelBlock], upstreams: UpstreamCompiler, findings: Findings
    ) -> None:
        self._blocks = blocks
        self._upstreams = upstreams
        self._findings = findings
        self._assumed = _Assumed()
        self.compiled: dict[str, Model] = {}

    def declared(self) -> None:
        """Compile everything under ``models``."""
        for name in self._blocks:
            self.get(name, ("models", name))

    def catalogue(self) -> None:
        """Compile every known model that a built-in upstream serves."""
        for name in builtin_models():
            self.get(name, ())

    def get(self, name: str, path: KeyPath) -> Model | None:
        """The model called ``name``; ``path`` is where it is named, to blame if there is no such model."""
        if name in self.compiled:
            return self.compiled[name]
        if ("models", name) in self._findings.broken:
            return None
        block = self._blocks.get(name)
        provider = None
        if block is not None and block.upstream is not None:
            upstream = self._upstreams.get(block.upstream)
            provider = upstream.provider if upstream is not None else None
        facts = facts_of(name, block.model if block is not None else None, provider)
        if block is None and facts.upstream is None:
            self._findings.unknown(path, "model", name, self.names())
            return None
        model = self._compile(name, block or ModelBlock(), facts, path)
        if model is not None:
            self.compiled[name] = model
        return model

    def knows(self, name: str) -> bool:
        """Whether ``get`` can find a model of this name."""
        return name in self._blocks or facts_of(name, None, None).upstream is not None

    def names(self) -> list[str]:
        """Names that may be suggested."""
        return [*self._blocks, *builtin_models()]

    def _compile(self, name: str, block: ModelBlock, facts: Facts, path: KeyPath) -> Model | None:
        upstream_name = self._upstream_name(name, block, facts, path)
        if upstream_name is None:
            return None
        upstream = self._upstreams.get(upstream_name)
        if upstream is None:
            if ("upstreams", upstream_name) not in self._findings.broken:
                self._findings.unknown(
                    (*path, "upstream") if block.upstream is not None else path,
                    "upstream",
                    upstream_name,
                    self._upstreams.names(),
                )
            return None
        if len(set(PREFILLS).intersection(block.capabilities or ())) > 1:
            self._findings.problem(
                (*path, "capabilities"), f"name one of {', '.join(PREFILLS)}: a model goes on in one way."
            )
        price = _price(block.price) if block.price is not None else facts.price
        model = Model(
            name=name,
            upstream=upstream_name,
            model_id=facts.model_id,
            key=model_key(origin_of(upstream), facts.model_id),
            price=price,
            context_tokens=block.context_tokens or facts.context_tokens,
            max_output_tokens=block.max_output_tokens or facts.max_output_tokens,
            capabilities=self._capabilities(block, facts, upstream_name),
            endpoints=frozenset(block.endpoints) if block.endpoints is not None else facts.endpoints,
            first_token_s=(
                block.first_token_timeout_ms / 1000 if block.first_token_timeout_ms is not None else None
            ),
        )
        self._remember(model, block, facts, path)
        return model

    def _upstream_name(self, name: str, block: ModelBlock, facts: Facts, path: KeyPath) -> str | None:
        if block.upstream is not None:
            return block.upstream
        known = self._upstreams.names()
        own = [other for other in known if other not in BUILTIN]
        if facts.listed and facts.upstream in known:
            return facts.upstream
        if len(own) == 1:
            # A model that only its operator knows, and one place where it can be.
            return own[0]
        if facts.upstream in known:
            return facts.upstream
        self._findings.problem(
            (*path, "upstream"),
            f"is required: nothing says which upstream serves {name!r}.",
            suggest(facts.upstream or "", known),
        )
        return None

    def _capabilities(self, block: ModelBlock, facts: Facts, upstream: str) -> frozenset[str]:
        chosen = frozenset(block.capabilities) if block.capabilities is not None else facts.capabilities
        if facts.listed and block.stream_usage is None and STREAM_USAGE not in facts.capabilities:
            wants = False
        else:
            wants = (
                block.stream_usage
                if block.stream_usage is not None
                else self._upstreams.stream_usage(upstream)
            )
        return chosen | {STREAM_USAGE} if wants else chosen - {STREAM_USAGE}

    def _remember(self, model: Model, block: ModelBlock, facts: Facts, path: KeyPath) -> None:
        """Take down what had to be assumed about a model that something names."""
        if not path:
            return
        if block.upstream is None and self._upstreams.is_implied(model.upstream):
            self._assumed.implied.append((path, model.name, model.upstream))
        if facts.notice is not None and model.upstream == facts.upstream and path[:2] != PROMPTS:
            # Elsewhere a model of that name may well live on; and a prompt test takes whatever is known.
            self._assumed.noticed.setdefault(facts.notice, []).append((path, model.name))
        if facts.listed:
            return
        if model.price is None:
            self._assumed.unpriced.append((path, model.name))
        if block.capabilities is None and model.endpoints != {EMBEDDINGS}:
            self._assumed.capable.append((path, model.name))

    def report_assumptions(self) -> None:
        """One note per kind of assumption, however many models share it."""
        for upstream in dict.fromkeys(upstream for _, _, upstream in self._assumed.implied):
            entries = [(path, name) for path, name, other in self._assumed.implied if other == upstream]
            self._note(
                entries, f"sent to the built-in upstream {upstream}; `upstream` under models says otherwise."
            )
        for notice, entries in self._assumed.noticed.items():
            self._note(entries, f"{notice}, says the built-in catalogue; choose another model.")
        self._note(self._assumed.unpriced, "price unknown, so cost unknown; give `price` under models.")
        self._note(
            self._assumed.capable,
            "not in the built-in catalogue, taken to understand tools, images and JSON; "
            "`capabilities` under models says otherwise.",
        )

    def _note(self, entries: list[tuple[KeyPath, str]], message: str) -> None:
        if not entries:
            return
        names = [name for _, name in entries]
        shown = ", ".join(names[:_MOST_NAMES])
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        self._findings.note(entries[0][0] if len(entries) == 1 else ("models",), f"{shown}{more}: {message}")


def _price(block: PriceBlock) -> Price:
    price = Price(
        input=block.input,
        output=block.output,
        cached_input=block.cached_input,
        cache_write=block.cache_write,
        cache_write_1h=block.cache_write_1h,
        request_usd=block.request,
        source=block.source,
    )
    return replace(price, version=price_version(price))
