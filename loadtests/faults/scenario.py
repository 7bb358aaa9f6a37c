"""What a scenario is: arms that fail in some way, one request, and the conduct that is expected.

Arms are called ``a``, ``b``, ``c`` in the order of their probability, and ``a`` is as good as certain, so conduct can
be told in letters: ``aab`` is the decided arm, its repetition, then the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from loadtests.faults.wire import TEXT
from optimizer.routing import Resilience

LETTERS = "abcdef"
BACKOFF_S = 0.1
# Short enough for tests; every wait in the table is counted in these.
TIGHT = Resilience(
    attempts=3,
    same_arm=1,
    backoff_s=BACKOFF_S,
    max_backoff_s=0.4,
    retry_after_s=1.5,
    first_token_s=0.5,
)
DEADLINES: Mapping[str, Any] = {"connect_s": 0.4, "first_byte_s": 0.5, "idle_s": 0.5}

Ending = Literal["complete", "refused", "broken", "cut", "whole or broken", "left"]


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm: its fault, at which listener, in which dialect, and what its model can do."""

    fault: str
    base: str = "main"
    provider: str = "openai"
    can: tuple[str, ...] = ()
    context: int | None = None
    upstream: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reachable(self) -> bool:
        """Whether its requests arrive anywhere."""
        return self.base == "main"


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be seen.

    ``ending`` is the caller's: ``complete`` (the answer to its proper end), ``refused`` (an error status in OpenAI's
    shape), ``broken`` (a stream of ``text`` that ends with one error event and no [DONE]), ``cut`` (a reply in one
    piece that visibly lacks its end), ``left`` (it hung up).
    ``status`` and ``code`` may be several. ``tries`` are the attempts in letters, alternatives apart by ``|``;
    ``sees`` says what reaches the upstream when that differs. ``first_s`` bounds the wait for the first content,
    ``billed`` says that the event must have a cost. ``gaps`` are the least seconds between attempts, in order;
    by default half a back-off before a repetition. ``header`` is x-llm-optimizer-attempts when it is not
    the number of tries. ``served_by`` is the arm that the caller is told, when not the last one. ``taught`` are the
    lessons of success, as ``a0 b1``; None when the table does not say.
    """

    ending: Ending
    tries: str = "a"
    text: str = TEXT
    status: tuple[int, ...] = (200,)
    code: tuple[str, ...] = ()
    finish: str = "stop"
    within_s: float = 1.0
    first_s: float | None = None
    billed: bool = False
    gaps: tuple[float, ...] | None = None
    retry_after: tuple[float, float] | None = None
    sees: str | None = None
    header: int | None = None
    served_by: str | None = None
    cancelled: str = ""
    outcome: tuple[str, ...] = ()
    taught: str | None = None
    continued: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row. ``says`` is the conduct in words, for the card.

    ``resilience`` and ``upstream`` change ``TIGHT`` and ``DEADLINES``. ``fallbacks`` are letters of arms that are then
    no arms of the route's own. ``model`` asks for an arm's model by its own name. ``leaves_s`` and ``leaves_after``
    (tokens) are when the caller hangs up. ``warm`` requests go before. ``elsewhere`` says that a plain pass-through has
    nothing to compare: what is asked for can't be had from it at all.
    """

    name: str
    says: str
    arms: tuple[Arm, ...]
    expected: Expected
    group: str = ""
    stream: bool = False
    endpoint: str = "chat"
    resilience: Mapping[str, Any] = field(default_factory=dict)
    upstream: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: str = ""
    pinned: str = ""
    model: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    leaves_s: float | None = None
    leaves_after: int | None = None
    settle_s: float = 0.0
    warm: int = 0
    elsewhere: bool = False
    slow: bool = False

    def model_id(self, letter: str) -> str:
        """What is sent upstream: the fault, made unique."""
        return f"{self.arms[LETTERS.index(letter)].fault}@{self.name}.{letter}"

    def model_name(self, letter: str) -> str:
        """What the configuration calls the model."""
        return f"{self.name}.{letter}"

    @property
    def decided(self) -> str:
        """The letters of the route's own arms."""
        return "".join(letter for letter in LETTERS[: len(self.arms)] if letter not in self.fallbacks)


def arms(*faults: str | Arm) -> tuple[Arm, ...]:
    """Arms in order; a text is a fault of an ordinary arm."""
    return tuple(Arm(fault) if isinstance(fault, str) else fault for fault in faults)
