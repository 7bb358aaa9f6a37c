"""The files of the page, held in memory.

The invariant: only what was found below the folder when it was read can be served, by its exact name. A request's path
is looked up, never opened, so that no path leads anywhere else.
"""

import gzip
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INDEX: Final = "index.html"
BUNDLE: Final = Path(__file__).parent / "bundle"

_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
_COMPRESSED: Final = frozenset((".png", ".woff2"))
# Vite puts a hash of the content into every name below assets/: what a name means never changes.
_HASHED: Final = "assets/"
_FOREVER: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"


@dataclass(frozen=True, slots=True)
class File:
    """One file. ``zipped`` is its gzip form, None where that would not be smaller."""

    body: bytes
    zipped: bytes | None
    etag: str
    content_type: str
    cache_control: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Every file by its name below ``/ui/``; ``mark`` changes when the page is built again."""

    files: Mapping[str, File]
    mark: tuple[int, int]


def mark_of(folder: Path) -> tuple[int, int] | None:
    """What tells one build from another; None while there is none."""
    try:
        found = (folder / INDEX).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def read(folder: Path) -> Bundle | None:
    """Every regular file below ``folder``; None when there is no page. Links are not followed."""
    mark = mark_of(folder)
    if mark is None:
        return None
    files: dict[str, File] = {}
    try:
        for place, _, names in os.walk(folder):
            for name in names:
                path = Path(place, name)
                if path.is_file() and not path.is_symlink():
                    files[path.relative_to(folder).as_posix()] = _file(path, folder)
    except OSError:
        # The page is being built just now.
        return None
    return Bundle(files, mark) if INDEX in files else None


def _file(path: Path, folder: Path) -> File:
    body = path.read_bytes()
    name = path.relative_to(folder).as_posix()
    # Without a time in it, so that the same file has the same bytes everywhere.
    zipped = None if path.suffix in _COMPRESSED else gzip.compress(body, 9, mtime=0)
    return File(
        body=body,
        zipped=zipped if zipped is not None and len(zipped) < len(body) else None,
        etag=hashlib.sha256(body).hexdigest()[:32],
        content_type=_TYPES.get(path.suffix, "application/octet-stream"),
        cache_control=_FOREVER if name.startswith(_HASHED) else _ASK_AGAIN,
    )
