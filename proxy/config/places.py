"""Which keys hold secrets, and which hold addresses that may contain one. One list, asked by path."""

import re
from urllib.parse import urlsplit, urlunsplit

from proxy.config.problems import KeyPath

ANY = "*"
# What connection URLs say after the question mark about no secret.
_HARMLESS = frozenset(("host", "port", "sslmode", "sslrootcert", "application_name", "connect_timeout"))
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}")

SECRETS: tuple[KeyPath, ...] = (
    ("upstreams", ANY, "api_key"),
    ("admin", "key"),
    ("admin", "keys", ANY),
    ("webhooks", ANY, "secret"),
    # Secrets because they may hold a password, and addresses, so that one without a password is shown.
    ("database", "url"),
    ("redis", "url"),
    ("kafka", "security", "password"),
    ("cluster", "secret"),
    ("tracing", "headers", ANY),
)
ADDRESSES: tuple[KeyPath, ...] = (("database", "url"), ("redis", "url"))


def is_secret(path: KeyPath) -> bool:
    """Whether the value at ``path`` is a secret."""
    return _among(path, SECRETS)


def may_hold_password(path: KeyPath) -> bool:
    """Whether the value at ``path`` is a URL that may carry a user and a password."""
    return _among(path, ADDRESSES)


def without_credentials(url: str) -> str:
    """The URL without user, password, query and fragment; text that is no URL becomes empty."""
    try:
        # A password may hold letters that end the host's part of an address: all before the last @ goes first.
        scheme, mark, rest = url.partition("://")
        parts = urlsplit(f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    except ValueError:
        return ""


def mask_address(url: str, path: KeyPath, variable: str | None = None) -> str:
    """A URL that is safe to show: variables in the password's place stay, a written password goes.

    When something had to go, the result names the variable that can bring it back: ``variable`` if the
    value came from there, else the one that overrides ``path``.
    """
    if variable is None and not holds_password(url):
        return url
    plain = _VARIABLE.sub("", without_credentials(url))
    return f"${{{variable or f'{path[0]}_url'.upper()}:-{plain}}}"


def holds_password(url: str) -> bool:
    """Whether a password stands in the URL itself, or may: of a query only a few harmless names are known."""
    return without_credentials(url) != url and not _only_variables(url)


def _only_variables(url: str) -> bool:
    """Whether user, password and query hold nothing but variables (and a plain user)."""
    if _VARIABLE.fullmatch(url):
        return ":-" not in url or "@" not in url
    rest = url.partition("://")[2]
    credentials = rest.rpartition("@")[0]
    password = credentials.partition(":")[2]
    query = _VARIABLE.sub("", rest).partition("?")[2]
    named = {part.partition("=")[0] for part in query.split("&") if part}
    return not _VARIABLE.sub("", password) and named <= _HARMLESS


def _among(path: KeyPath, patterns: tuple[KeyPath, ...]) -> bool:
    return any(
        len(path) == len(pattern)
        and all(want in (ANY, part) for want, part in zip(pattern, path, strict=True))
        for pattern in patterns
    )
