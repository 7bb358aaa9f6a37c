"""The configuration in use, and how another one takes its place.

The invariant is all or nothing: a new configuration is read, checked and built into a table before anything follows
it, and any problem leaves everything as it was. Learned state stays because it is keyed by what an arm is, not by the
configuration it stands in. The last good files are kept without secrets, so that an optimizer that restarts while the
file is broken goes on with what was served.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from optimizer import events
from optimizer.durable import replace_file
from optimizer.settings import Settings
from proxy.config.export import export
from proxy.config.load import Loaded, load, load_text
from proxy.config.problems import ConfigProblems, Problem
from proxy.config.secrets import resolve
from proxy.control.access import AccessRules, digest
from proxy.control.journal import Journal
from proxy.logs import LOGGER_NAME

KEPT_VERSIONS: Final = 10

APPLIED: Final = "applied"
UNCHANGED: Final = "unchanged"
REJECTED: Final = "rejected"

_log = logging.getLogger(LOGGER_NAME)


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What became of one reload.

    ``needs_restart`` names settings that only a restart changes, ``superseded`` optimizations (by id) that the new
    configuration ended: it changes what they had changed, or no longer has what they name.
    """

    result: str
    config_hash: str
    generation: int
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()


class History:
    """The last good configurations, oldest first, as files without secrets."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def files(self) -> list[Path]:
        """Kept files, oldest first."""
        return sorted(self._directory.glob("[0-9]*.yaml"))

    @property
    def generation(self) -> int:
        """Number of the newest; 0 when there is none."""
        files = self.files()
        return int(files[-1].name.partition("-")[0]) if files else 0

    def keep(self, loaded: Loaded) -> int:
        """Keep ``loaded`` as the newest, unless it already is; returns its generation."""
        files = self.files()
        text = export(loaded, source="file").encode()
        if files and files[-1].read_bytes() == text:
            return self.generation
        generation = self.generation + 1
        replace_file(self._directory / f"{generation:08d}-{loaded.settings.config_hash[:12]}.yaml", text)
        for old in files[: max(0, len(files) + 1 - KEPT_VERSIONS)]:
            old.unlink(missing_ok=True)
        return generation

    def newest(self, environ: Mapping[str, str], path: Path | None) -> Loaded | None:
        """The newest that still loads; ``path`` is where its relative references start from."""
        for file in reversed(self.files()):
            try:
                return load_text(file.read_text("utf-8"), environ, path=path)
            except (ConfigProblems, OSError, UnicodeDecodeError):
                _log.warning("the kept configuration %s does not load any more", file.name)
        return None


class Configuration:
    """Holds what is in use and decides about what is offered.

    Args:
        loaded: The configuration to start with.
        path: Its file; None for the built-in one.
        environ: The process environment, read by ``proxy.config``.
        generated_key: Gives the key of this node, made if need be; asked for while none is configured.
        history: Where good versions are kept.
        journal: Gets a ``config.reloaded`` event per reload.
        now: Unix seconds.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        path: Path | None,
        environ: Mapping[str, str],
        generated_key: Callable[[], str],
        history: History,
        journal: Journal,
        now: Callable[[], float],
    ) -> None:
        self.path = path
        self.loaded = loaded
        self.history = history
        self.generation = history.generation
        self.last_successful = True
        self.last_success_at = now()
        self.problems: tuple[Problem, ...] = ()
        self._started_with = loaded
        self._environ = environ
        self._generated_key = generated_key
        self._journal = journal
        self._now = now
        self.access_rules = self._rules(loaded)

    @property
    def settings(self) -> Settings:
        """What the optimizer acts on."""
        return self.loaded.settings

    def secret(self, reference: str) -> str | None:
        """The value behind a reference of the configuration in use; None when there is none."""
        return resolve(reference, self._environ, self.loaded.secrets)

    def keep(self) -> None:
        """Remember the configuration in use as good."""
        try:
            self.generation = self.history.keep(self.loaded)
        except OSError:
            _log.exception("the configuration could not be kept in %s", self.history)

    def read(self) -> Loaded:
        """Read and check the file.

        Raises:
            ConfigProblems: With everything that is wrong.
        """
        return load(self.path, self._environ)

    def check(self, text: str) -> Loaded:
        """Check a text as if it stood in the file.

        Raises:
            ConfigProblems: With everything that is wrong.
        """
        return load_text(text, self._environ, path=self.path)

    def offer(
        self, loaded: Loaded, *, trigger: str, apply: Callable[[Loaded], Sequence[str] | None]
    ) -> ReloadResult:
        """Swap to ``loaded`` unless it is what is in use already.

        Args:
            loaded: A checked configuration.
            trigger: Who asked: ``file``, ``signal``, ``api``.
            apply: Makes everything follow it and returns the ids of optimizations that it ends; an error it raises
                leaves the old one in place.
        """
        if same(loaded, self.loaded):
            # The text is the same, but the keys behind its references need not be.
            self.access_rules = self._rules(loaded)
            self.loaded = replace(self.loaded, notes=loaded.notes)
            return self._report(trigger, UNCHANGED)
        try:
            rules = self._rules(loaded)
            superseded = tuple(apply(loaded) or ())
        except (ValueError, OSError) as error:
            problem = Problem("", f"the configuration could not be put into use: {error}")
            return self.reject((problem,), trigger=trigger)
        self.loaded = loaded
        self.access_rules = rules
        self.keep()
        return self._report(trigger, APPLIED, superseded=superseded)

    def reject(self, problems: Iterable[Problem], *, trigger: str) -> ReloadResult:
        """Take note that what was offered is refused."""
        return self._report(trigger, REJECTED, problems=tuple(problems))

    def _rules(self, loaded: Loaded) -> AccessRules:
        return access_rules(loaded, self._environ, None if loaded.admin.keys else self._generated_key())

    def _report(
        self,
        trigger: str,
        result: str,
        *,
        problems: tuple[Problem, ...] = (),
        superseded: tuple[str, ...] = (),
    ) -> ReloadResult:
        self.last_successful = result != REJECTED
        self.problems = problems
        if result != REJECTED:
            self.last_success_at = self._now()
        report = ReloadResult(
            result=result,
            config_hash=self.settings.config_hash,
            generation=self.generation,
            problems=problems,
            notes=tuple(str(note) for note in self.loaded.notes),
            needs_restart=needs_restart(self._started_with, self.loaded),
            superseded=superseded,
        )
        if result != UNCHANGED:
            self._journal.write(
                events.CONFIG_RELOADED,
                {
                    "result": result,
                    "trigger": trigger,
                    "config_hash": report.config_hash,
                    "generation": report.generation,
                    "problems": len(problems),
                    "superseded": list(superseded),
                },
            )
        _tell(report, trigger)
        return report


