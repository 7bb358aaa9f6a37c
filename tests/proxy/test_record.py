"""What the log keeps of a request: documented fields, exact probabilities, and every vector it names."""

import math
import random
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import events
from optimizer.log.writer import LogWriter
from optimizer.routing import Arm, Model, Price, Route, RoutingTable, Selector, Side, Sticky, Upstream
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.dispatch import decide, unit_digest
from proxy.envelope import parse
from proxy.http1.client import Pool
from proxy.providers.base import ReplyFacts
from proxy.record import Ending, Recorder, Timing
from proxy.refusal import first_word, is_word
from proxy.resilience.breaker import Board

CHAT = orjson.dumps({"model": "r", "messages": [{"role": "user", "content": "hi"}], "user": "someone"})
# Every name that ``optimizer.events`` documents for a request.
_ABOUT_REQUESTS = (events.__doc__ or "").partition("``request.v1``")[2].partition("``feedback.v1``")[0]
DOCUMENTED = set(re.findall(r"[a-z][a-z0-9_.]*[a-z0-9_]", _ABOUT_REQUESTS.replace("`", " ")))
REQUIRED = {
    "table_version", "endpoint", "outcome", "status", "started_ms", "duration_ms", "overhead_ms", "request_bytes",
    "response_bytes", "route", "arm", "reason",
}  # fmt: skip
DECIDED = REQUIRED | {
    "requested_model", "stream", "side", "side_probability", "rollout", "baseline_arm", "model", "variant",
    "model_key", "variant_key", "selector", "policy", "propensity", "randomised", "unit", "attempts",
    "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "price_version", "usage_source",
    "cost_usd", "upstream_ms",
}  # fmt: skip


def _side(*shares: float, first: int = 0) -> Side:
    names = [f"m{first + number}" for number in range(len(shares))]
    arms = tuple(Arm(name, name, "default", f"k-{name}", "") for name in names)
    return Side(arms, Selector(f"s{hash(shares)}-{first}", "thompson", shares), names[0])


def _table(side: Side, **route: Any) -> RoutingTable:
    every = (*side.arms, *(route["candidate"].arms if route.get("candidate") else ()))
    return RoutingTable(
        version=3,
        published_at=0.0,
        config_hash="",
        upstreams=(Upstream(name="up", provider="openai", base_url="http://127.0.0.1:1", auth="none"),),
        models=tuple(
            Model(name, "up", f"{name}-id", f"k-{name}", price=Price(1.0, 2.0, version="v"))
            for name in sorted({arm.model for arm in every})
        ),
        variants=(),
        routes=(Route(name="r", control=side, salt="salt", **route),),
    )


def _compiler(secret: bytes = b"s" * 32) -> Compiler:
    return Compiler(
        make_pool=Pool,
        resolve_secret=lambda name: None,
        retire=lambda pool: pool.close(),
        unit_secret=secret,
        board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
    )


