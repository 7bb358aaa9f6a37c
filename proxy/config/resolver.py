"""Resolves names of secrets inside one process: what a worker holds instead of a configuration.

Standard library only. Literal keys arrive over the supervisor's link; the environment is the process's own.
"""

import os
from collections.abc import Mapping

from proxy.config.secrets import resolve


class SecretResolver:
    """Values of secrets by reference, looked up when a table is loaded."""

    def __init__(self, environ: Mapping[str, str], literals: Mapping[str, str] | None = None) -> None:
        self._environ = environ
        self._literals = dict(literals or {})

    @classmethod
    def from_process(cls) -> "SecretResolver":
        """Resolve against this process's own environment."""
        return cls(os.environ)

    def __repr__(self) -> str:
        return f"<SecretResolver with {len(self._literals)} literal keys>"

    def add_literals(self, values: Mapping[str, str]) -> None:
        """Take keys that stood in the configuration file itself."""
        self._literals.update(values)

    def resolve(self, reference: str) -> str | None:
        """The value that ``reference`` names, None when there is none."""
        return resolve(reference, self._environ, self._literals)
