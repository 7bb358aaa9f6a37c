"""Route and prompt blocks to ``RouteSettings`` and ``Variant``: ids derived, references and sums checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import orjson

from optimizer.routing import EMBEDDINGS, Arm, Sticky, Variant
from optimizer.settings import Objective, PolicySettings, RouteSettings
from proxy.config.compile_cache import compile_caching
from proxy.config.compile_learning import (
    LearningScope,
    compile_constraints,
    compile_context,
    compile_drift,
    compile_judge,
)
from proxy.config.compile_models import ModelCompiler
from proxy.config.compile_resilience import (
    compile_quota,
    compile_resilience,
    report_other_embeddings,
    report_resume,
)
from proxy.config.compile_upstreams import UpstreamCompiler
from proxy.config.identity import arm_model_key, origin_of, variant_key
from proxy.config.models_route import (
    ArmBlock,
    ObjectiveBlock,
    PolicyBlock,
    PromptBlock,
    RouteBlock,
    StickyBlock,
)
from proxy.config.problems import Findings, KeyPath, suggest

DEFAULT_PROMPT = "default"
BUILTIN_METRICS: Mapping[str, bool] = {"quality": True, "cost": False, "latency": False, "ttft": False}
METRIC_ALIASES: Mapping[str, str] = {"response_quality": "quality", "time_to_first_token": "ttft"}
_DEFAULT_OBJECTIVES = (
    Objective("quality", 0.5, maximize=True),
    Objective("cost", 0.3, maximize=False),
    Objective("latency", 0.2, maximize=False),
)
_QUESTION = "{question}"
_IDENTITY = Variant(name=DEFAULT_PROMPT, key=variant_key(None, "", None))
# What the proxy itself writes, or what would make a request another request.
_NOT_PARAMETERS = frozenset(
    ("model", "messages", "prompt", "input", "instructions", "stream", "stream_options", "user")
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PATTERN = re.compile(r"[\x21-\x7e]{1,128}")
_SUM_TOLERANCE = 1e-6
_ARM_ID_LIMIT = 200


def compile_prompts(blocks: Mapping[str, PromptBlock], findings: Findings) -> dict[str, Variant]:
    """Every prompt by name, the unchanged one (``default``) first."""
    variants = {DEFAULT_PROMPT: _IDENTITY}
    for name, block in blocks.items():
        path: KeyPath = ("prompts", name)
        if name == DEFAULT_PROMPT:
            findings.problem(path, "this name means the unchanged prompt; choose another.")
            continue
        if block.system is None and block.template is None:
            if path not in findings.broken:
                findings.problem(path, "needs `system` or `template`.")
            continue
        if block.template is not None and _QUESTION not in block.template:
            findings.problem(
                (*path, "template"), f"must contain {_QUESTION}, which stands for the last user message."
            )
        mode = block.mode if block.system is not None else "prepend"
        variants[name] = Variant(
            name=name,
            key=variant_key(block.system, mode, block.template),
            system=block.system,
            mode=mode,
            template=block.template,
        )
    return variants


@dataclass(slots=True)
class RouteCompiler:
    """Compiles routes.

    ``custom`` holds custom metrics by name; True means more is better. ``timeout_ms`` is the server's.
    """

    models: ModelCompiler
    upstreams: UpstreamCompiler
    variants: Mapping[str, Variant]
    custom: Mapping[str, bool]
    findings: Findings
    timeout_ms: float
    defaults: tuple[Objective, ...] = _DEFAULT_OBJECTIVES
    patterns: dict[str, str] = field(default_factory=dict)

    def compile(
        self, name: str, block: RouteBlock, origin: KeyPath, *, optimize: bool
    ) -> RouteSettings | None:
        """One route; None if too little of it is usable. ``origin`` is what to blame for its arms."""
        path: KeyPath = ("routes", name)
        arms = self._arms(name, block, path, origin)
        if not arms:
            return None
        baseline = self._baseline(block, arms, path)
        self._report_embeddings(arms, path)
        fallbacks = self._fallbacks(block, arms, (*path, "fallbacks"))
        every = (*arms, *(arm for arm in fallbacks if arm not in arms))
        compiled = self.models.compiled
        report_other_embeddings(arms, fallbacks, compiled, (*path, "fallbacks"), self.findings)
        if block.streams.resume:
            report_resume(every, compiled, (*path, "streams", "resume"), self.findings)
        policy = self._policy(block.policy, arms, (*path, "policy"))
        judging = self.models.get(block.judge.model, (*path, "judge", "model")) if block.judge else None
        scope = LearningScope(arms, policy, compiled, self.upstreams.compiled)
        return RouteSettings(
            name=name,
            arms=arms,
            baseline=baseline,
            objectives=(
                self.objectives(block.objectives, (*path, "objectives"))
                if block.objectives is not None
                else self.defaults
            ),
            policy=policy,
            match=self._match(name, block.match, path),
            sticky=self._sticky(block.sticky, (*path, "sticky")),
            home=self._home(block.home, (*path, "home")),
            optimize=block.optimize and optimize,
            fallbacks=fallbacks,
            resilience=compile_resilience(block, every, path, self.findings, timeout_ms=self.timeout_ms),
            quota=compile_quota(block.limits, every, compiled, (*path, "limits"), self.findings),
            context=compile_context(block.context, scope, (*path, "context"), self.findings),
            constraints=compile_constraints(block.constraints, scope, (*path, "constraints"), self.findings),
            drift=compile_drift(block.drift),
            caching=compile_caching(block.cache),
            judge=(
                compile_judge(block.judge, judging, scope, (*path, "judge"), self.findings)
                if block.judge is not None
                else None
            ),
        )

    def objectives(self, blocks: Sequence[ObjectiveBlock], path: KeyPath) -> tuple[Objective, ...]:
        """Objectives with aliases resolved; at least one weight must be positive."""
        result: dict[str, Objective] = {}
        known = {**BUILTIN_METRICS, **self.custom}
        for index, block in enumerate(blocks):
            where: KeyPath = (*path, index)
            metric = METRIC_ALIASES.get(block.name, block.name)
            if metric not in known:
                hint = suggest(block.name, [*known, *METRIC_ALIASES])
                self.findings.problem(
                    (*where, "name"),
                    f"there is no metric {block.name!r}.",
                    hint or "Declare it under metrics.custom.",
                )
                continue
            if metric in result:
                self.findings.problem((*where, "name"), f"the metric {metric!r} is listed twice.")
                continue
            maximize = known[metric] if block.direction is None else block.direction == "maximize"
            if metric in BUILTIN_METRICS and maximize != BUILTIN_METRICS[metric]:
                self.findings.problem(
                    (*where, "direction"),
                    f"{metric} can only be {'maximized' if known[metric] else 'minimized'}.",
                )
            result[metric] = Objective(metric, block.weight, maximize=maximize, scale=block.scale)
        if result and not any(objective.weight > 0 for objective in result.values()):
            self.findings.problem(path, "at least one weight must be above 0.")
        return tuple(result.values()) or self.defaults

    def _arms(self, name: str, block: RouteBlock, path: KeyPath, origin: KeyPath) -> tuple[Arm, ...]:
        blocks = block.arms
        if not blocks:
            if path in self.findings.broken:
                return ()
            if not self.models.knows(name):
                self.findings.problem((*path, "arms"), "is required: a route needs at least one arm.")
                return ()
            blocks = [ArmBlock(model=name)]
        taken: dict[str, int] = {}
        contents: dict[tuple[str, str], str] = {}
        arms = []
        for index, arm_block in enumerate(blocks):
            where: KeyPath = (*path, "arms", index)
            blame: KeyPath = origin if origin != path else (*where, "model")
            arm = self._arm(arm_block, where, blame, taken)
            if arm is None:
                continue
            if arm.id in taken:
                self.findings.problem(where, f"the arm id {arm.id!r} is taken.", "Give one of them an `id`.")
                continue
            same = contents.get((arm.model_key, arm.variant_key))
            if same is not None:
                self.findings.problem(
                    where, f"is the same as the arm {same!r}: model, prompt and parameters agree."
                )
                continue
            contents[arm.model_key, arm.variant_key] = arm.id
            taken[arm.id] = 1
            arms.append(arm)
        return tuple(arms)

    def _fallbacks(self, route: RouteBlock, arms: Sequence[Arm], path: KeyPath) -> tuple[Arm, ...]:
        """The arms to go to, in order: arms of the route by id, and others outside of its bandit."""
        own = {arm.id: arm for arm in arms}
        refused = {block.id for block in route.arms} - own.keys()
        taken = dict.fromkeys(own, 1)
        fallbacks: list[Arm] = []
        for index, block in enumerate(route.fallbacks):
            where: KeyPath = (*path, index)
            is_name = block.model_fields_set == {"model"}
            arm = own.get(block.model) if is_name else None
            if arm is None and is_name and block.model in refused:
                continue
            if arm is None:
                arm = self._other_arm(block, where, own, taken)
            if arm is None:
                continue
            if any(
                (arm.model_key, arm.variant_key) == (other.model_key, other.variant_key)
                for other in fallbacks
            ):
                self.findings.problem(where, f"is the same as a fallback before it, {arm.id!r}.")
                continue
            taken[arm.id] = 1
            fallbacks.append(arm)
        return tuple(fallbacks)

    def _other_arm(
        self, block: ArmBlock, where: KeyPath, own: Mapping[str, Arm], taken: dict[str, int]
    ) -> Arm | None:
        """A fallback that is written out; the route's own arm if that is what it comes to."""
        if not self.models.knows(block.model) and block.model_fields_set == {"model"}:
            if where[:2] not in self.findings.broken and ("models", block.model) not in self.findings.broken:
                names = [*own, *self.models.names()]
                self.findings.unknown((*where, "model"), "arm or model", block.model, names)
            return None
        arm = self._arm(block, where, (*where, "model"), taken)
        if arm is None:
            return None
        for other in own.values():
            if (arm.model_key, arm.variant_key) == (other.model_key, other.variant_key):
                if block.id not in (None, other.id):
                    self.findings.problem(where, f"is the same as the arm {other.id!r}; name that.")
                return other
        if arm.id in taken:
            self.findings.problem(where, f"the arm id {arm.id!r} is taken.", "Give it an `id`.")
            return None
        return arm

    def _arm(self, block: ArmBlock, where: KeyPath, blame: KeyPath, taken: dict[str, int]) -> Arm | None:
        model = self.models.get(block.model, blame)
        prompt = block.prompt or DEFAULT_PROMPT
        variant = self.variants.get(prompt)
        if variant is None and ("prompts", prompt) not in self.findings.broken:
            self.findings.unknown((*where, "prompt"), "prompt", prompt, self.variants)
        has_json = self._check_parameters(block.parameters, (*where, "parameters"))
        if model is None or variant is None or not has_json:
            return None
        upstream = self.upstreams.get(model.upstream)
        assert upstream is not None
        return Arm(
            id=block.id or _derived_id(model.name, prompt, block.parameters, taken),
            model=model.name,
            variant=variant.name,
            model_key=arm_model_key(origin_of(upstream), model.model_id, block.parameters),
            variant_key=variant.key,
            parameters=dict(block.parameters),
        )

    def _check_parameters(self, parameters: Mapping[str, Any], path: KeyPath) -> bool:
        """Report what an arm may not set; whether all of it can be written as JSON."""
        has_json = True
        for name, value in parameters.items():
            if name in _NOT_PARAMETERS:
                self.findings.problem((*path, name), "can not be overridden by an arm.")
                continue
            try:
                orjson.dumps(value)
            except TypeError:
                self.findings.problem((*path, name), "is not a JSON value.")
                has_json = False
        return has_json

    def _baseline(self, block: RouteBlock, arms: Sequence[Arm], path: KeyPath) -> str:
        wanted = block.baseline
        if wanted is None:
            return arms[0].id
        for arm in arms:
            if arm.id == wanted:
                return arm.id
        for arm in arms:
            if arm.model == wanted:
                return arm.id
        if (*path, "arms") not in self.findings.broken and len(arms) >= len(block.arms):
            self.findings.unknown((*path, "baseline"), "arm", wanted, [arm.id for arm in arms])
        return arms[0].id

    def _policy(self, block: PolicyBlock, arms: Sequence[Arm], path: KeyPath) -> PolicySettings:
        ids = {arm.id for arm in arms}
        if block.floor is not None and block.floor * len(arms) > 1 + _SUM_TOLERANCE:
            self.findings.problem(
                (*path, "floor"),
                f"{len(arms)} arms with a floor of {block.floor:g} need more than all traffic.",
                f"At most {1 / len(arms):g} is possible.",
            )
        if block.probabilities:
            where: KeyPath = (*path, "probabilities")
            if block.type != "fixed":
                self.findings.problem(
                    where, f"has no meaning for the policy {block.type!r}; use `type: fixed`."
                )
            if (*path[:2], "arms") not in self.findings.broken:
                for name in block.probabilities:
                    if name not in ids:
                        self.findings.unknown((*where, name), "arm", name, ids)
            total = fsum(block.probabilities.values())
            if abs(total - 1.0) > _SUM_TOLERANCE:
                self.findings.problem(where, f"must sum to 1; they sum to {total:g}.")
        return PolicySettings(
            name=block.type,
            floor=block.floor,
            min_pulls=block.min_pulls,
            half_life_s=block.half_life_hours * 3600,
            max_memory=block.max_memory,
            prior_strength=block.prior_strength,
            epsilon=block.epsilon,
            fixed=dict(block.probabilities),
        )

    def _match(self, name: str, patterns: Sequence[str], path: KeyPath) -> tuple[str, ...]:
        for index, pattern in enumerate(patterns):
            where: KeyPath = (*path, "match", index)
            if not _PATTERN.fullmatch(pattern) or pattern.count("[") != pattern.count("]"):
                self.findings.problem(where, "is not a pattern; `*`, `?` and `[abc]` may stand for letters.")
            other = self.patterns.setdefault(pattern, name)
            if other != name:
                self.findings.problem(where, f"the route {other!r} has the same pattern.")
        return tuple(dict.fromkeys(patterns))

    def _sticky(self, block: StickyBlock | None, path: KeyPath) -> Sticky | None:
        if block is None:
            return None
        if block.by == "user":
            if block.header is not None:
                self.findings.problem((*path, "header"), "has no meaning with `by: user`.")
            return Sticky(by="user")
        if block.header is None or not _HEADER_NAME.fullmatch(block.header):
            self.findings.problem((*path, "header"), "must be the name of a request header.")
            return None
        return Sticky(by="header", header=block.header.lower())

    def _home(self, name: str | None, path: KeyPath) -> str | None:
        if name is not None and self.upstreams.get(name) is None:
            if ("upstreams", name) not in self.findings.broken:
                self.findings.unknown(path, "upstream", name, self.upstreams.names())
            return None
        return name

    def _report_embeddings(self, arms: Sequence[Arm], path: KeyPath) -> None:
        ids = {
            model.model_id
            for arm in arms
            if EMBEDDINGS in (model := self.models.compiled[arm.model]).endpoints
        }
        if len(ids) > 1:
            self.findings.note(
                path,
                "embeddings of different models can not be compared: the baseline's model serves them all.",
            )


def _derived_id(model: str, prompt: str, parameters: Mapping[str, Any], taken: dict[str, int]) -> str:
    base = model if prompt == DEFAULT_PROMPT else f"{model}+{prompt}"
    base = base[:_ARM_ID_LIMIT]
    if not parameters:
        return base
    number = 1
    while f"{base}#{number}" in taken:
        number += 1
    return f"{base}#{number}"