class Log:
    """A recorder on a real log, and what it wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[tuple[str, str, str, str]] = Counter()
        self.incarnation = 0
        self.number = 0
        self.restart()

    def restart(self) -> None:
        """As a worker that was killed and started again."""
        self.incarnation += 1
        self.writer = LogWriter(self.path, node=1, incarnation=self.incarnation, role="worker")
        self.recorder = Recorder(
            self.writer, source=f"/1/worker/{self.incarnation}", count=lambda *key: self.counts.update([key])
        )

    def record(
        self, table: CompiledTable, u: float = 0.0, raw: bytes = CHAT, *, now_ms: int = 1000, **headers: str
    ) -> None:
        envelope = parse("chat", raw)
        found = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        decision = decide(table, envelope, found, uniform=lambda: u, guarded=True)
        self.number += 1
        facts = ReplyFacts()
        facts.input_tokens, facts.output_tokens, facts.usage_source = 10, 5, "reported"
        facts.cache_read_tokens = facts.cache_write_tokens = facts.cache_write_1h_tokens = 1
        facts.reasoning_tokens, facts.json_valid, facts.text_head, facts.has_content = 2, True, "Hi", True
        facts.response_id, facts.response_model, facts.finish_reasons = "c1", "m", ["stop"]
        self.recorder.request(
            f"req_{self.number}",
            envelope=envelope,
            decision=decision,
            table_version=table.version,
            facts=facts,
            timing=Timing(now_ms, 12.5, 0.5, 12.0, 3.0, 1.0, 4),
            ending=Ending(events.COMPLETED, 200, None, 200, "up-1", 100, 200),
        )

    def lines(self) -> list[dict[str, Any]]:
        files = sorted(
            self.path.rglob("*.jsonl"), key=lambda file: (int(file.parent.name.split("-")[1], 16), file)
        )
        return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        return [line["data"] for line in self.lines() if line["type"] == events.REQUEST]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


async def test_every_event_has_exactly_documented_fields(log):
    """Decided, refused and passed through: what is there is documented, and what is always there is there."""
    sticky = Sticky("user")
    rollout = {"candidate": _side(1.0, first=1), "candidate_fraction": 0.5, "rollout": "ro"}
    for route in ({}, {"sticky": sticky}, rollout):
        log.record(_compiler().compile(_table(_side(0.5, 0.5), **route)))
    log.record(_compiler().compile(_table(_side(*[1 / 40] * 40))))
    log.record(_compiler().compile(_table(_side(1.0))), x_llm_optimizer_pin="m0")
    log.record(_compiler().compile(_table(_side(1.0))), raw=CHAT.replace(b'"r"', b'"m0"'))
    timing, ending = Timing(1, 2.0, 3.0), Ending(events.CALLER_FAULT, 404, "model_not_found")
    log.recorder.undecided(
        "req_a", endpoint="chat", envelope=parse("chat", CHAT), table_version=1, timing=timing, ending=ending
    )
    log.recorder.undecided(
        "req_b", endpoint="other", envelope=None, table_version=1, timing=timing, ending=ending
    )
    log.recorder.passed_through("req_c", upstream="up", table_version=1, timing=timing, ending=ending)

    for line in log.lines():
        assert set(line) == {"specversion", "id", "source", "type", "time", "data"}
        data = line["data"]
        if line["type"] == events.SELECTOR:
            assert set(data) == {"route", "side", "selector", "policy", "arms", "probabilities"}
            continue
        assert set(data) <= DOCUMENTED
        assert set(data) >= (DECIDED if data["arm"] is not None else REQUIRED)
        assert data["outcome"] in events.OUTCOMES
        assert ("vector" in data) + ("probabilities" in data) == (data["route"] is not None)
        for attempt in data.get("attempts", ()):
            assert set(attempt) == {"arm", "upstream", "status", "error", "ms", "randomised"}


async def test_a_vector_is_in_the_log_before_who_refers_to_it(log):
    """Beyond 32 arms, in every process, after every change of table, for every eligible set."""
    compiler = _compiler()
    shares = tuple((number + 1) / 820 for number in range(40))
    for version in range(3):
        table = compiler.compile(
            replace(_table(_side(*shares[version:], *shares[:version])), version=version)
        )
        for number in range(10):
            log.record(table, number / 10)
        log.record(table, x_llm_optimizer_pin="m7")
        log.restart()
        log.record(table)

    known: dict[str, dict[str, Any]] = {}
    source = ""
    for line in log.lines():
        if line["source"] != source:
            known, source = {}, line["source"]
        data = line["data"]
        if line["type"] == events.SELECTOR:
            known[line["id"]] = data
            continue
        vector = known[data["vector"]]
        assert vector["selector"] == data["selector"]
        assert vector["probabilities"][vector["arms"].index(data["arm"])] == data["propensity"]
        assert math.fsum(vector["probabilities"]) == pytest.approx(1.0)
    assert sum(line["type"] == events.SELECTOR for line in log.lines()) <= 3 * 3


async def test_a_vector_that_may_be_lost_or_deleted_is_logged_again(log):
    """After a loss, and hourly, because retention takes old segments away."""
    table = _compiler().compile(_table(_side(*[1 / 40] * 40)))
    log.record(table)
    log.record(table)
    log.writer.lost["disk_full"] += 1
    log.record(table)
    log.record(table, now_ms=1000 + 3_600_000)

    kinds = [line["type"].split(".")[1] for line in log.lines()]
    assert kinds == ["selector", "request", "request", "selector", "request", "selector", "request"]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6))
async def test_draws_come_with_their_logged_probability(seed, weights):
    """Shares of 3000 draws agree with the propensities, which are the vector's entries (6 sigma)."""
    shares = tuple(weight / math.fsum(weights) for weight in weights)
    table = _compiler().compile(_table(_side(*shares)))
    uniform = random.Random(seed).random
    envelope = parse("chat", CHAT)
    counts: Counter[int] = Counter()
    for _ in range(3000):
        decision = decide(table, envelope, {}, uniform=uniform, guarded=True)
        counts[decision.arm.index] += 1
        assert decision.propensity == decision.side.selector.vector(decision.mask)[decision.arm.index]

    for index, share in enumerate(shares):
        assert abs(counts[index] - 3000 * share) <= 6 * math.sqrt(3000 * share * (1 - share)) + 1


