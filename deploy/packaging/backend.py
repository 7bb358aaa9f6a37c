"""The build backend (PEP 517): setuptools, after the operator's page was built.

Editable installations leave the page alone (``make page`` builds it), so that working on Python needs no Node.js.
``-C page=skip`` makes a wheel without the page.
"""

from collections.abc import Mapping
from typing import Any

from page import NODE_WHEEL, Page, ensure, find_node
from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = Mapping[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What setuptools wants, and Node.js where the page has to be built and the system has none."""
    return [*build_meta.get_requires_for_build_wheel(_rest(config_settings)), *_node(config_settings)]


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """As for a wheel: an sdist carries the built page, so that building from it needs no Node.js."""
    return [*build_meta.get_requires_for_build_sdist(_rest(config_settings)), *_node(config_settings)]


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the page, then the wheel."""
    if not _is_skipped(config_settings):
        ensure(Page())
    return str(build_meta.build_wheel(wheel_directory, _rest(config_settings), metadata_directory))


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Build the page, then the source distribution."""
    if not _is_skipped(config_settings):
        ensure(Page())
    return str(build_meta.build_sdist(sdist_directory, _rest(config_settings)))


def _is_skipped(settings: Settings) -> bool:
    return bool(settings) and settings is not None and settings.get("page") == "skip"


def _node(settings: Settings) -> list[str]:
    return [] if _is_skipped(settings) or Page().is_current() or find_node() is not None else [NODE_WHEEL]


def _rest(settings: Settings) -> dict[str, Any]:
    """What is setuptools' own."""
    return {name: value for name, value in (settings or {}).items() if name != "page"}
