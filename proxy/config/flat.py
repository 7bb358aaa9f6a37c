"""The user guide's flat blocks, compiled into the shape of ``routes`` and ``prompts``.

One pure function, ``compile_flat``: the same file gives the same plan. The listed models form the route
``auto``, and every listed name is a route with itself as baseline. Which arms draw traffic follows from the
active strategies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from optimizer.settings import FLOOR
from proxy.config.known import builtin_models, facts_of
from proxy.config.models import File
from proxy.config.models_optimization import OptimizationBlock
from proxy.config.models_route import ArmBlock, ObjectiveBlock, PolicyBlock, PromptBlock, RouteBlock
from proxy.config.normalise import STRATEGY_BLOCKS
from proxy.config.problems import Findings, KeyPath

AUTO = "auto"
SELECTION: KeyPath = ("optimization", "model_selection")
PROMPTS: KeyPath = ("optimization", "prompt_optimization")
COMPARES_MODELS = frozenset(("cost_reduction", "latency_optimization"))
_EXPLORES = COMPARES_MODELS | {"multi_objective"}
_CHAT_LIKE = frozenset(("chat", "completions", "responses", "messages"))
# With many arms to compare, at least half of the traffic stays with the baseline.
_MOST_EXPLORED = 0.5


@dataclass(frozen=True, slots=True)
class FlatPlan:
    """What the flat blocks stand for. ``origins`` says which part of the file each route comes from."""

    routes: dict[str, RouteBlock] = field(default_factory=dict)
    prompts: dict[str, PromptBlock] = field(default_factory=dict)
    objectives: tuple[ObjectiveBlock, ...] | None = None
    origins: dict[str, KeyPath] = field(default_factory=dict)


def active_strategies(block: OptimizationBlock) -> frozenset[str]:
    """Which strategies run: those listed, else every block that is present; ``enabled: false`` wins."""
    active = set()
    for name in STRATEGY_BLOCKS:
        part = getattr(block, name)
        listed = part is not None if block.strategies is None else name in block.strategies
        if listed and (part is None or part.enabled):
            active.add(name)
    return frozenset(active)


def uses_known_models(file: File) -> bool:
    """Whether built-in models may be asked for by name."""
    if file.known_models is not None:
        return file.known_models
    return not (file.upstreams or file.models or file.routes)


def compile_flat(file: File, findings: Findings) -> FlatPlan:
    """Routes, prompts and objectives that the flat blocks of ``file`` stand for."""
    active = active_strategies(file.optimization)
    selection = file.optimization.model_selection
    listed = list(dict.fromkeys(selection.models)) if selection is not None else []
    prompts = _prompts(file, findings) if "prompt_optimization" in active else {}
    plan = FlatPlan(prompts=prompts, objectives=_objectives(file.optimization, findings))
    if listed:
        assert selection is not None
        default = selection.baseline or listed[0]
        if default not in listed:
            findings.unknown((*SELECTION, "baseline"), "listed model", default, listed)
            default = listed[0]
        promptable = [name for name in listed if _takes_prompts(file, name)]
        for name, baseline in [(AUTO, default), *((name, name) for name in listed)]:
            _add(plan, name, listed, promptable, _Choice(baseline, active, SELECTION))
    elif prompts:
        for name in _prompt_targets(file, findings):
            _add(plan, name, [name], [name], _Choice(name, active, PROMPTS))
    _explain(file, active, listed, findings)
    return plan


def merge_route(flat: RouteBlock | None, written: RouteBlock) -> RouteBlock:
    """A route that both the flat blocks and ``routes`` define: what is written there wins, key by key."""
    if flat is None:
        return written
    keys = set(written.model_fields_set)
    if "arms" in keys:
        # Other arms: baseline and shares of the flat arms say nothing about them.
        flat = RouteBlock(objectives=flat.objectives, optimize=flat.optimize)
    update = {key: getattr(written, key) for key in keys - {"policy"}}
    if "policy" in keys:
        policy = {key: getattr(written.policy, key) for key in written.policy.model_fields_set}
        if policy.get("type", flat.policy.type) != flat.policy.type:
            policy.setdefault("probabilities", {})
        update["policy"] = flat.policy.model_copy(update=policy)
    return flat.model_copy(update=update)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The baseline of a route, the strategies at work, and the block that asked for the route."""

    baseline: str
    active: frozenset[str]
    origin: KeyPath


