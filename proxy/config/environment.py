"""The process environment: read here and nowhere else, and laid over the file.

``SERVER_PORT`` and its like are the names that the user guide promises; ``LLM_OPTIMIZER__A__B`` sets the
key ``a.b``. The environment beats the file. An empty variable counts as not set.
"""

import os
from collections.abc import Mapping
from typing import Any

import yaml

from proxy.config.places import is_secret
from proxy.config.problems import Findings, KeyPath

PREFIX = "LLM_OPTIMIZER__"

NAMED: Mapping[str, KeyPath] = {
    "SERVER_HOST": ("server", "host"),
    "SERVER_PORT": ("server", "port"),
    "SERVER_WORKERS": ("server", "workers"),
    "DATABASE_URL": ("database", "url"),
    "REDIS_URL": ("redis", "url"),
    "KAFKA_BROKERS": ("kafka", "brokers"),
    "LOG_LEVEL": ("log", "level"),
}


def process_environment() -> Mapping[str, str]:
    """The environment of this process. Callers pass it on as an argument instead of reading it again."""
    return os.environ


def overrides(environ: Mapping[str, str]) -> dict[KeyPath, tuple[str, str]]:
    """Every key that the environment sets: path -> (variable, value)."""
    found = {path: (name, environ[name]) for name, path in NAMED.items() if environ.get(name, "").strip()}
    for name in sorted(environ):
        if name.startswith(PREFIX) and environ[name].strip():
            path = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
            found[path] = (name, environ[name])
    return found


def lay_over(data: dict[str, Any], environ: Mapping[str, str], findings: Findings) -> dict[KeyPath, str]:
    """Put the environment's values into ``data``; returns path -> variable for what was set.

    A key that names a secret gets the reference ``env:NAME``, never the value.
    """
    applied: dict[KeyPath, str] = {}
    for path, (name, value) in overrides(environ).items():
        if not all(path):
            findings.problem((), f"the environment variable {name} names no key.")
            continue
        place = data
        for part in path[:-1]:
            child = place.get(str(part))
            if child is None:
                child = place[str(part)] = {}
            if not isinstance(child, dict):
                findings.problem(path, f"the environment variable {name} can not reach into a value.")
                break
            place = child
        else:
            place[str(path[-1])] = f"env:{name}" if is_secret(path) else _value(value)
            applied[path] = name
    return applied


def _value(text: str) -> Any:
    """Lists and mappings may be written in YAML's flow style; everything else is text."""
    if text.lstrip().startswith(("[", "{")):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    return text
