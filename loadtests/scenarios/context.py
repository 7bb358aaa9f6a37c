"""What every scenario is given and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.figures import Figure
from loadtests.processes import Cores


@dataclass(frozen=True, slots=True)
class Context:
    """Where to run: the cores, a scratch directory, how many rounds and how long each.

    ``say`` prints a line at once, so that a long scenario is seen to work.
    """

    cores: Cores
    directory: Path
    rounds: int
    seconds: int
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """Figures, and text that belongs under them in the results."""

    figures: tuple[Figure, ...]
    text: str = ""
    rows: tuple[str, ...] = field(default_factory=tuple)
