"""Runs one target on mutated inputs; what shows something new joins the corpus, what breaks is kept.

A run is bounded in executions or seconds. An input that takes more than ``HANG_S`` of this process's own time hangs.
"""

import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from loadtests.fuzzing.mutator import Mutator
from loadtests.fuzzing.target import Target

HANG_S = 3.0
_LARGEST_CORPUS = 400


class Hang(BaseException):
    """An input took too long; not an ``Exception``, so that nothing under test swallows it."""


@dataclass(frozen=True, slots=True)
class Crash:
    """``place`` is where it was raised; one crash is kept for each."""

    target: str
    place: str
    text: str
    data: bytes


@dataclass
class Outcome:
    """What came of a run. ``shapes`` counts kinds of results, ``lines`` covered lines of the target's modules."""

    executions: int = 0
    shapes: int = 0
    lines: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    corpus: int = 0
    crashes: dict[str, Crash] = field(default_factory=dict)


def run(
    target: Target,
    *,
    seed: int,
    executions: int | None = None,
    seconds: float | None = None,
    covered: bool = False,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Fuzz ``target`` until so many executions or seconds are over.

    Args:
        target: What to run.
        seed: Of the mutator; with ``executions`` a run is reproduced exactly.
        executions: How many inputs, the seeds included.
        seconds: How long, at most.
        covered: Trace lines and keep what reaches new ones: better inputs, several times slower.
        progress: Called about once a second.
    """
    outcome, mutator = Outcome(), Mutator(seed, target.tokens)
    corpus = list(target.seeds)
    shapes: set[Hashable] = set()
    lines = _Lines(target.modules) if covered else None
    began = told = time.monotonic()
    waiting: Iterator[bytes] = iter(target.seeds)
    with _watchdog():
        while executions is None or outcome.executions < executions:
            now = time.monotonic()
            if seconds is not None and now - began >= seconds:
                break
            if now - told >= 1.0:
                told = now
                progress(outcome)
            data = next(waiting, None)
            given = data is not None
            data = mutator.make(corpus) if data is None else data
            shape, crash = _execute(target, data, outcome, lines)
            if crash is not None:
                outcome.crashes.setdefault(crash.place, crash)
            elif _is_new(shape, shapes, lines) and not given:
                corpus.append(data)
                if len(corpus) > _LARGEST_CORPUS:
                    del corpus[len(target.seeds)]
            outcome.shapes, outcome.corpus = len(shapes), len(corpus)
            outcome.lines, outcome.seconds = len(lines.seen) if lines else 0, time.monotonic() - began
    return outcome


def _is_new(shape: Hashable, shapes: set[Hashable], lines: "_Lines | None") -> bool:
    fresh = shape not in shapes
    shapes.add(shape)
    return (lines.grew() if lines is not None else False) or fresh


def _execute(
    target: Target, data: bytes, outcome: Outcome, lines: "_Lines | None"
) -> tuple[Hashable, Crash | None]:
    outcome.executions += 1
    began = time.process_time()
    shape: Hashable = None
    crash: Crash | None = None
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S * (10 if lines is not None else 1))
    try:
        if lines is None:
            shape = target.run(data)
        else:
            with lines.traced():
                shape = target.run(data)
    except (Exception, Hang) as error:  # noqa: BLE001  # whatever it is, it is what is looked for
        crash = Crash(target.name, _place(error), "".join(traceback.format_exception(error))[-4000:], data)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    outcome.slowest_s = max(outcome.slowest_s, time.process_time() - began)
    return shape, crash


def _place(error: BaseException) -> str:
    """Kind of the error and the last lines it went through, those of this package left out."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "fuzzing/" not in f.filename] or list(
        traceback.extract_tb(error.__traceback__)
    )
    return f"{type(error).__name__} {str(error)[:40]} " + " ".join(
        f"{f.name}:{f.lineno}" for f in frames[-2:]
    )


@contextmanager
def _watchdog() -> Iterator[None]:
    """Raises ``Hang`` in whatever runs when the process's own time is over; the wall clock belongs to others too."""

    def bite(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {HANG_S:g} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, bite)
    logging.disable()  # damaged files are reported, each time
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class _Lines:
    """Which lines of some modules were reached."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.seen: set[tuple[CodeType, int]] = set()
        self._modules = modules
        self._wanted: dict[CodeType, bool] = {}
        self._before = 0

    def grew(self) -> bool:
        """Whether there are more than when this was asked last."""
        grew, self._before = len(self.seen) > self._before, len(self.seen)
        return grew

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Note lines within the block."""
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        wanted = self._wanted.get(code)
        if wanted is None:
            wanted = self._wanted[code] = any(name in code.co_filename for name in self._modules)
        return self._line if wanted else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.seen.add((frame.f_code, frame.f_lineno))
        return self._line
