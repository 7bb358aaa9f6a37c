"""The configuration that is soaked: routes that are never disturbed, and routes whose models fail in many ways."""

from typing import Any

STEADY = {"answer": "answer", "slow": "slow:30"}
FLOWING = {"flow": "slow-tokens:15"}
HUGE = {"huge": "large:2"}
SHAKY = {
    "fine": "answer",
    "unavailable": "status:503",
    "limited": "status:429,ms=50",
    "reset": "reset",
    "closed": "close",
    "half": "cut-body:reset",
    "truncated": "truncated-json",
    "login": "html-200",
    "refused": "status:400",
    "hole": "blackhole",
    "hints": "early-hints",
    "racing": "race",
}
TORN = {
    "whole": "answer",
    "cut": "cut:3,reset",
    "ended": "cut:3,end",
    "unfinished": "no-done:end",
    "event": "half-event:end",
    "mumbling": "murmur:2",
    "chunk": "bad-chunk",
    "error": "error-event:2",
}
ROUTES = {"steady": STEADY, "flow": FLOWING, "huge": HUGE, "shaky": SHAKY, "torn": TORN}
FAULTY = ("shaky", "torn")


def configuration(url: str, *, floor: float = 0.05) -> dict[str, Any]:
    """All routes in front of one upstream address; ``floor`` is what reloads change."""
    upstream = {"base_url": f"{url}/v1", "api_key": "literal-upstream-key"}
    models = {
        f"{route}-{name}": {
            "upstream": "faulty" if route in FAULTY else "calm",
            "model": behaviour,
            "price": {"input": 1.0, "output": 4.0},
            "endpoints": ["chat"],
        }
        for route, behaviours in ROUTES.items()
        for name, behaviour in behaviours.items()
    }
    routes: dict[str, Any] = {}
    for route, behaviours in ROUTES.items():
        arms = [f"{route}-{name}" for name in behaviours]
        routes[route] = {"arms": arms, "baseline": arms[0], "policy": {"floor": floor / len(arms)}}
        if route in FAULTY:
            routes[route]["timeouts"] = {"first_token_ms": 1000, "total_ms": 10_000}
    return {
        "server": {"drain_timeout_ms": 10_000},
        "log": {"level": "warning"},
        "upstreams": {
            "calm": {**upstream, "max_connections": 500},
            "faulty": {**upstream, "max_connections": 500, "idle_timeout_ms": 1500},
        },
        "models": models,
        "routes": routes,
        "passthrough": {"/v1/": "calm"},
    }
