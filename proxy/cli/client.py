"""The command line's REST client: the admin API over the optimizer's socket, or over HTTP with ``--url``.

Standard library only, so that a command answers at once. Whoever may read the state directory is the operator: the key
is taken from there.
"""

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from proxy.cli.options import DEFAULT_STATE_DIR

TIMEOUT_S: Final = 30.0


class Refused(click.ClickException):
    """The server answered with an error; exit status 1."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


class AdminClient:
    """Calls to one server's admin API."""

    def __init__(
        self,
        connect: Callable[[], http.client.HTTPConnection],
        *,
        where: str,
        credentials: Mapping[str, str],
    ) -> None:
        self._connect = connect
        self._where = where
        self._credentials = credentials

    def get(self, path: str) -> Any:
        """The JSON (or text) answer to a GET.

        Raises:
            Refused: The server can't be reached, or refuses.
        """
        return self._call("GET", path, None)

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        """The JSON answer to a POST; raises as ``get`` does."""
        return self._call("POST", path, json.dumps(document).encode())

    def delete(self, path: str) -> Any:
        """The JSON answer to a DELETE; raises as ``get`` does."""
        return self._call("DELETE", path, None)

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._credentials}
        connection = self._connect()
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Refused(
                f"{self._where} does not answer ({error}). Is `llm-optimizer serve` running?"
            ) from error
        finally:
            connection.close()
        is_json = (response.getheader("content-type") or "").startswith("application/json")
        answer = json.loads(text) if is_json else text.decode()
        if response.status >= 400:
            raise Refused(_message(response.status, answer))
        return answer


def connect(state_dir: Path | None, url: str | None, key_file: Path | None) -> AdminClient:
    """A client for what the options name.

    Raises:
        Refused: The key file can't be read, or the URL is none.
    """
    state = (state_dir if state_dir is not None else DEFAULT_STATE_DIR).absolute()
    key = _read(key_file if key_file is not None else state / "secrets" / "admin.key")
    if key_file is not None and not key:
        raise Refused(f"the key file {key_file} can't be read or is empty")
    credentials = {"Authorization": f"Bearer {key}"} if key else {}
    if url is None:
        path = state / "run" / "optimizer.sock"
        return AdminClient(
            lambda: _UnixConnection(path),
            where=f"the optimizer of {state}",
            credentials=credentials or _as_worker(state),
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url!r} is not a URL such as http://localhost:8080")
    host, port = parts.hostname, parts.port
    if parts.scheme == "http":
        return AdminClient(
            lambda: http.client.HTTPConnection(host, port, timeout=TIMEOUT_S),
            where=url,
            credentials=credentials,
        )
    context = ssl.create_default_context()
    return AdminClient(
        lambda: http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context),
        where=url,
        credentials=credentials,
    )


def _as_worker(state: Path) -> dict[str, str]:
    """Where the operator configured keys of their own, none is in the state directory: be a local request instead."""
    token = _read(state / "secrets" / "worker.token")
    return {"x-llm-optimizer-worker": token, "x-llm-optimizer-peer": "127.0.0.1"} if token else {}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""


def _message(status: int, answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return f"HTTP {status}: {str(answer)[:500]}"
    lines = [str(error.get("message"))]
    details = error.get("details")
    problems = details.get("problems", ()) if isinstance(details, dict) else ()
    lines += [f"  {describe(problem)}" for problem in problems]
    return "\n".join(lines)


def describe(problem: Mapping[str, Any]) -> str:
    """One line for a problem as the API renders it."""
    where = f"line {problem['line']}: " if problem.get("line") else ""
    subject = f"{problem['path']}: " if problem.get("path") else ""
    hint = f" {problem['suggestion']}" if problem.get("suggestion") else ""
    return f"{where}{subject}{problem['message']}{hint}"
