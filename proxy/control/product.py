"""Which product this is."""

from importlib import metadata
from typing import Final

DISTRIBUTION: Final = "llm-optimizer"
UNINSTALLED: Final = "0+checkout"


def product_version() -> str:
    """The installed version; ``0+checkout`` when running from a source tree."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return UNINSTALLED
