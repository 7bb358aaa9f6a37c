"""What a simulated model is like: price, speed, skill by kind of task, faults. Checked on reading.

Invariant: a profile says how often a model is right, never what it answers; the answer is worked out from
the prompt by ``proxy.simulator.solver``. Prices are here for the reader of a profile file and for whoever
writes a configuration from it; the simulator itself charges nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Kind = Literal["math", "code", "extraction", "classification", "chat"]
Chance = Annotated[float, Field(ge=0.0, le=1.0)]


class Marker(BaseModel):
    """How a model reacts when ``text`` stands (any case) in its system prompt.

    ``skill`` is added to the chance of a right answer (all kinds, or by kind in ``skills``); ``length``
    multiplies the number of words it spends.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(min_length=1)
    skill: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.0
    skills: dict[Kind, Annotated[float, Field(ge=-1.0, le=1.0)]] = Field(default_factory=dict)
    length: Annotated[float, Field(gt=0.0, le=20.0)] = 1.0


class Fault(BaseModel):
    """An error that hits a share of the requests. ``kind`` cuts a stream short instead of refusing it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: Chance
    status: Annotated[int, Field(ge=400, le=599)] = 500
    kind: Literal["status", "cut"] = "status"


class ModelProfile(BaseModel):
    """One simulated model. Durations in milliseconds, prices in USD per million tokens.

    ``ttft_ms`` and ``token_ms`` are medians of lognormal times whose ``sigma`` is the standard deviation
    of the logarithm. ``skill`` is the chance of a right answer, ``skills`` overrides it by kind of task.
    ``words`` is the usual number of filler words around an answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    input_price: Annotated[float, Field(ge=0.0)] = 0.0
    output_price: Annotated[float, Field(ge=0.0)] = 0.0
    ttft_ms: Annotated[float, Field(ge=0.0)] = 200.0
    token_ms: Annotated[float, Field(ge=0.0)] = 5.0
    sigma: Annotated[float, Field(ge=0.0, le=3.0)] = 0.25
    skill: Chance = 0.8
    skills: dict[Kind, Chance] = Field(default_factory=dict)
    words: Annotated[int, Field(ge=0, le=10_000)] = 12
    markers: tuple[Marker, ...] = ()
    faults: tuple[Fault, ...] = ()

    def chance(self, kind: Kind, system: str) -> float:
        """The chance, in [0, 1], of a right answer to a task of ``kind`` under this system prompt."""
        chance = self.skills.get(kind, self.skill)
        for marker in self.active(system):
            chance += marker.skills.get(kind, marker.skill)
        return min(max(chance, 0.0), 1.0)

    def length(self, system: str) -> float:
        """The factor on the number of words under this system prompt."""
        factor = 1.0
        for marker in self.active(system):
            factor *= marker.length
        return factor

    def active(self, system: str) -> list[Marker]:
        """The markers that the system prompt contains."""
        folded = system.casefold()
        return [marker for marker in self.markers if marker.text.casefold() in folded]


class ProfileProblem(Exception):
    """A profile file can't be used; the message names the file and every wrong field."""


STEPS = "step by step"
"""The marker the built-in models react to."""


def builtin_profiles() -> tuple[ModelProfile, ...]:
    """Three models: a dear and good one, a middling one, and a cheap one that shines at extraction only."""
    return (
        ModelProfile(
            id="sim-large",
            input_price=5.0,
            output_price=20.0,
            ttft_ms=320.0,
            token_ms=6.0,
            skill=0.97,
            words=24,
            markers=(Marker(text=STEPS, skill=0.01, length=1.6),),
        ),
        ModelProfile(
            id="sim-medium",
            input_price=0.8,
            output_price=3.2,
            ttft_ms=180.0,
            token_ms=4.0,
            skill=0.93,
            skills={"math": 0.70, "code": 0.66},
            words=18,
            markers=(Marker(text=STEPS, skill=0.01, skills={"math": 0.26, "code": 0.28}, length=1.5),),
        ),
        ModelProfile(
            id="sim-small",
            input_price=0.1,
            output_price=0.4,
            ttft_ms=90.0,
            token_ms=2.0,
            skill=0.88,
            skills={"math": 0.35, "code": 0.30, "extraction": 0.94},
            words=12,
            markers=(Marker(text=STEPS, skill=-0.02, skills={"math": 0.25, "code": 0.20}, length=2.0),),
        ),
    )


def load_profiles(path: Path) -> tuple[ModelProfile, ...]:
    """Read a YAML or JSON file: a list of models, or a mapping with the list under ``models``.

    Raises:
        ProfileProblem: If the file can't be read, a field is wrong, or a model id appears twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ProfileProblem(f"{path}: {error}") from error
    if isinstance(document, dict):
        document = document.get("models")
    try:
        profiles = TypeAdapter(tuple[ModelProfile, ...]).validate_python(document)
    except ValidationError as error:
        raise ProfileProblem(f"{path}: {_explain(error)}") from error
    _check_ids(path, profiles)
    return profiles


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'models'}: {item['msg']}" for item in error.errors()
    )


def _check_ids(path: Path, profiles: Sequence[ModelProfile]) -> None:
    ids = [profile.id for profile in profiles]
    if not ids:
        raise ProfileProblem(f"{path}: no models listed")
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ProfileProblem(f"{path}: listed more than once: {', '.join(twice)}")
