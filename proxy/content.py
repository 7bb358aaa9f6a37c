"""Sampled prompts and answers on their way to the judge: who is drawn, and the files in which they wait.

The only place that writes content down. Invariants: a request that was not drawn costs one comparison; writing happens
after its caller has the answer, never raises, and stops when the disk is slow or full; files are 0600, bounded in bytes
and hours, and removed once everything in them was judged. A segment is closed, which is when the optimizer may have
it, about a second after it was begun; nothing but this directory's own reader ever looks at it.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import orjson

from optimizer.judging.sample import ENDPOINTS, Sample, answer_of, decode, encode
from optimizer.routing import Sampling
from proxy.attempt import Attempt
from proxy.dispatch import Decision
from proxy.envelope import Envelope
from proxy.providers.base import ReplyFacts
from proxy.providers.signals import is_refusal

SEGMENT_S: Final = 1.0
SEGMENT_BYTES: Final = 1024 * 1024
MOST_BYTES: Final = 64 * 1024 * 1024
"""Of all segments together; beyond it nothing more is sampled."""
MOST_SEGMENTS: Final = 1024
"""However small: they are looked at between requests."""
LOOKED_S: Final = 10.0
"""For so long what a worker has seen of the others' segments counts as what there is."""
MAX_AGE_S: Final = 24 * 3600.0
"""What no judge has seen by then is deleted unseen."""

_OPEN: Final = ".open"
_CLOSED: Final = ".jsonl"
# A worker that lives closes its segment after about a second.
_ORPHAN_S: Final = 30.0
_RESERVE_BYTES: Final = 64 * 1024 * 1024
_SLOW_WRITE_S: Final = 0.005
# One slow write may be chance; a disk that is slow again and again is left alone for longer.
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 60.0
_SHOWN_NEEDS: Final = frozenset(("json_object", "json_schema"))
# Reasons for which an answer is cut or withheld; see ``proxy_of``.
_CUT: Final = frozenset(("length", "content_filter"))

LOST: Final = ("too_large", "no_text", "passthrough", "full", "slow", "failed")
"""Why a drawn request left no sample."""

_log = logging.getLogger("llm_optimizer.content")


def proxy_of(*, refused: bool, finish_reasons: list[str]) -> float:
    """What can be told of an answer without reading it: 0 if it was refused, cut or withheld, else 1."""
    return 0.0 if refused or not _CUT.isdisjoint(finish_reasons) else 1.0


class ContentWriter:
    """Appends samples of one process. ``lost`` counts by reason what could not be kept, ``kept`` the others.

    ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        source: str,
        clock: Callable[[], float] = perf_counter,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.lost: Counter[str] = Counter(dict.fromkeys(LOST, 0))
        self.kept = 0
        self._directory = directory
        self._source = source
        self._clock = clock
        self._most_bytes = most_bytes
        self._descriptor: int | None = None
        self._path = directory
        self._number = 0
        self._began = 0.0
        self._size = 0
        self._looked_at = float("-inf")
        self._room = 0
        self._paused_until = float("-inf")
        self._pause_s = _FIRST_PAUSE_S

    def append(self, line: bytes) -> bool:
        """Write one sample; False if it could not be kept, and then nothing of it is."""
        now = self._clock()
        if now < self._paused_until:
            return self._lose("slow")
        try:
            if self._descriptor is None and not self._open(now):
                return self._lose("full")
            assert self._descriptor is not None
            written = os.write(self._descriptor, line)
        except OSError as error:
            self._pause(self._clock())
            _log.warning("a sample for the judge could not be written: %s", error)
            return self._lose("failed")
        self._size += written
        self._room -= written
        if written < len(line) or self._size >= SEGMENT_BYTES:
            self.close()
        took = self._clock() - now
        if took > _SLOW_WRITE_S:
            # Judging can wait; callers can not.
            self._pause(now + took)
        else:
            self._pause_s = _FIRST_PAUSE_S
        if written < len(line):
            return self._lose("failed")
        self.kept += 1
        return True

    def tick(self) -> None:
        """Close a segment whose time has come; to be called now and then."""
        if self._descriptor is not None and self._clock() - self._began >= SEGMENT_S:
            self.close()

    def close(self) -> None:
        """Hand over what was written."""
        if self._descriptor is None:
            return
        os.close(self._descriptor)
        self._descriptor = None
        try:
            self._path.rename(self._path.with_suffix(_CLOSED))
        except OSError as error:
            # Removed by somebody, or taken for an orphan's: what was in it is in good hands or gone.
            _log.info("a content segment was not there any more: %s", error)

    def report(self) -> dict[str, int]:
        """For the worker's statistics: what became of drawn requests so far."""
        return {"kept": self.kept, **self.lost}

    def _pause(self, now: float) -> None:
        self._paused_until = now + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, _LONGEST_PAUSE_S)

    def _lose(self, reason: str) -> bool:
        self.lost[reason] += 1
        return False

    def _open(self, now: float) -> bool:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        facts = os.statvfs(self._directory)
        if now - self._looked_at >= LOOKED_S:
            self._looked_at = now
            few = len(_entries(self._directory)) < MOST_SEGMENTS
            self._room = self._most_bytes - stored_bytes(self._directory) if few else 0
        if facts.f_bavail * facts.f_frsize < _RESERVE_BYTES or self._room <= 0:
            return False
        self._number += 1
        self._path = self._directory / f"{self._source}-{self._number:08d}{_OPEN}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._began, self._size = now, 0
        return True


