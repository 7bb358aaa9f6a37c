"""The one way in: file and environment to ``Loaded``, or every problem at once.

``load`` reads the file once; what it returns holds no file handle and no reference to the environment.
Unset secrets are notes, not problems: the arms that need them are unavailable until they are set.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from optimizer.settings import Settings
from proxy.config.compile import compile_file
from proxy.config.compile_cache import uses_redis
from proxy.config.compile_upstreams import SecretStore
from proxy.config.document import Document, parse
from proxy.config.environment import lay_over
from proxy.config.interpolate import interpolate
from proxy.config.models import File
from proxy.config.normalise import normalise
from proxy.config.options import AdminOptions, Listen, LogOptions
from proxy.config.problems import ConfigProblems, Findings, KeyPath, Note
from proxy.config.validate import validate

_LARGEST_FILE = 4 * 1024 * 1024
NO_FILE = "built-in defaults"


@dataclass(frozen=True, slots=True)
class Source:
    """What an export needs of the input: the text as written, its values in the normal form before
    variables were replaced, and which paths the environment set. Holds literal keys, therefore never
    printed."""

    document: Document = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)
    overrides: Mapping[KeyPath, str]
    file: File = field(repr=False)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration.

    ``secrets`` maps ``literal:`` references to values; of these ``upstream_secrets`` go to workers, over the
    supervisor's pipe only.
    ``content_hash`` is the SHA-256 of the file's bytes. ``state_dir`` None leaves the choice to the caller.
    """

    settings: Settings
    listen: Listen
    admin: AdminOptions
    log: LogOptions
    state_dir: Path | None
    secrets: Mapping[str, str] = field(repr=False)
    notes: tuple[Note, ...]
    path: Path | None
    content_hash: str
    source: Source = field(repr=False)

    @property
    def upstream_secrets(self) -> dict[str, str]:
        """The literal keys of upstreams, and where answers are kept: all that a worker needs to know."""
        settings = self.settings
        named = {upstream.secret for upstream in settings.upstreams}
        if settings.redis is not None and uses_redis(settings.routes):
            named.add(settings.redis.url)
        return {reference: value for reference, value in self.secrets.items() if reference in named}


def load(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read, check and compile the file at ``path``; None means no file, only defaults and environment.

    Raises:
        ConfigProblems: With every problem that was found.
    """
    if path is None:
        return load_text("", environ)
    path = path.absolute()
    return load_text(read_text(path), environ, path=path)


def read_text(path: Path) -> str:
    """The file as text.

    Raises:
        ConfigProblems: If it can't be read, is too large or is not UTF-8.
    """
    findings = Findings()
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) <= _LARGEST_FILE:
            return content.decode("utf-8-sig")
        findings.problem((), f"the file is larger than {_LARGEST_FILE} bytes.")
    except OSError as error:
        findings.problem((), f"the file can not be read: {error.strerror}.")
    except UnicodeDecodeError as error:
        findings.problem((), f"the file is not UTF-8 text (byte {error.start}).")
    raise ConfigProblems(findings.problems, origin=str(path))


def load_text(text: str, environ: Mapping[str, str], *, path: Path | None = None) -> Loaded:
    """Check and compile ``text`` as if it stood in the file ``path``, which is only used to find relative
    files.

    Raises:
        ConfigProblems: With every problem that was found.
    """
    origin = str(path) if path is not None else NO_FILE
    findings = Findings()
    document = parse(text, findings)
    if findings.problems and not document.data:
        raise ConfigProblems(findings.problems, origin=origin)
    # A copy: what the environment sets must not look as if it had been written.
    raw = normalise(deepcopy(document.data), findings)
    applied = lay_over(raw, environ, findings)
    raw = normalise(raw, findings)
    data = interpolate(raw, environ, findings, keep=applied)
    file = validate(data, raw, findings)
    secrets = SecretStore(environ, path.parent if path is not None else None)
    compiled = compile_file(file, secrets, findings)
    if findings.problems:
        raise ConfigProblems(_in_order(findings), origin=origin)
    return Loaded(
        settings=compiled.settings,
        listen=compiled.listen,
        admin=compiled.admin,
        log=compiled.log,
        state_dir=_state_dir(file, path),
        secrets=secrets.literals,
        notes=tuple(findings.notes),
        path=path,
        content_hash=sha256(text.encode()).hexdigest(),
        source=Source(document, raw, applied, file),
    )


def _in_order(findings: Findings) -> list[Any]:
    """As the file reads; what has no line comes last."""
    return sorted(findings.problems, key=lambda problem: (problem.line is None, problem.line or 0))


def _state_dir(file: File, path: Path | None) -> Path | None:
    if file.state_dir is None:
        return None
    directory = Path(file.state_dir).expanduser()
    return directory if directory.is_absolute() or path is None else path.parent / directory
