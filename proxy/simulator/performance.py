"""Turns one request into what a simulated model does with it: words, delays, faults. Pure and seeded.

Invariant: the same (seed, model, request body, occurrence) gives the same performance, whatever else the
simulator is doing at the time. Tokens are counted as four characters each.
"""

import hashlib
import math
import random
from collections import OrderedDict
from dataclasses import dataclass

import orjson

from proxy.simulator.profiles import Fault, Kind, ModelProfile
from proxy.simulator.solver import guess_kind, solve, spoil

_FILLER = (
    "Let me look at this carefully and work through what is being asked here before giving a result, "
    "so that each part of the question is covered and nothing important is left out of the reply."
)
_FILLER_WORDS = tuple(_FILLER.split())
_CHAT = "Happy to help. Tell me a little more about what you have in mind and we will find a good way."


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is asked: the system text, the last user text, and the bound on its reply in tokens."""

    system: str
    prompt: str
    input_tokens: int
    max_tokens: int | None = None
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Performance:
    """What a model does: ``pieces`` joined are the reply, one token's worth each; times in seconds.

    ``fault`` None means the request succeeds; a ``cut`` fault ends a reply in the middle.
    """

    kind: Kind
    pieces: tuple[str, ...]
    truncated: bool
    ttft_s: float
    token_s: float
    fault: Fault | None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Occurrences:
    """Counts how often a request was seen, for the newest ``limit`` different ones."""

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    def next(self, key: bytes) -> int:
        count = self._seen.pop(key, 0)
        self._seen[key] = count + 1
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        return count


def count_tokens(text: str) -> int:
    """Tokens of a text at four characters each, at least 1 for any text."""
    return (len(text) + 3) // 4


def draw_source(seed: int, model: str, body: bytes, occurrence: int) -> random.Random:
    """The generator of one request's chances."""
    digest = hashlib.blake2b(body, digest_size=16, key=f"{seed}/{model}/{occurrence}".encode()[:64])
    return random.Random(int.from_bytes(digest.digest(), "big"))  # noqa: S311 - a simulation, not a secret


def perform(profile: ModelProfile, task: Task, rng: random.Random) -> Performance:
    """Draw what the model does with the task."""
    fault = _draw_fault(profile, rng)
    kind = guess_kind(task.prompt)
    is_right = rng.random() < profile.chance(kind, task.system)
    answer = solve(kind, task.prompt)
    if answer is not None and not is_right:
        answer = spoil(answer, rng)
    pieces = split(_phrase(answer, profile, task, rng))
    truncated = task.max_tokens is not None and len(pieces) > task.max_tokens
    if truncated:
        pieces = pieces[: task.max_tokens]
    return Performance(
        kind=kind,
        pieces=pieces,
        truncated=truncated,
        ttft_s=_lognormal(profile.ttft_ms, profile.sigma, rng) / 1000,
        token_s=_lognormal(profile.token_ms, profile.sigma, rng) / 1000,
        fault=fault,
    )


def _draw_fault(profile: ModelProfile, rng: random.Random) -> Fault | None:
    draw = rng.random()
    for fault in profile.faults:
        if draw < fault.rate:
            return fault
        draw -= fault.rate
    return None


def _phrase(answer: str | None, profile: ModelProfile, task: Task, rng: random.Random) -> str:
    if task.as_json:
        return orjson.dumps({"answer": answer if answer is not None else _CHAT}).decode()
    if answer is None:
        return _CHAT
    amount = round(profile.words * profile.length(task.system) * rng.uniform(0.8, 1.2))
    words = [_FILLER_WORDS[index % len(_FILLER_WORDS)] for index in range(amount)]
    return " ".join([*words, "\nAnswer:", answer]) if words else f"Answer: {answer}"


def split(text: str) -> tuple[str, ...]:
    """A text in pieces of one token each."""
    return tuple(text[start : start + 4] for start in range(0, len(text), 4))


def _lognormal(median: float, sigma: float, rng: random.Random) -> float:
    return median * math.exp(sigma * rng.gauss(0.0, 1.0))
