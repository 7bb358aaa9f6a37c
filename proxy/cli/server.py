"""Which running server a command talks to: options, environment, state directory.

Whoever may read the state directory is the operator, so the key is taken from there. The invariant is that a key that
nobody named is sent to this machine only: an address from elsewhere does not get the key of the directory that
happens to be here.
"""

import functools
import http.client
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from proxy.cli.client import TIMEOUT_S, AdminClient, Refused, UnixConnection
from proxy.cli.options import DEFAULT_STATE_DIR

URL_VARIABLE: Final = "LLM_OPTIMIZER_URL"
KEY_VARIABLE: Final = "LLM_OPTIMIZER_ADMIN_KEY"
STATE_VARIABLE: Final = "LLM_OPTIMIZER__STATE_DIR"


@dataclass(frozen=True, slots=True)
class Target:
    """What the options say; None where they say nothing. ``key`` is the admin key itself."""

    state_dir: Path | None = None
    url: str | None = None
    key_file: Path | None = None
    key: str | None = None

    @property
    def state(self) -> Path:
        """The state directory, whether it exists or not."""
        return (self.state_dir if self.state_dir is not None else DEFAULT_STATE_DIR).absolute()

    def connect(self, timeout_s: float = TIMEOUT_S) -> AdminClient:
        """A client; nothing is connected yet.

        Raises:
            Refused: The key file can't be read, or the URL is none.
        """
        if self.url is None:
            key = self._key(is_here=True)
            path = self.state / "run" / "optimizer.sock"
            return AdminClient(
                lambda: UnixConnection(path, timeout_s),
                where=f"the optimizer of {self.state}",
                credentials=_bearer(key) or _as_worker(self.state),
            )
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host:
            raise Refused(f"{self.url!r} is not a URL such as http://localhost:8080")
        return AdminClient(
            _dialler(parts.scheme, host, port, timeout_s),
            where=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
            credentials=_bearer(self._key(is_here=_is_here(host))),
            prefix=parts.path.rstrip("/"),
        )

    def _key(self, *, is_here: bool) -> str:
        if self.key is not None:
            return self.key.strip()
        if self.key_file is not None:
            key = _read(self.key_file)
            if not key:
                raise Refused(f"the key file {self.key_file} can't be read or is empty")
            return key
        if is_here or self.state_dir is not None:
            return _read(self.state / "secrets" / "admin.key")
        return ""


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets what they say as ``where``."""

    @functools.wraps(command)
    def run(
        *arguments: Any,
        state_dir: Path | None,
        url: str | None,
        key_file: Path | None,
        key: str | None,
        **others: Any,
    ) -> Any:
        context = click.get_current_context()
        # What was typed counts more than what the environment says.
        if _typed(context, "state_dir") and not _typed(context, "url"):
            url = None
        if _typed(context, "key_file") and not _typed(context, "key"):
            key = None
        return command(*arguments, where=Target(state_dir, url, key_file, key), **others)

    decorated: Callable[..., Any] = run
    for option in (
        click.option(
            "--key",
            envvar=KEY_VARIABLE,
            show_envvar=True,
            help="The admin key itself. Other users of the machine can see what is typed: prefer the variable.",
        ),
        click.option(
            "--key-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File with the admin key. [default: secrets/admin.key of the state directory]",
        ),
        click.option(
            "--url",
            envvar=URL_VARIABLE,
            show_envvar=True,
            help="Base URL of a server, instead of the state directory's socket.",
        ),
        click.option(
            "--state-dir",
            type=click.Path(file_okay=False, path_type=Path),
            envvar=STATE_VARIABLE,
            help=f"State directory of the server. [default: {DEFAULT_STATE_DIR}]",
        ),
    ):
        decorated = option(decorated)
    return decorated


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets a client of the server as ``server``."""

    @functools.wraps(command)
    def run(*arguments: Any, where: Target, **others: Any) -> Any:
        return command(*arguments, server=where.connect(), **others)

    return target_options(run)


def _typed(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _dialler(
    scheme: str, host: str, port: int | None, timeout_s: float
) -> Callable[[], http.client.HTTPConnection]:
    if scheme == "http":
        return lambda: http.client.HTTPConnection(host, port, timeout=timeout_s)
    context = ssl.create_default_context()
    return lambda: http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _as_worker(state: Path) -> dict[str, str]:
    """Where the operator configured keys of their own, none is in the state directory: be a local request instead."""
    token = _read(state / "secrets" / "worker.token")
    return {"x-llm-optimizer-worker": token, "x-llm-optimizer-peer": "127.0.0.1"} if token else {}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
