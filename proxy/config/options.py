"""What a loaded configuration says about this product's own processes, as plain frozen values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listen:
    """The public listener. ``workers`` None means one per core; ``drain_s`` bounds finishing streams."""

    host: str
    port: int
    workers: int | None
    drain_s: float


@dataclass(frozen=True, slots=True)
class AdminOptions:
    """Who may reach the admin paths. ``keys`` are secret references; ``listen`` a separate (host, port)."""

    require_key: bool = False
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    listen: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The processes' own log lines: level in lower case; format ``auto``, ``json`` or ``text``."""

    level: str = "info"
    format: str = "auto"