def same(first: Loaded, second: Loaded) -> bool:
    """Whether two configurations act alike."""
    return (first.settings, first.listen, first.admin, first.log, first.secrets) == (
        second.settings,
        second.listen,
        second.admin,
        second.log,
        second.secrets,
    )


def needs_restart(started_with: Loaded, loaded: Loaded) -> tuple[str, ...]:
    """Settings in which ``loaded`` differs from what the processes were started with."""
    old, new = started_with, loaded
    pairs = {
        "server.host": (old.listen.host, new.listen.host),
        "server.port": (old.listen.port, new.listen.port),
        "server.workers": (old.listen.workers, new.listen.workers),
        "admin.listen": (old.admin.listen, new.admin.listen),
        "log.level": (old.log.level, new.log.level),
        "log.format": (old.log.format, new.log.format),
        "event_log.segment_bytes": (
            old.settings.retention.segment_bytes,
            new.settings.retention.segment_bytes,
        ),
        "database": (old.settings.database, new.settings.database),
    }
    return tuple(name for name, (was, now) in pairs.items() if was != now)


def access_rules(loaded: Loaded, environ: Mapping[str, str], admin_key: str | None) -> AccessRules:
    """The rules of the access guard under a configuration."""
    configured = [resolve(reference, environ, loaded.secrets) for reference in loaded.admin.keys]
    keys = [key for key in (*configured, admin_key) if key]
    return AccessRules(
        key_digests=tuple(digest(key) for key in keys),
        require_key=loaded.admin.require_key,
        hosts=frozenset(host.lower().strip("[]") for host in loaded.admin.hosts),
        health_open=loaded.settings.access.health_open,
        metrics_open=loaded.settings.access.metrics_open,
    )


def _tell(report: ReloadResult, trigger: str) -> None:
    match report.result:
        case "rejected":
            problems = "; ".join(str(problem) for problem in report.problems)
            _log.error("the new configuration (%s) is refused and the old one stays: %s", trigger, problems)
        case "applied":
            _log.info("configuration %s is in use (%s)", report.config_hash[:12], trigger)
            if report.needs_restart:
                _log.warning("only a restart changes %s", ", ".join(report.needs_restart))
            if report.superseded:
                _log.warning("it ends the optimizations %s", ", ".join(report.superseded))
        case _:
            _log.info("the configuration is unchanged (%s)", trigger)
