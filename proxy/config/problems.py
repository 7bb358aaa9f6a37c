"""What is wrong with a configuration, and what its reader should know, each with its YAML path.

Invariant: neither a problem nor a note ever holds the value of a secret.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

_PLAIN_KEY_EXTRA = "_-"


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a configuration is refused. ``line`` counts from 1; None when no line is to blame."""

    path: str
    message: str
    suggestion: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        subject = f"{self.path}: " if self.path else ""
        hint = f" {self.suggestion}" if self.suggestion else ""
        return f"{where}{subject}{self.message}{hint}"


@dataclass(frozen=True, slots=True)
class Note:
    """Something accepted that the operator should know."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigProblems(Exception):
    """The configuration is refused; ``problems`` holds every reason at once."""

    def __init__(self, problems: Sequence[Problem], *, origin: str = "configuration") -> None:
        self.problems = tuple(problems)
        self.origin = origin
        super().__init__(describe_problems(self.problems, origin=origin))


@dataclass(slots=True)
class Findings:
    """Collects problems and notes while a configuration is compiled.

    ``moved`` maps a path in the normal form to where the operator wrote it, ``lines`` a written path to its
    line. ``broken`` holds the first two and the first three parts of paths that were refused: what refers to them is
    not blamed as well. ``unset`` holds paths whose value a missing variable left unknown: nothing else is said of them.
    ``substituted`` has the variables that were read, by their values: no message quotes those, because who may check a
    text may not read the environment. ``composed`` holds the paths of addresses whose secret parts are all variables.
    """

    moved: dict[KeyPath, KeyPath] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    broken: set[KeyPath] = field(default_factory=set)
    unset: set[KeyPath] = field(default_factory=set)
    substituted: dict[str, str] = field(default_factory=dict)
    composed: set[KeyPath] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def problem(self, path: KeyPath, message: str, suggestion: str | None = None) -> None:
        if path in self.unset:
            return
        written = self.written(path)
        found = Problem(show_path(written), self._as_written(message), suggestion, self._line(written))
        if found not in self.problems:
            self.problems.append(found)

    def note(self, path: KeyPath, message: str) -> None:
        found = Note(show_path(self.written(path)), self._as_written(message))
        if found not in self.notes:
            self.notes.append(found)

    def unknown(self, path: KeyPath, what: str, name: str, known: Iterable[str]) -> None:
        """Report a name that refers to nothing."""
        self.problem(path, f"there is no {what} {name!r}.", suggest(name, known))

    def written(self, path: KeyPath) -> KeyPath:
        """Where the operator wrote what the normal form has at ``path``."""
        for length in range(len(path), 0, -1):
            origin = self.moved.get(path[:length])
            if origin is not None:
                return origin + path[length:]
        return path

    def _as_written(self, message: str) -> str:
        for value, name in self.substituted.items():
            message = message.replace(value, name)
        return message

    def _line(self, path: KeyPath) -> int | None:
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return line
        return None


def show_path(path: KeyPath) -> str:
    """Render a path the way people write it: ``routes.chat.arms[1].model``, ``models["gpt-3.5"].price``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and all(letter.isalnum() or letter in _PLAIN_KEY_EXTRA for letter in part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def suggest(name: str, known: Iterable[str], *, list_up_to: int = 8) -> str | None:
    """A sentence that helps: the nearest name, else all names when they are few, else None."""
    names = sorted(set(known))
    close = get_close_matches(name.lower(), [other.lower() for other in names], n=1, cutoff=0.6)
    if close:
        return f"Did you mean {next(other for other in names if other.lower() == close[0])!r}?"
    if 0 < len(names) <= list_up_to:
        return f"Known: {', '.join(names)}."
    return None


def describe_problems(problems: Sequence[Problem], *, origin: str = "configuration") -> str:
    """The text that ``check-config`` prints for a refused file."""
    count = f"{len(problems)} problem" + ("" if len(problems) == 1 else "s")
    return "\n".join([f"{origin}: {count}", *(f"  {problem}" for problem in problems)])


def problems_of_block(problems: Sequence[Problem], *path: str) -> list[Problem]:
    """Problems of a block that was read from a file of its own, by their paths in that file.

    Args:
        problems: What was found once the block stood in a configuration; lines of that are nobody's.
        path: Where it stood.
    """
    prefix = show_path(path) + "."
    return [replace(problem, path=problem.path.removeprefix(prefix), line=None) for problem in problems]


def describe_notes(notes: Sequence[Note], *, origin: str = "configuration") -> str:
    """The text that ``check-config`` prints for an accepted file."""
    if not notes:
        return f"{origin}: valid"
    count = f"{len(notes)} note" + ("" if len(notes) == 1 else "s")
    return "\n".join([f"{origin}: valid, {count}", *(f"  {note}" for note in notes)])