def _add(
    plan: FlatPlan, name: str, models: Sequence[str], promptable: Sequence[str], choice: _Choice
) -> None:
    """Add a route over ``models``; those in ``promptable`` may also be tried with each prompt."""
    learns = "model_selection" in choice.active and choice.origin == SELECTION
    arms = [ArmBlock(model=model) for model in models]
    compares_models = bool(choice.active & _EXPLORES)
    compared = [model for model in models if model != choice.baseline] if compares_models else []
    for model in models if learns else [choice.baseline]:
        if model in promptable:
            arms += [ArmBlock(model=model, prompt=prompt) for prompt in plan.prompts]
            compared += [f"{model}+{prompt}" for prompt in plan.prompts]
    policy = PolicyBlock() if learns else _fixed(choice.baseline, compared)
    plan.routes[name] = RouteBlock(arms=arms, baseline=choice.baseline, policy=policy)
    plan.origins[name] = choice.origin


def _takes_prompts(file: File, name: str) -> bool:
    """Whether a prompt variant can change anything there (not for embeddings)."""
    block = file.models.get(name)
    endpoints = block.endpoints if block is not None else None
    known = facts_of(name, block.model if block is not None else None, None).endpoints
    return bool(set(endpoints or known) & _CHAT_LIKE)


def _fixed(baseline: str, compared: Sequence[str]) -> PolicyBlock:
    """The baseline, and the exploration floor on what another strategy compares with it."""
    if not compared:
        return PolicyBlock(type="fixed")
    floor = min(FLOOR, _MOST_EXPLORED / len(compared))
    rest = round(1.0 - floor * len(compared), 12)
    return PolicyBlock(type="fixed", probabilities={baseline: rest, **dict.fromkeys(compared, floor)})


def _prompts(file: File, findings: Findings) -> dict[str, PromptBlock]:
    block = file.optimization.prompt_optimization
    prompts: dict[str, PromptBlock] = {}
    for index, variant in enumerate(block.variants if block is not None else ()):
        path: KeyPath = (*PROMPTS, "variants", index)
        name = variant.name or f"variant-{index + 1}"
        if name in prompts or name in file.prompts:
            findings.problem(path, f"the prompt name {name!r} is taken.", "Give the variant another name.")
            continue
        prompts[name] = PromptBlock(system=variant.system, mode=variant.mode, template=variant.template)
        findings.moved["prompts", name] = findings.written(path)
    return prompts


def _prompt_targets(file: File, findings: Findings) -> list[str]:
    """Without a list of models a prompt test covers every model that can be asked for."""
    known = builtin_models() if uses_known_models(file) else []
    names = [name for name in file.models or known if _takes_prompts(file, name)]
    if names:
        findings.note(
            (*PROMPTS, "variants"), f"compared on each of {len(names)} models, beside the unchanged prompt."
        )
    return names


def _objectives(block: OptimizationBlock, findings: Findings) -> tuple[ObjectiveBlock, ...] | None:
    several, selection = block.multi_objective, block.model_selection
    criteria = selection.criteria if selection is not None else []
    if several is not None and several.enabled and several.objectives:
        if criteria:
            findings.note(
                (*SELECTION, "criteria"), "the weights of multi_objective.objectives are used instead."
            )
        return tuple(several.objectives)
    if criteria:
        return tuple(ObjectiveBlock(name=name, weight=1.0 / len(criteria)) for name in criteria)
    return None


def _explain(file: File, active: frozenset[str], listed: Sequence[str], findings: Findings) -> None:
    """Say what a reader of the file might expect and will not see."""
    block = file.optimization
    for name in STRATEGY_BLOCKS:
        part = getattr(block, name)
        if part is None or block.strategies is None:
            continue
        path: KeyPath = ("optimization", name)
        if name in block.strategies and not part.enabled:
            findings.note(path, "listed in optimization.strategies, but `enabled: false` keeps it off.")
        elif name not in block.strategies and part.enabled and name != "multi_objective":
            findings.note(path, "not in optimization.strategies, so it does not run.")
    if not block.enabled:
        findings.note(
            ("optimization", "enabled"), "every route plays its baseline only; requests are still recorded."
        )
    if "model_selection" in active and not listed and not file.routes:
        findings.note(
            SELECTION if block.model_selection is not None else ("optimization", "strategies"),
            "model_selection has no models to choose among; every request goes to the model it asks for. "
            "List some under model_selection.models.",
        )
    if "prompt_optimization" in active and not (
        block.prompt_optimization and block.prompt_optimization.variants
    ):
        findings.note(
            PROMPTS if block.prompt_optimization is not None else ("optimization", "strategies"),
            "prompt_optimization has no variants to compare. List some under prompt_optimization.variants.",
        )
