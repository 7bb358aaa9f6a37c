"""Settings and evidence become a table: pure, incremental without a difference, safe to publish."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.evidence import NoEvidence
from optimizer.publisher import Publisher, build_table, goals_of, rounded, route_salt
from optimizer.routing import Arm, Route, RoutingTable
from optimizer.settings import Objective, PolicySettings, RouteSettings, Settings
from policies.selector import TableSelector
from policies.types import ArmEvidence, Goal, Moments


class Recorded:
    """Evidence given by hand: (route, arm id) -> quality; remembers who was asked for."""

    def __init__(self, quality: dict[tuple[str, str], float]) -> None:
        self.quality = quality
        self.asked: list[str] = []

    def evidence(self, route: str, arm: Arm, *, now: float, half_life_s: float) -> ArmEvidence:
        self.asked.append(route)
        value = self.quality.get((route, arm.id))
        if value is None:
            return ArmEvidence(arm.id)
        weight = 400.0 * 0.5 ** (now / half_life_s)
        return ArmEvidence(
            arm.id, 400.0, Moments(weight, 1.0, 0.0), {"quality": Moments(weight, value, 0.01)}
        )


def route(name: str, arms: str = "abc", **changes: Any) -> RouteSettings:
    made = tuple(Arm(f"{letter}@default", letter, "default", f"m-{letter}", "v-0") for letter in arms)
    plain = RouteSettings(name, made, f"{arms[:1]}@default", (Objective("quality", 1.0, True),))
    return replace(plain, **changes)


def settings(*routes: RouteSettings) -> Settings:
    return Settings("hash-1", (), (), (), routes, passthrough=(("/v1/", "openai"),))


def table(*routes: RouteSettings, source: Recorded | NoEvidence | None = None, seed: int = 1) -> RoutingTable:
    return build_table(
        settings(*routes), source or NoEvidence(), version=7, now=0.0, rng=np.random.default_rng(seed)
    )


def only(built: RoutingTable) -> Route:
    (single,) = built.routes
    return single


def test_a_route_without_evidence_plays_its_arms_evenly() -> None:
    """The first table of a new route, complete with what the settings say."""
    built = table(route("chat", match=("gpt-*",), home="openai"))

    assert (built.version, built.config_hash, built.passthrough) == (7, "hash-1", (("/v1/", "openai"),))
    chat = only(built)
    assert chat.control.selector.probabilities == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert chat.control.baseline == "a@default"
    assert (chat.match, chat.home) == (("gpt-*",), "openai")
    assert (chat.candidate, chat.candidate_fraction, chat.rollout) == (None, 0.0, None)


def test_evidence_moves_the_probabilities() -> None:
    """The best arm gets nearly all, the others their floor."""
    source = Recorded({("chat", f"{arm}@default"): q for arm, q in (("a", 0.5), ("b", 0.9), ("c", 0.6))})

    probabilities = only(table(route("chat"), source=source)).control.selector.probabilities

    assert probabilities == pytest.approx([0.02, 0.96, 0.02])


def test_a_route_that_is_not_optimized_plays_its_baseline() -> None:
    """Whatever the evidence and the policy's own settings say."""
    source = Recorded({("chat", "b@default"): 0.9})
    policy = PolicySettings(name="fixed", fixed={"b@default": 1.0})

    selector = only(table(route("chat", optimize=False, policy=policy), source=source)).control.selector

    assert selector.policy == "fixed"
    assert selector.probabilities == (1.0, 0.0, 0.0)


def test_published_probabilities_are_what_a_worker_accepts() -> None:
    """Forty arms, rounded, still make a selector."""
    arms = tuple(Arm(f"arm-{i}", f"m{i}", "default", f"m-{i}", "v") for i in range(40))
    wide = RouteSettings("wide", arms, "arm-0", (Objective("quality", 1.0, True),))
    source = Recorded({("wide", arm.id): 0.5 + i / 100 for i, arm in enumerate(arms)})

    selector = only(table(wide, source=source)).control.selector

    assert TableSelector(selector.id, selector.probabilities).size == 40
    assert min(selector.probabilities) > 0.0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=100).filter(any))
