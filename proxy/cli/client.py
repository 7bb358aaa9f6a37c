"""The command line's REST client: the admin API over the optimizer's socket, or over HTTP.

Standard library only, so that a command answers at once. What may be worth another try (nobody answers, the server is
not ready) is told from what is not, for commands that follow something over a restart.
"""

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from proxy.cli.output import plain

TIMEOUT_S: Final = 30.0

_NOT_NOW: Final = frozenset((429, 502, 503, 504))


class Refused(click.ClickException):
    """The server answered with an error; exit status 1. ``status`` is HTTP's, 0 without any answer."""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__("\n".join(plain(line) for line in message.splitlines()))
        self.status = status
        self.code = code


class Away(Refused):
    """Nobody answered, or not now: the same call may succeed later."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(str(self._path))


class AdminClient:
    """Calls to one server's admin API.

    Args:
        connect: Makes a connection, not yet connected.
        where: How messages name the server.
        credentials: Headers of every call.
        prefix: Path of the server's base URL.
    """

    def __init__(
        self,
        connect: Callable[[], http.client.HTTPConnection],
        *,
        where: str,
        credentials: Mapping[str, str],
        prefix: str = "",
    ) -> None:
        self._connect = connect
        self.where = where
        self._credentials = credentials
        self._prefix = prefix

    def get(self, path: str) -> Any:
        """The JSON answer to a GET.

        Raises:
            Away: The server can't be reached, or is not ready.
            Refused: It refuses, or is no llm-optimizer.
        """
        return self._json("GET", path, None, {})

    def text(self, path: str) -> str:
        """The text answer to a GET; raises as ``get`` does."""
        return str(self._call("GET", path, None, {}))

    def post(self, path: str, document: Mapping[str, Any], *, revision: int | None = None) -> Any:
        """The JSON answer to a POST; raises as ``get`` does.

        With ``revision`` it is refused (412) when what it changes is no longer at that revision.
        """
        return self._json("POST", path, json.dumps(document).encode(), _if_match(revision))

    def delete(self, path: str, *, revision: int | None = None) -> Any:
        """The JSON answer to a DELETE, as ``post``."""
        return self._json("DELETE", path, None, _if_match(revision))

    def _json(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        answer = self._call(method, path, body, headers)
        if isinstance(answer, str):
            raise self._stranger()
        return answer

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        sent = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            **self._credentials,
            **headers,
        }
        connection = self._connect()
        try:
            connection.request(method, self._prefix + path, body=body, headers=sent)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Away(
                f"{self.where} does not answer ({str(error) or type(error).__name__}). "
                "Is `llm-optimizer serve` running?"
            ) from error
        finally:
            connection.close()
        answer = self._decoded(response, text)
        if response.status >= 400:
            kind = Away if response.status in _NOT_NOW else Refused
            raise kind(_message(response.status, answer), status=response.status, code=_code(answer))
        if response.status >= 300:
            raise Refused(
                f"{self.where} answers with a redirect ({response.status}): give its own address.",
                status=response.status,
            )
        return answer

    def _decoded(self, response: http.client.HTTPResponse, text: bytes) -> Any:
        if not (response.getheader("content-type") or "").startswith("application/json"):
            return text.decode("utf-8", "replace")
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._stranger() from error

    def _stranger(self) -> Refused:
        return Refused(f"{self.where} answers with what is not JSON: is it an llm-optimizer?")


def describe(problem: Mapping[str, Any]) -> str:
    """One line for a problem as the API renders it."""
    where = f"line {problem['line']}: " if problem.get("line") else ""
    subject = f"{problem['path']}: " if problem.get("path") else ""
    hint = f" {problem['suggestion']}" if problem.get("suggestion") else ""
    return f"{where}{subject}{problem['message']}{hint}"


def _if_match(revision: int | None) -> dict[str, str]:
    return {"If-Match": f'"{revision}"'} if revision is not None else {}


def _error(answer: Any) -> Mapping[str, Any] | None:
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else None


def _code(answer: Any) -> str:
    return str((_error(answer) or {}).get("code") or "")


def _message(status: int, answer: Any) -> str:
    error = _error(answer)
    if error is None:
        return f"HTTP {status}: {' '.join(str(answer).split())[:500]}"
    lines = [str(error.get("message"))]
    details = error.get("details")
    problems = details.get("problems", ()) if isinstance(details, dict) else ()
    lines += [f"  {describe(problem)}" for problem in problems if isinstance(problem, dict)]
    return "\n".join(lines)
