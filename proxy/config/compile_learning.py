"""Blocks about learning to the settings of a route: context, constraints, drift, judge.

Pure but for the findings. What can not be learned or kept as written is a problem with its reason; what is merely
without effect is a note.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optimizer.events import INLINE_VECTOR_ARMS
from optimizer.routing import CHAT, Arm, ClientFeature, Model, Upstream
from optimizer.settings import (
    Constraints,
    ContextSettings,
    DriftSettings,
    JudgeSettings,
    PolicySettings,
)
from proxy.config.identity import judge_version
from proxy.config.models_learning import (
    ClientFeatureBlock,
    ConstraintsBlock,
    ContextBlock,
    DriftBlock,
    JudgeBlock,
)
from proxy.config.problems import Findings, KeyPath

STEERED: Final = "thompson"
"""The one policy that can decide by context and keep constraints."""

RUBRIC: Final = (
    "Does the answer do what the user asked for? It should be correct first of all, then complete, then clear, in the "
    "form and the language that were asked for, and without anything that nobody asked for."
)
_PRICED: Final = ("cost_per_request_usd", "cost_per_day_usd", "target_reduction", "max_request_usd")
_DIGITS: Final = 12
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What such headers hold belongs to nobody but the one they are for.
_SECRET_HEADERS: Final = frozenset(
    ("authorization", "proxy-authorization", "x-api-key", "api-key", "x-llm-optimizer-key", "cookie")
)


@dataclass(frozen=True, slots=True)
class LearningScope:
    """What the blocks of one route are checked against: its arms and policy, and every model and upstream by name."""

    arms: Sequence[Arm]
    policy: PolicySettings
    models: Mapping[str, Model]
    upstreams: Mapping[str, Upstream]


def compile_context(
    block: ContextBlock | None, scope: LearningScope, path: KeyPath, findings: Findings
) -> ContextSettings | None:
    """What the decisions of a route may look at; None for nothing."""
    if block is None or not block.enabled:
        return None
    if len(scope.arms) > INLINE_VECTOR_ARMS:
        findings.problem(
            path,
            f"a route that decides by context has at most {INLINE_VECTOR_ARMS} arms, this one has {len(scope.arms)}.",
            "Split the route, or leave `context` out.",
        )
        return None
    if len(scope.arms) < 2:
        findings.note(path, "the route has a single arm, so there is nothing to decide.")
    elif scope.policy.name != STEERED:
        findings.note(
            path,
            f"the policy {scope.policy.name!r} only has requests recorded; {STEERED!r} looks at them, and what "
            "cost_reduction and latency_optimization propose does.",
        )
    if "lexical_size" in block.model_fields_set and not block.lexical:
        findings.note((*path, "lexical_size"), "has no meaning without `lexical: true`.")
    return ContextSettings(
        client=_client_features(block.client, (*path, "client"), findings),
        lexical=block.lexical,
        lexical_size=block.lexical_size,
    )


def compile_constraints(
    block: ConstraintsBlock, scope: LearningScope, path: KeyPath, findings: Findings
) -> Constraints:
    """What a route must keep; a reduction of 0.4 is a cost ratio of 0.6."""
    written = [name for name in type(block).model_fields if getattr(block, name) is not None]
    if written and scope.policy.name != STEERED:
        # No problem: an optimization may have given fixed shares to a route with constraints, and its export loads.
        findings.note(path, f"the policy {scope.policy.name!r} keeps no constraints; {STEERED!r} does.")
    elif written and len(scope.arms) < 2:
        findings.note(path, "the route has a single arm, so nothing can be done to keep them.")
    priced = [name for name in written if name in _PRICED]
    for arm in scope.arms if priced else ():
        model = scope.models[arm.model]
        if model.price is None and ("models", arm.model) not in findings.broken:
            findings.problem(
                (*path, priced[0]),
                f"the price of arm {arm.id!r} is unknown, so its cost could not be kept.",
                f"Give `price` under models, at {arm.model!r}.",
            )
    reduction = block.target_reduction
    return Constraints(
        cost_per_request_usd=block.cost_per_request_usd,
        cost_per_day_usd=block.cost_per_day_usd,
        cost_ratio=None if reduction is None else complement(reduction),
        max_request_usd=block.max_request_usd,
        quality_floor=block.quality_floor,
        quality_ratio=block.quality_threshold,
        latency_p95_ms=block.latency_p95_ms,
    )


def complement(share: float) -> float:
    """1 - share, without the dust of binary fractions: of 0.1 it is 0.9, and back."""
    return round(1.0 - share, _DIGITS)


def compile_drift(block: DriftBlock) -> DriftSettings:
    """How sudden changes are looked for."""
    return DriftSettings(block.enabled, block.tolerance, block.threshold, block.keep)


def compile_judge(
    block: JudgeBlock, model: Model | None, scope: LearningScope, path: KeyPath, findings: Findings
) -> JudgeSettings | None:
    """The judge of a route; ``model`` is the one it names, None (already blamed) if there is none."""
    if model is None:
        return None
    where: KeyPath = (*path, "model")
    if CHAT not in model.endpoints:
        findings.problem(where, f"{model.name!r} does not chat, so it can not judge.")
    if model.price is None and ("models", model.name) not in findings.broken:
        findings.problem(
            (*path, "usd_per_day"),
            f"the price of {model.name!r} is unknown, so what judging costs could not be counted.",
            f"Give `price` under models, at {model.name!r}.",
        )
    upstream = scope.upstreams.get(model.upstream)
    if upstream is not None and upstream.auth == "passthrough":
        findings.problem(
            where,
            f"the upstream {upstream.name!r} takes the caller's own key, which is not kept for a judge.",
            "Choose a model of an upstream with `auth: key`.",
        )
    if any(scope.models[arm.model].key == model.key for arm in scope.arms):
        findings.note(where, "it rates its own answers as well, which judges are known to prefer.")
    rubric = block.rubric or RUBRIC
    return JudgeSettings(
        name=block.name or model.name,
        model=model.name,
        rubric=rubric,
        version=judge_version(model.key, rubric),
        rate=block.rate,
        usd_per_day=block.usd_per_day,
        max_content_bytes=block.max_content_bytes,
    )


def _client_features(
    blocks: Sequence[ClientFeatureBlock], path: KeyPath, findings: Findings
) -> tuple[ClientFeature, ...]:
    features: dict[str, ClientFeature] = {}
    for index, block in enumerate(blocks):
        where: KeyPath = (*path, index)
        if block.name in features:
            findings.problem((*where, "name"), f"the feature {block.name!r} is listed twice.")
            continue
        if (block.header is None) == (block.metadata is None):
            findings.problem(where, "needs `header` or `metadata`: where the caller says it.")
            continue
        if block.header is not None and not _is_open_header(block.header, (*where, "header"), findings):
            continue
        if block.values and block.model_fields_set & {"min", "max"}:
            findings.problem(
                where, "is either one of `values` or a number between `min` and `max`, not both."
            )
        elif block.max <= block.min:
            findings.problem((*where, "max"), f"must be above min, which is {block.min:g}.")
        features[block.name] = ClientFeature(
            name=block.name,
            source="header" if block.header is not None else "metadata",
            key=block.header.lower() if block.header is not None else str(block.metadata),
            values=tuple(dict.fromkeys(block.values)),
            low=float(block.min),
            high=float(block.max),
        )
    return tuple(features.values())


def _is_open_header(name: str, path: KeyPath, findings: Findings) -> bool:
    if not _HEADER_NAME.fullmatch(name):
        findings.problem(path, "must be the name of a request header.")
        return False
    if name.lower() in _SECRET_HEADERS:
        findings.problem(path, "holds a credential, which nothing else may look at.")
        return False
    return True