def test_rounding_keeps_a_distribution(parts: list[int]) -> None:
    """Six decimals, nobody negative, sum 1."""
    short = rounded([part / sum(parts) for part in parts])

    assert sum(short) == pytest.approx(1.0, abs=1e-12)
    assert all(share >= 0.0 and round(share, 6) == share for share in short)


def test_the_selector_id_follows_its_content() -> None:
    """Same policy, arms and probabilities: same id, on any node; anything else: another."""
    source = Recorded({("chat", "b@default"): 0.9, ("chat", "a@default"): 0.5, ("chat", "c@default"): 0.5})
    first = only(table(route("chat"))).control.selector.id

    assert only(table(route("chat"), seed=2)).control.selector.id == first
    assert only(table(route("chat", "abd"))).control.selector.id != first
    assert only(table(route("chat"), source=source)).control.selector.id != first
    ucb = route("chat", policy=PolicySettings(name="ucb"))
    assert only(table(ucb)).control.selector.id != first


def test_the_salt_survives_reloads_and_differs_by_route() -> None:
    """Sticky units stay where they are when a configuration is loaded again."""
    assert (
        only(table(route("chat"))).salt == only(table(route("chat", "ab"), seed=9)).salt == route_salt("chat")
    )
    assert route_salt("chat") != route_salt("code")


def test_the_same_inputs_give_the_same_table() -> None:
    """Nothing but the arguments has a say."""
    source = Recorded({("chat", "a@default"): 0.80, ("chat", "b@default"): 0.81, ("chat", "c@default"): 0.79})

    assert table(route("chat"), source=source) == table(route("chat"), source=source)


def test_a_route_does_not_depend_on_its_neighbours() -> None:
    """Adding a route changes no other route's draws."""
    source = Recorded({("chat", "a@default"): 0.80, ("chat", "b@default"): 0.81, ("chat", "c@default"): 0.79})

    alone = only(table(route("chat"), source=source))
    among = table(route("zoo"), route("chat"), route("app"), source=source).routes[1]

    assert among == alone


def test_only_dirty_and_changed_routes_are_rebuilt() -> None:
    """Evidence is read for these alone, and the table is the one a full build gives."""
    source = Recorded({("chat", f"{arm}@default"): q for arm, q in (("a", 0.80), ("b", 0.81), ("c", 0.79))})
    publisher = Publisher(seed=3)
    before = settings(route("chat"), route("code"), route("mail"))
    publisher.build(before, source, version=1, now=0.0)
    source.asked.clear()
    source.quality["chat", "b@default"] = 0.95
    after = settings(route("chat"), route("code"), route("mail", "ab"), route("new"))

    built = publisher.build(after, source, version=2, now=0.0, dirty={"chat", "gone"})

    assert set(source.asked) == {"chat", "mail", "new"}
    assert built == Publisher(seed=3).build(after, source, version=2, now=0.0)
    assert built.version == 2


def test_a_refused_build_leaves_the_publisher_as_it_was() -> None:
    """A bad reload costs nothing: the next build knows what it knew."""
    source = Recorded({})
    publisher = Publisher(seed=3)
    good = settings(route("chat"))
    first = publisher.build(good, source, version=1, now=0.0)
    with pytest.raises(ValueError, match="route bad"):
        publisher.build(
            settings(route("chat"), route("bad", baseline="zz")), source, version=2, now=0.0, dirty=set()
        )
    source.asked.clear()

    again = publisher.build(good, source, version=2, now=0.0, dirty=set())

    assert source.asked == []
    assert again.routes == first.routes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": PolicySettings(name="magic")}, "route chat: unknown policy 'magic'"),
        ({"baseline": "zz"}, "route chat: baseline 'zz'"),
        ({"policy": PolicySettings(name="fixed", fixed={"zz": 1.0})}, "route chat: fixed shares name"),
        (
            {"objectives": (Objective("cost", -1.0, False), Objective("quality", 2.0, True))},
            "route chat: weight",
        ),
        ({"arms": ""}, "route chat: baseline"),
    ],
)
def test_settings_that_make_no_sense_name_the_route(changes: dict[str, Any], message: str) -> None:
    """The operator reads where to look."""
    with pytest.raises(ValueError, match=message):
        table(route("chat", **changes))


def test_a_route_without_objectives_pursues_quality() -> None:
    """The smallest configuration means something sensible."""
    assert goals_of(route("chat", objectives=())) == [Goal("quality", 1.0, True)]
