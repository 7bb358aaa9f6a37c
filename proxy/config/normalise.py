"""One place for every key: strategy blocks may stand at the top level or under ``optimization``.

Works on the document before validation, so that everything later knows one form. What was moved is
recorded, so that messages still name the place where the operator wrote it.
"""

from typing import Any

from proxy.config.problems import Findings, KeyPath, show_path

STRATEGY_BLOCKS = (
    "model_selection",
    "prompt_optimization",
    "cost_reduction",
    "latency_optimization",
    "multi_objective",
)
_HOME = "optimization"


def normalise(data: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """A copy of ``data`` in the normal form; contradictions go to ``findings``."""
    result = dict(data)
    home = result.get(_HOME)
    if home is not None and not isinstance(home, dict):
        findings.problem((_HOME,), "must be a mapping of keys.")
        home = None
        result.pop(_HOME)
    home = dict(home or {})
    for name in STRATEGY_BLOCKS:
        if name not in result:
            continue
        block = result.pop(name)
        if name in home and isinstance(block, dict) and isinstance(home[name], dict):
            home[name] = _merge(home[name], block, (name,), (_HOME, name), findings)
        elif name in home and home[name] is not None and block is not None:
            _conflict((name,), (_HOME, name), home[name], block, findings)
        else:
            home[name] = block
            findings.moved[_HOME, name] = (name,)
    cost = home.get("cost_reduction")
    if isinstance(cost, dict) and "target" in cost:
        home["cost_reduction"] = _rename_target(dict(cost), findings)
    if home or _HOME in result:
        result[_HOME] = home
    return result


def _merge(
    inner: dict[str, Any], outer: dict[str, Any], outer_path: KeyPath, inner_path: KeyPath, findings: Findings
) -> dict[str, Any]:
    merged = dict(inner)
    for key, value in outer.items():
        if key in merged and merged[key] is not None:
            _conflict((*outer_path, key), (*inner_path, key), merged[key], value, findings)
        else:
            merged[key] = value
            findings.moved[(*inner_path, key)] = (*outer_path, key)
    return merged


def _rename_target(block: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """``target`` is the guide's short name of ``target_reduction``."""
    path: KeyPath = (_HOME, "cost_reduction")
    value = block.pop("target")
    short = findings.written((*path, "target"))
    if block.get("target_reduction") is not None:
        _conflict(short, (*path, "target_reduction"), block["target_reduction"], value, findings)
        return block
    block["target_reduction"] = value
    findings.moved[(*path, "target_reduction")] = short
    return block


def _conflict(outer: KeyPath, inner: KeyPath, kept: Any, other: Any, findings: Findings) -> None:
    if not _same(kept, other):
        findings.problem(
            outer,
            f"has another value than {show_path(findings.written(inner))}; both name the same setting, "
            "keep one of them.",
        )


def _same(one: Any, other: Any) -> bool:
    """Equal values; ``"0.40"`` and ``0.4`` are one number."""
    if one == other:
        return True
    try:
        return not isinstance(one, bool) and not isinstance(other, bool) and float(one) == float(other)
    except (TypeError, ValueError):
        return False
