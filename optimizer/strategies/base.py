"""What a strategy is told and what it answers: plain values, one protocol, one way to read parameters.

A strategy is pure and deterministic: the same situation and parameters give the same answer. It never changes a route;
a proposal is carried out by a rollout, which holds the change to its guards.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final, Protocol, TypeAlias

from optimizer.feedback import QUALITY, QUALITY_METRICS
from optimizer.rollouts.records import Proposal
from optimizer.settings import RouteSettings, Settings
from policies.sequential.confidence import Sample
from policies.types import ArmEvidence

NOT_ENOUGH_DATA: Final = "not_enough_data"
NO_IMPROVEMENT: Final = "no_improvement"
NO_DIFFERENCE: Final = "no_difference"
INFEASIBLE: Final = "infeasible"
NOT_APPLICABLE: Final = "not_applicable"
SAMPLE_RATIO: Final = "srm"
REASONS: Final = (NOT_ENOUGH_DATA, NO_IMPROVEMENT, NO_DIFFERENCE, INFEASIBLE, NOT_APPLICABLE, SAMPLE_RATIO)

CONFIDENCE: Final = 0.95
"""Of every interval that a proposal states, two-sided; so a bound that must hold errs with 2.5 %."""


@dataclass(frozen=True, slots=True)
class VariantCounts:
    """What a randomised trial saw of one arm: decisions for it, what their probabilities add up to, and its metrics.

    Where a unit is more than one request, samples are already as small as their scatter between units makes them.
    """

    assigned: int
    expected: float
    metrics: Mapping[str, Sample] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrialResults:
    """The randomised slice of one route, per arm id of the baseline's model. ``started_at`` is Unix seconds."""

    started_at: float
    arms: Mapping[str, VariantCounts]


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a strategy may look at.

    Args:
        route: The route as it is served now (the control side: file and deployed overlays).
        file: The route as the operator wrote it; a candidate may name any of its arms.
        evidence: One entry per arm of ``file``, in its order.
        settings: The whole configuration.
        requests_per_s: Recent traffic of the route, 0 when unknown.
        now: Unix seconds.
        trials: The randomised slice, None when there is none.
        published: The shares of ``route``'s arms in the table in use, which a steered route's evidence alone does not
            tell; empty when unknown.
    """

    route: RouteSettings
    file: RouteSettings
    evidence: Sequence[ArmEvidence]
    settings: Settings
    requests_per_s: float
    now: float
    trials: TrialResults | None = None
    published: Mapping[str, float] = field(default_factory=dict)


def takes_constraints(route: RouteSettings) -> bool:
    """Whether a change of the route is a matter of constraints: it looks at requests or keeps some already.

    Its policy may still be another one than that which can; see ``optimizer.strategies.steering``.
    """
    return route.context is not None or route.constraints.any


@dataclass(frozen=True, slots=True)
class NoProposal:
    """Why nothing is proposed. ``reason`` is one of ``REASONS``, ``explanation`` the sentence for people.

    ``needed`` says in numbers what is missing, for example ``{"ratings of small/default": 26}``.
    """

    reason: str
    explanation: str
    needed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the parameters. ``path`` is relative to them: ``objectives[0].weight``."""

    path: str
    message: str