async def test_sticky_draws_have_the_logged_probability_too():
    """Hashes of 4000 different users are as good as random numbers (5 sigma)."""
    table = _compiler().compile(_table(_side(0.7, 0.2, 0.1), sticky=Sticky("user")))
    counts: Counter[str] = Counter()
    for number in range(4000):
        envelope = parse("chat", CHAT.replace(b"someone", b"user%d" % number))
        counts[decide(table, envelope, {}, uniform=lambda: 0.0, guarded=True).arm.id] += 1

    for name, share in (("m0", 0.7), ("m1", 0.2), ("m2", 0.1)):
        assert abs(counts[name] - 4000 * share) < 5 * math.sqrt(4000 * share * (1 - share))


async def test_what_is_kept_of_a_user_can_not_be_guessed_from_public_names(log):
    """The hash of a unit is keyed with the node's secret; route and salt stand in tables and exports."""
    table = _table(_side(1.0), sticky=Sticky("user"))
    mine, other = _compiler(b"a" * 32).compile(table), _compiler(b"b" * 32).compile(table)
    log.record(mine)
    log.record(other)
    first, second = log.requests()

    assert first["unit"] == "user"
    assert first["unit_hash"] != second["unit_hash"]
    assert first["unit_hash"] == unit_digest(mine.routes["r"].unit_key, b"someone")
    assert "someone" not in orjson.dumps(log.lines()).decode()


async def test_pinning_across_sides_is_recorded_with_that_sides_arms(log):
    """The baseline of a pinned request is the pinned side's, however many arms the drawn one has."""
    route = {
        "candidate": _side(0.2, 0.2, 0.6, first=5),
        "candidate_fraction": 0.5,
        "rollout": "ro",
        "match": ("m7",),
    }
    table = _compiler().compile(_table(_side(1.0), **route))
    log.record(table, 0.1, raw=CHAT.replace(b'"r"', b'"m7"'), x_llm_optimizer_pin="m0")
    log.record(table, 0.9, x_llm_optimizer_pin="m7")
    first, second = log.requests()

    assert (first["side"], first["arm"], first["baseline_arm"], first["side_probability"]) == (
        "control",
        "m0",
        "m0",
        1.0,
    )
    assert (second["side"], second["arm"], second["baseline_arm"]) == ("candidate", "m7", "m5")
    assert not first["randomised"]


async def test_without_a_guard_control_is_certain():
    """Nobody can get the candidate, so nobody's control has another probability than 1."""
    route = {"candidate": _side(1.0, first=5), "candidate_fraction": 0.25, "rollout": "ro"}
    table = _compiler().compile(_table(_side(1.0), **route))
    envelope = parse("chat", CHAT)
    low, high = (
        decide(table, envelope, {}, uniform=lambda u=u: u, guarded=False)
        for u in (0.1, 0.9)  # type: ignore[misc]
    )

    assert [(d.side.name, d.side_probability, d.withheld) for d in (low, high)] == [
        ("control", 1.0, "guard_lost"),
        ("control", 1.0, None),
    ]


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("context_length_exceeded", True),
        ("DeploymentNotFound", True),
        ("sk-proj-abcdef", False),
        ("two words", False),
        ("429", False),
        ("", False),
        ("x" * 41, False),
        ("schön", False),
    ],
)
def test_only_short_words_of_an_upstream_are_logged(text, fine):
    """Identifiers as providers use them; no room for sentences or keys."""
    assert is_word(text) is fine
    assert first_word(text, None, "other") == (text if fine else "other")
