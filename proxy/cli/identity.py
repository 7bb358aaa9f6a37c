"""Do the packages ``proxy``, ``optimizer`` and ``policies`` that Python would import belong together, and to us?

Their names are common words. Another distribution that ships one of them overwrites or shadows ours without any
word from pip, and the blend of both would serve traffic. ``importlib.metadata`` can tell, but parses every file list
of the environment (0.1 s); reading the few bytes that matter takes a tenth of that.
"""

import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

PACKAGES: Final = ("proxy", "optimizer", "policies")
DISTRIBUTION: Final = "llm-optimizer"


def problems(search_path: Sequence[str] | None = None) -> list[str]:
    """What is wrong with the environment, in sentences; empty when nothing is.

    Args:
        search_path: Directories where distributions are looked for; ``sys.path`` when left out.
    """
    found = []
    homes = {name: _home(name) for name in PACKAGES}
    if len(set(homes.values())) > 1:
        places = ", ".join(f"{name} from {home}" for name, home in homes.items())
        found.append(f"the packages do not come from one place: {places}")
    for name, owners in _owners(sys.path if search_path is None else search_path).items():
        strangers = sorted(owner for owner in owners if owner != DISTRIBUTION)
        if strangers:
            found.append(
                f"the distribution {', '.join(strangers)} also installs a package named {name!r}; "
                f"use a virtual environment without it (pip uninstall {' '.join(strangers)}, "
                f"then reinstall {DISTRIBUTION})"
            )
    return found


def _home(name: str) -> Path | None:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).resolve().parent.parent


def _owners(search_path: Sequence[str]) -> dict[str, set[str]]:
    owners: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for entry in dict.fromkeys(search_path):
        for metadata in Path(entry or ".").glob("*.dist-info"):
            owner = re.sub(r"[-_.]+", "-", metadata.name.removesuffix(".dist-info").rpartition("-")[0])
            top_level = _read(metadata / "top_level.txt").split()
            # A line of RECORD is "path,hash,size"; most distributions are recognised without splitting it.
            record = b"\n" + _read(metadata / "RECORD")
            for name in PACKAGES:
                if name.encode() in top_level or b"\n%s/__init__.py," % name.encode() in record:
                    owners[name].add(owner.lower())
    return owners


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