Checked: TypeAlias = tuple[Mapping[str, Any], list[Problem]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, as the documentation and ``check`` know it.

    ``kind`` is number, boolean, text, texts (a list, or one text with commas), table or list. Numbers lie in
    ``low``..``high``; ``open_low`` and ``open_high`` exclude the ends. ``aliases`` are other names of the same thing.
    """

    name: str
    kind: str
    description: str
    default: Any = None
    required: bool = False
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    aliases: tuple[str, ...] = ()


class Strategy(Protocol):
    """A way to better routes. A new one is one module and one line in ``registry``."""

    @property
    def name(self) -> str:
        """What the configuration and the API call it."""
        ...

    @property
    def summary(self) -> str:
        """One sentence for people."""
        ...

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What ``check`` knows."""
        ...

    def check(
        self, parameters: Mapping[str, Any], settings: Settings, route: RouteSettings | None
    ) -> Checked:
        """Parameters with numbers as numbers and defaults filled in, and everything that is wrong with them.

        ``route`` None checks what can be told without a route. What was returned as normalised passes again unchanged.
        """
        ...

    def propose(self, situation: Situation, parameters: Mapping[str, Any]) -> Proposal | NoProposal:
        """A change to the route, or why none. ``parameters`` are those that ``check`` returned without a problem."""
        ...


QUALITY_THRESHOLD: Final = Parameter(
    "quality_threshold",
    "number",
    "Share of the baseline's quality to keep; the lower end of the interval has to keep it. Left out: "
    "`optimization.quality_threshold`.",
    low=0.0,
    high=1.0,
)
QUALITY_FLOOR: Final = Parameter(
    "quality_floor",
    "number",
    "Least quality, absolute; the lower end of the interval has to keep it.",
    low=0.0,
    high=1.0,
)


def describe(strategy: Strategy) -> dict[str, Any]:
    """Name, summary and parameters as plain values, for documents."""
    return {
        "name": strategy.name,
        "summary": strategy.summary,
        "parameters": [
            {
                "name": parameter.name,
                "type": parameter.kind,
                "description": parameter.description,
                "default": parameter.default,
                "required": parameter.required,
                "minimum": parameter.low,
                "maximum": parameter.high,
                "aliases": list(parameter.aliases),
            }
            for parameter in strategy.parameters
        ],
    }


def read(parameters: Mapping[str, Any], known: Sequence[Parameter]) -> tuple[dict[str, Any], list[Problem]]:
    """``parameters`` under their own names, converted, with defaults; and every problem.

    None counts as left out. A parameter given under two names is a problem only when the values differ.
    """
    names = {alias: parameter for parameter in known for alias in (parameter.name, *parameter.aliases)}
    values: dict[str, Any] = {parameter.name: parameter.default for parameter in known}
    problems: list[Problem] = []
    given: dict[str, Any] = {}
    for name, raw in parameters.items():
        parameter = names.get(name)
        if parameter is None:
            problems.append(Problem(str(name), _unknown("parameter", str(name), [p.name for p in known])))
            continue
        if raw is None:
            continue
        value, message = _converted(parameter, raw)
        if message:
            problems.append(Problem(name, message))
        elif parameter.name in given and given[parameter.name] != value:
            problems.append(Problem(name, f"says something else than `{parameter.name}`; give one of them."))
        else:
            values[parameter.name] = given[parameter.name] = value
    problems += [
        Problem(parameter.name, "is required.")
        for parameter in known
        if parameter.required and values[parameter.name] is None and not _blamed(parameter, problems)
    ]
    return values, problems


def number(raw: Any) -> float | None:
    """A finite number, also written as text (``"0.40"``, ``"40%"``); None if it is none."""
    if isinstance(raw, bool):
        return None
    try:
        if isinstance(raw, str) and raw.strip().endswith("%"):
            value = float(raw.strip()[:-1]) / 100.0
        elif isinstance(raw, str | int | float):
            value = float(raw)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return value if isfinite(value) else None


def metric_of(name: str) -> str:
    """The signal that a metric is kept under: every name of a rating is ``quality``."""
    return QUALITY if name in QUALITY_METRICS else name


def unknown_names(path: str, kind: str, names: Sequence[str], known: Sequence[str]) -> list[Problem]:
    """A problem for each of ``names`` that is none of ``known``."""
    return [
        Problem(f"{path}[{index}]", _unknown(kind, name, known))
        for index, name in enumerate(names)
        if name not in known
    ]


def read_keeping(parameters: Mapping[str, Any], known: Sequence[Parameter], settings: Settings) -> Checked:
    """``read`` for strategies that keep quality: the threshold that holds for all stands in for their own."""
    values, problems = read(parameters, known)
    if values["quality_threshold"] is None:
        values["quality_threshold"] = settings.optimization.quality_ratio
    return values, problems


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known) or 'none'}."
    return f"no such {kind}: `{name}`; {hint}"


def _blamed(parameter: Parameter, problems: Sequence[Problem]) -> bool:
    return any(problem.path in (parameter.name, *parameter.aliases) for problem in problems)


def _converted(parameter: Parameter, raw: Any) -> tuple[Any, str]:
    return _CONVERTERS[parameter.kind](parameter, raw)


def _to_number(parameter: Parameter, raw: Any) -> tuple[Any, str]:
    value = number(raw)
    if value is None:
        return None, f"must be a number, not {raw!r}."
    low, high = parameter.low, parameter.high
    below = low is not None and (value < low or (parameter.open_low and value == low))
    above = high is not None and (value > high or (parameter.open_high and value == high))
    if below or above:
        return None, f"must be {_range(parameter)}, not {value:g}."
    return value, ""


def _range(parameter: Parameter) -> str:
    parts = []
    if parameter.low is not None:
        parts.append(f"{'above' if parameter.open_low else 'at least'} {parameter.low:g}")
    if parameter.high is not None:
        parts.append(f"{'below' if parameter.open_high else 'at most'} {parameter.high:g}")
    return " and ".join(parts)


def _to_boolean(parameter: Parameter, raw: Any) -> tuple[Any, str]:
    if isinstance(raw, bool):
        return raw, ""
    word = str(raw).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True, ""
    if word in ("false", "no", "off", "0"):
        return False, ""
    return None, f"must be true or false, not {raw!r}."


def _to_text(parameter: Parameter, raw: Any) -> tuple[Any, str]:
    if isinstance(raw, str) and raw.strip():
        return raw.strip(), ""
    return None, f"must be a text, not {raw!r}."


def _to_texts(parameter: Parameter, raw: Any) -> tuple[Any, str]:
    """A list of texts; one text is split at its commas, as the command line gives it."""
    items = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple) or not all(
        isinstance(item, str) and item.strip() for item in items
    ):
        return None, "must be a list of texts."
    return list(dict.fromkeys(item.strip() for item in items)), ""


def _to_table(parameter: Parameter, raw: Any) -> tuple[Any, str]:
    if isinstance(raw, Mapping) and all(isinstance(key, str) for key in raw):
        return dict(raw), ""
    return None, "must be a table of names and values."


def _to_list(parameter: Parameter, raw: Any) -> tuple[Any, str]:
    return (list(raw), "") if isinstance(raw, list | tuple) else (None, "must be a list.")


_CONVERTERS: Final[Mapping[str, Callable[[Parameter, Any], tuple[Any, str]]]] = {
    "number": _to_number,
    "boolean": _to_boolean,
    "text": _to_text,
    "texts": _to_texts,
    "table": _to_table,
    "list": _to_list,
}
