"""A node that logs as a worker does: state directory, log writer, ids and events, with chosen times."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizer import events
from optimizer.feedback import parse_feedback, to_event
from optimizer.ids import RequestIds
from optimizer.log.node import StateDirectory
from optimizer.log.writer import LogWriter, WriterBounds, encode, event_source
from optimizer.routing import Arm, Model, Price, Upstream, Variant
from optimizer.settings import CustomMetric, Objective, PolicySettings, RouteSettings, Settings

NOON = 1_795_000_000.0


class LoggingNode:
    """Writes one source of a node's log. Times are Unix seconds."""

    def __init__(self, path: Path, bounds: WriterBounds | None = None) -> None:
        self.state = StateDirectory(path)
        self.incarnation = self.state.allocate_incarnation()
        self.ids = RequestIds(node=self.state.node, incarnation=self.incarnation, key=self.state.id_key)
        self.source = event_source(self.state.node, "worker", self.incarnation)
        self.writer = LogWriter(
            self.state.log_directory,
            node=self.state.node,
            incarnation=self.incarnation,
            role="worker",
            bounds=bounds or WriterBounds(reserve_bytes=0),
        )

    def mint(self, at: float = NOON) -> str:
        return self.ids.mint(int(at * 1000))

    def request(self, request_id: str | None = None, *, at: float = NOON, **changes: Any) -> str:
        """Log a completed request on ``auto``, arm ``small/default``, with changes; returns its id."""
        request_id = request_id or self.mint(at)
        self.append(request_id, events.REQUEST, request_data(at=at, **changes), at + 1)
        return request_id

    def feedback(self, request_id: str, *, at: float = NOON + 5, **fields: Any) -> str:
        """Log posted feedback; returns the event's id."""
        (item,) = parse_feedback({"request_id": request_id, **fields})
        event_id, data = to_event(item, request_id=request_id)
        self.append(event_id, events.FEEDBACK, data, at)
        return event_id

    def append(self, event_id: str, kind: str, data: dict[str, Any], at: float) -> None:
        self.writer.append(encode(event_id, kind, self.source, int(at * 1000), data))


def request_data(*, at: float = NOON, arm: str = "small/default", **changes: Any) -> dict[str, Any]:
    """``data`` of a completed ``request.v1`` event; ``changes`` replace fields, None removes one."""
    model, variant = arm.split("/")
    data = {
        "route": "auto",
        "arm": arm,
        "baseline_arm": "large/default",
        "model": model,
        "variant": variant,
        "model_key": f"key-{model}",
        "variant_key": f"key-{variant}",
        "outcome": events.COMPLETED,
        "status": 200,
        "attempts": [{"arm": arm, "upstream": "one", "status": 200, "error": None, "ms": 500.0}],
        "started_ms": int(at * 1000),
        "duration_ms": 500.0,
        "stream": False,
        "cost_usd": 0.002,
        "price_version": "v1",
        "randomised": True,
        **changes,
    }
    return {name: value for name, value in data.items() if value is not None}


def make_settings(
    *, half_life_s: float = 7 * 86400.0, price_version: str = "v1", metrics: tuple[CustomMetric, ...] = ()
) -> Settings:
    """Route ``auto`` over the models small and large, which cost the same per token."""
    price = Price(input=1.0, output=2.0, version=price_version)
    names = ("small", "large")
    return Settings(
        config_hash="test",
        upstreams=(Upstream("one", "openai", "http://127.0.0.1:9/v1"),),
        models=tuple(Model(name, "one", name, f"key-{name}", price) for name in names),
        variants=(Variant("default", "key-default"),),
        routes=(
            RouteSettings(
                "auto",
                tuple(
                    Arm(f"{name}/default", name, "default", f"key-{name}", "key-default") for name in names
                ),
                "large/default",
                (Objective("quality", 1.0, maximize=True),),
                PolicySettings(half_life_s=half_life_s),
            ),
        ),
        custom_metrics=metrics,
    )


def arm_of(settings: Settings, arm_id: str = "small/default") -> Arm:
    return next(arm for arm in settings.routes[0].arms if arm.id == arm_id)


@pytest.fixture
def learning() -> dict[str, Any]:
    """The helpers of this file, for tests (modules of tests can not be imported)."""
    return {"data": request_data, "settings": make_settings, "arm": arm_of, "noon": NOON}


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., LoggingNode]]:
    """Opens further sources of one node's log."""
    opened: list[LoggingNode] = []

    def make(bounds: WriterBounds | None = None) -> LoggingNode:
        opened.append(LoggingNode(tmp_path / "state", bounds))
        return opened[-1]

    yield make
    for node in opened:
        node.writer.close()


@pytest.fixture
def node(make_node: Callable[..., LoggingNode]) -> LoggingNode:
    return make_node()