class Sampler:
    """Draws requests of routes with a judge. One per worker."""

    def __init__(self, writer: ContentWriter) -> None:
        self._writer = writer

    def draw(
        self,
        sampling: Sampling,
        decision: Decision,
        envelope: Envelope,
        *,
        request_id: str,
        started_ms: int,
        uniform: Callable[[], float],
    ) -> "Asked | None":
        """What was asked, if this request is drawn and its answer could be judged; notes it on the decision."""
        if uniform() >= sampling.rate or envelope.endpoint not in ENDPOINTS:
            return None
        decision.sampled = True
        lost = self._writer.lost
        if not envelope.needs <= _SHOWN_NEEDS or envelope.choices != 1:
            lost["no_text"] += 1
        elif len(envelope.raw) > sampling.max_bytes:
            lost["too_large"] += 1
        else:
            return Asked(self._writer, decision, envelope, sampling, request_id, started_ms)
        return None


class Asked:
    """A drawn request that is being answered. Nothing of it raises."""

    __slots__ = ("_decision", "_doc", "_endpoint", "_request_id", "_sampling", "_started_ms", "_writer")

    def __init__(
        self,
        writer: ContentWriter,
        decision: Decision,
        envelope: Envelope,
        sampling: Sampling,
        request_id: str,
        started_ms: int,
    ) -> None:
        self._writer = writer
        self._decision = decision
        self._endpoint = envelope.endpoint
        self._doc = envelope.doc  # The exchange forgets the prompt by taking another one.
        self._sampling = sampling
        self._request_id = request_id
        self._started_ms = started_ms

    def listen(self, attempt: Attempt) -> None:
        """A reply begins; a stream's text has to be kept from its first event on."""
        decoder = attempt.decoder if attempt.aside is None else attempt.aside.decoder
        if decoder is not None:
            decoder.keep_answer(self._sampling.max_bytes)

    def answered(self, attempt: Attempt, body: bytes) -> None:
        """The caller has the whole reply ``body``."""
        text = answer_of(self._endpoint, body) if len(body) <= 4 * self._sampling.max_bytes else None
        self._keep(attempt, text)

    def ended(self, attempt: Attempt) -> None:
        """The caller has the end of a stream."""
        decoder = attempt.decoder if attempt.aside is None else attempt.aside.decoder
        self._keep(attempt, decoder.answer() if decoder is not None else None)

    def _keep(self, attempt: Attempt, text: str | None) -> None:
        facts, arm = attempt.facts, attempt.arm
        lost = self._writer.lost
        if facts is None or text is None or facts.tool_calls or not text.strip() or facts.json_valid is False:
            # Worthless answers need no judge: they count as 0 already.
            lost["no_text"] += 1
        elif arm.handle.passthrough_auth:
            # The caller's credential opened this model; content of it goes nowhere else.
            lost["passthrough"] += 1
        elif len(text.encode("utf-8", "surrogatepass")) > self._sampling.max_bytes:
            lost["too_large"] += 1
        else:
            sample = Sample(
                request_id=self._request_id,
                route=self._decision.route.name,
                arm=arm.id,
                model_key=arm.arm.model_key,
                variant_key=arm.arm.variant_key,
                at_ms=self._started_ms,
                rate=self._sampling.rate,
                endpoint=self._endpoint,
                body=self._doc,
                answer=text,
                proxy=_proxy(facts),
            )
            try:
                line = encode(sample)
            except (orjson.JSONEncodeError, UnicodeError):
                lost["failed"] += 1
            else:
                self._writer.append(line)


def _proxy(facts: ReplyFacts) -> float:
    refused = bool(facts.text_head) and is_refusal(facts.text_head)
    return proxy_of(refused=refused, finish_reasons=facts.finish_reasons)


# What the optimizer does with the directory.


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed because nobody judged it in time, and what is left."""

    removed: int
    stored_bytes: int


def stored_bytes(directory: Path) -> int:
    """Size of all segments."""
    total = 0
    for entry in _entries(directory):
        try:
            total += entry.stat().st_size
        except FileNotFoundError:
            continue
    return total


def closed_segments(directory: Path, *, now: float) -> list[Path]:
    """Segments that can be read, the oldest first; those that a dead worker left open are closed."""
    found = []
    for entry in _entries(directory):
        path = Path(entry.path)
        try:
            written = entry.stat().st_mtime
            if path.suffix == _OPEN:
                if now - written < _ORPHAN_S:
                    continue
                path = path.rename(path.with_suffix(_CLOSED))
        except FileNotFoundError:
            continue
        found.append((written, path))
    return [path for _, path in sorted(found)]


def read_segment(path: Path) -> list[Sample]:
    """All whole samples of a segment; a segment that is gone has none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [sample for line in data.splitlines() if (sample := decode(line)) is not None]


def sweep(
    directory: Path, *, now: float, max_age_s: float = MAX_AGE_S, most_bytes: int = MOST_BYTES
) -> Swept:
    """Remove what is too old, and the oldest of what is too much."""
    rows = []
    for entry in _entries(directory):
        try:
            facts = entry.stat()
        except FileNotFoundError:
            continue
        rows.append((facts.st_mtime, facts.st_size, Path(entry.path)))
    rows.sort()
    total, removed = sum(size for _, size, _ in rows), 0
    for written, size, path in rows:
        if now - written <= max_age_s and total <= most_bytes:
            continue
        path.unlink(missing_ok=True)
        total -= size
        removed += 1
    return Swept(removed, total)


def _entries(directory: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if entry.name.endswith((_OPEN, _CLOSED))]
    except FileNotFoundError:
        return []
