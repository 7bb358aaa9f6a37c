"""Secrets by name: how a configuration refers to one, and how a process finds its value.

A reference is ``env:NAME``, ``file:/path`` or ``literal:<digest>``. References may be written anywhere;
values are never logged, stored or published. Standard library only: workers import this module.
"""

import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

ENV = "env:"
FILE = "file:"
LITERAL = "literal:"

_DIGEST_BYTES = 16
_LARGEST_FILE = 64 * 1024
_WHOLE_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-)?\}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGEST = re.compile(rf"[0-9a-f]{{{2 * _DIGEST_BYTES}}}")


def resolve(reference: str, environ: Mapping[str, str], literals: Mapping[str, str]) -> str | None:
    """The value that ``reference`` names, stripped of surrounding white space; None when there is none.

    ``literals`` maps whole ``literal:`` references to values. An unreadable file is None, not an error:
    the arm is unavailable until it can be read.
    """
    value: str | None = None
    if reference.startswith(ENV):
        value = environ.get(reference.removeprefix(ENV))
    elif reference.startswith(FILE):
        value = _read(reference.removeprefix(FILE))
    elif reference.startswith(LITERAL):
        value = literals.get(reference)
    value = value.strip() if value is not None else ""
    return value if value and is_header_safe(value) else None


def is_header_safe(value: str) -> bool:
    """Whether the value can stand in a header: visible ASCII and single spaces inside."""
    return all(32 <= ord(letter) < 127 for letter in value)


def literal_reference(value: str) -> str:
    """The name of a key that stands in the configuration itself: a one-way digest of it."""
    return LITERAL + blake2b(value.encode(), digest_size=_DIGEST_BYTES, person=b"llm-opt-key").hexdigest()


def parse(text: str, base: Path | None) -> tuple[str, str | None]:
    """Turn what stands in a secret's place into (reference, value); the value only for a literal key.

    ``${X}`` and ``env:X`` name a variable, ``file:path`` a file (relative to ``base``),
    ``literal:<digest>`` a key that another copy of the configuration holds. Everything else is the key
    itself.

    Raises:
        ValueError: If the text is none of these, with a sentence that does not repeat it.
    """
    text = text.strip()
    whole = _WHOLE_VARIABLE.fullmatch(text)
    if whole is not None:
        return ENV + whole.group(1), None
    if "${" in text:
        raise ValueError(
            "a secret is a key or exactly one reference such as ${NAME}, without default or other text."
        )
    if text.startswith(ENV):
        if not _ENV_NAME.fullmatch(text.removeprefix(ENV)):
            raise ValueError("env: must be followed by the name of an environment variable.")
        return text, None
    if text.startswith(FILE):
        path = Path(text.removeprefix(FILE))
        return FILE + str(path if path.is_absolute() else (base or Path.cwd()) / path), None
    if text.startswith(LITERAL):
        if not _DIGEST.fullmatch(text.removeprefix(LITERAL)):
            raise ValueError(
                f"literal: must be followed by {2 * _DIGEST_BYTES} hex digits, as an export writes it."
            )
        return text, None
    return _literal(text)


def is_reference(text: str) -> bool:
    """Whether ``text`` as a whole refers to a secret that stands elsewhere."""
    text = text.strip()
    return _WHOLE_VARIABLE.fullmatch(text) is not None or text.startswith((ENV, FILE, LITERAL))


def _literal(text: str) -> tuple[str, str]:
    if not text:
        raise ValueError("the key is empty; remove it or write ${NAME}.")
    if text.startswith(("$", "os.environ")):
        raise ValueError("to take the key from the environment write ${NAME}.")
    if not is_header_safe(text):
        raise ValueError("a key must be printable ASCII, because it is sent in a header.")
    return literal_reference(text), text


def _read(path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST_FILE).decode()
    except (OSError, UnicodeDecodeError):
        return None
