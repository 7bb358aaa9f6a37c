"""Logs whose truth is known: three arms with their own quality, cost and latency, drawn with logged probabilities."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from optimizer import events
from optimizer.feedback import Feedback, to_event

NOON = 1_795_000_000.0
DAY = 86_400.0


@dataclass
class World:
    """What arms are worth; ``hard`` requests cost twice as much and get ``penalty`` less quality on ``small``."""

    arms: tuple[str, ...] = ("small", "large", "huge")
    quality: tuple[float, ...] = (0.6, 0.8, 0.9)
    cost: tuple[float, ...] = (0.001, 0.004, 0.02)
    latency: tuple[float, ...] = (0.2, 0.5, 1.5)
    failing: tuple[float, ...] = (0.0, 0.0, 0.0)
    rated: tuple[float, ...] = (0.5, 0.5, 0.5)
    judge: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def to_event_named(rated: Feedback, request_id: str) -> tuple[str, str, dict[str, Any]]:
    event_id, data = to_event(rated, request_id=request_id)
    return event_id, events.FEEDBACK, data


@dataclass
class Writer:
    """Writes requests of a ``World`` through a node's log writer."""

    node: Any
    data: Callable[..., dict[str, Any]]

    def play(
        self,
        world: World,
        n: int,
        shares: Callable[[int], tuple[float, ...]],
        *,
        seed: int = 0,
        start: float = NOON,
        every: float = 1.0,
        context: bool = False,
    ) -> list[tuple[str, str]]:
        """Log ``n`` requests ``every`` seconds; returns (request id, arm) of each."""
        rng = np.random.default_rng(seed)
        made = []
        for row in range(n):
            vector = shares(row)
            arm = int(rng.choice(len(vector), p=np.array(vector) / sum(vector)))
            hard = bool(rng.random() < 0.5)
            failed = bool(rng.random() < world.failing[arm])
            at = start + row * every
            x = np.array([1.0, 1.0 if hard else -1.0], dtype="<f4")
            changes: dict[str, Any] = {
                "model": world.arms[arm],
                "model_key": f"key-{world.arms[arm]}",
                "baseline_arm": world.arms[1],
                "arms": list(world.arms),
                "probabilities": list(vector),
                "propensity": vector[arm],
                "side": "control",
                "reason": "bandit",
                "outcome": events.UPSTREAM_FAULT if failed else events.COMPLETED,
                "cost_usd": None if failed else world.cost[arm] * (4 / 3 if hard else 2 / 3),
                "duration_ms": 1000.0 * world.latency[arm],
                **({"context": {"version": "f1", "x": b64encode(x.tobytes()).decode()}} if context else {}),
                **world.extra,
            }
            request_id = self.node.mint(at)
            body = self.data(at=at, arm="x/y", **changes) | {"arm": world.arms[arm]}
            self.node.append(request_id, events.REQUEST, body, at + 1)
            if not failed and rng.random() < world.rated[arm]:
                value = float(rng.random() < world.quality[arm])
                rated = Feedback(request_id, None, "quality", value, world.judge or "user", 0)
                self.node.append(*to_event_named(rated, request_id), at + 5)
            made.append((request_id, world.arms[arm]))
        return made


@pytest.fixture
def world() -> type[World]:
    return World


@pytest.fixture
def writer(node: Any, learning: dict[str, Any]) -> Writer:
    return Writer(node, learning["data"])


@pytest.fixture
def log_of(node: Any) -> Callable[[], Any]:
    """The log directory of the node, with everything written: a slow disk is written to from a thread."""

    def found() -> Any:
        node.writer.close()
        return node.state.log_directory

    return found
