"""What the guards are told of a request: by how it was decided and how it ended, through the recorder."""

import random
import time
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import events
from optimizer.rollouts.guards import SideCounts
from optimizer.routing import Arm, Guarding, Model, Price, Route, RoutingTable, Selector, Side, Upstream
from proxy.compiled import CompiledTable
from proxy.compiler import Compiler
from proxy.dispatch import decide
from proxy.envelope import parse
from proxy.errors import ClientFault, Unavailable
from proxy.headers import PIN
from proxy.http1.client import Pool
from proxy.providers.base import ReplyFacts
from proxy.record import Ending, Recorder, Timing, Tried
from proxy.resilience.breaker import Board
from proxy.rollout_watch import Watches

GUARDING = Guarding(stage=2, reference_ms=100.0, threshold_ms=200.0)
FAULT = events.UPSTREAM_FAULT


def _side(*names: str) -> Side:
    arms = tuple(Arm(name, name, "default", name, "") for name in names)
    return Side(arms, Selector(f"s{names}", "fixed", tuple(1 / len(arms) for _ in arms)), names[0])


class Kept:
    """A log in memory."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.lost: Counter[str] = Counter()

    def append(self, line: bytes, *, priority: int = 0) -> None:
        self.lines.append(line)


class Rollout:
    """A route with a candidate, and what is counted and logged of its requests."""

    def __init__(self, **route: Any) -> None:
        self.watches = Watches()
        self.log = Kept()
        self.recorder = Recorder(self.log, source="/1/worker/1", count=lambda *_: None)  # type: ignore[arg-type]
        self.compiler = Compiler(
            make_pool=Pool,
            resolve_secret=lambda name: None,
            retire=lambda pool: pool.close(),
            unit_secret=b"s" * 32,
            board=Board(clock=time.perf_counter, uniform=random.Random(1).random),
            watches=self.watches,
        )
        self.table = self.use(**route)

    def use(self, **changes: Any) -> CompiledTable:
        fields = {
            "control": _side("a", "b"),
            "candidate": _side("c", "d"),
            "candidate_fraction": 0.25,
            "rollout": "ro",
            "guarding": GUARDING,
        } | changes
        every = frozenset(("chat", "embeddings"))
        self.table = self.compiler.compile(
            RoutingTable(
                version=1,
                published_at=0.0,
                config_hash="",
                upstreams=(
                    Upstream(name="up", provider="openai", base_url="http://127.0.0.1:1/v1", auth="none"),
                    Upstream(
                        name="away", provider="openai", base_url="http://127.0.0.1:1/v1", secret="env:X"
                    ),
                ),
                models=(
                    *(
                        Model(name, "up", name, name, price=Price(1e6, 2e6), endpoints=every)
                        for name in "abcd"
                    ),
                    Model("away", "away", "away", "away"),
                    Model("old", "up", "old", "old", endpoints=frozenset(("completions",))),
                ),
                variants=(),
                routes=(Route(name="r", salt="s", **fields),),  # type: ignore[arg-type]
            )
        )
        return self.table

    def ask(
        self,
        u: float = 0.0,
        outcome: str = events.COMPLETED,
        error: str | None = None,
        status: int | None = 200,
        *,
        guarded: bool = True,
        pin: str | None = None,
        ms: float = 50.0,
        ttft_ms: float | None = None,
        facts: dict[str, Any] | None = None,
        tried: tuple[tuple[str, int | None, str | None], ...] = (),
        continued: bool = False,
        **fields: Any,
    ) -> None:
        """One request; ``tried`` are [why, status, error]."""
        document = {"model": "r", "messages": [{"role": "user", "content": "hi"}], **fields}
        envelope = parse("chat", orjson.dumps(document))
        headers = {PIN: pin.encode()} if pin is not None else {}
        decision = decide(self.table, envelope, headers, uniform=lambda: u, guarded=guarded)
        known = ReplyFacts()
        known.input_tokens, known.output_tokens, known.usage_source, known.has_content = (
            1,
            1,
            "reported",
            True,
        )
        for name, value in (facts or {}).items():
            setattr(known, name, value)
        self.recorder.request(
            "req_1",
            envelope=envelope,
            decision=decision,
            table_version=1,
            facts=known if outcome == events.COMPLETED else None,
            timing=Timing(1, ms, 0.5, 12.0, ttft_ms),
            ending=Ending(outcome, 200 if outcome == events.COMPLETED else 502, error, status),
            tried=[
                Tried(decision.arm, why, status, error, 1.0, known if error is None else None, False)
                for why, status, error in tried
            ],
            continued=continued,
        )

    def counts(self) -> dict[str, SideCounts]:
        """Per side, of the only stage; none are left afterwards."""
        rows = self.watches.take()
        assert {tuple(row[:3]) for row in rows} <= {("r", "ro", 2)}
        return {row[3]: SideCounts(**row[4]) for row in rows}  # type: ignore[arg-type,misc,index]

    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(line)["data"] for line in self.log.lines]


async def test_a_completed_request_of_either_side():
    """Assigned, resolved, timed, priced; nothing else."""
    rollout = Rollout()
    rollout.ask(0.0)
    rollout.ask(0.9)
    rollout.ask(0.9)
    one = SideCounts(assigned=1, resolved=1, timed=1, priced=1, cost_usd=3.0, cost_usd2=9.0)

    assert rollout.counts() == {"candidate": one, "control": one + one}
    assert rollout.counts() == {}


@pytest.mark.parametrize(
    ("ms", "ttft_ms", "stream", "slow", "late", "timed"),
    [
        (100.0, None, False, 0, 0, 1),
        (101.0, None, False, 1, 0, 1),
        (201.0, None, False, 1, 1, 1),
        (900.0, 90.0, True, 0, 0, 1),
        (900.0, 150.0, True, 1, 0, 1),
        (900.0, None, True, 0, 0, 0),
        (900.0, 90.0, False, 1, 1, 1),
    ],
)
async def test_time_is_to_the_first_token_of_streams_and_in_all_otherwise(
    ms, ttft_ms, stream, slow, late, timed
):
    """A stream whose content can not be seen has no time; it is still a resolved request."""
    rollout = Rollout()
    rollout.ask(ms=ms, ttft_ms=ttft_ms, stream=stream)
    counts = rollout.counts()["candidate"]

    assert (counts.timed, counts.slow, counts.late, counts.resolved) == (timed, slow, late, 1)


async def test_without_references_nothing_is_slow():
    """A stage without a threshold, or whose control is not known yet, compares no times."""
    rollout = Rollout(guarding=Guarding(stage=2))
    rollout.ask(ms=1e6)

    assert rollout.counts()["candidate"] == SideCounts(
        assigned=1, resolved=1, timed=1, priced=1, cost_usd=3.0, cost_usd2=9.0
    )


@pytest.mark.parametrize(
    ("facts", "invalid"),
    [
        ({}, 0),
        ({"has_content": False}, 1),
        ({"has_content": False, "tool_calls": True}, 0),
        ({"text_head": "I'm sorry, but I can't help with that."}, 1),
        ({"json_valid": False}, 1),
        ({"json_valid": True}, 0),
    ],
)
async def test_answers_that_are_none(facts, invalid):
    """Empty, refused, or not the JSON that was asked for: one each, whatever comes together."""
    rollout = Rollout()
    rollout.ask(facts=facts)

    assert rollout.counts()["candidate"].invalid == invalid


async def test_a_cost_that_is_not_known_is_not_0():
    """Priced counts what the sums are of."""
    rollout = Rollout()
    rollout.ask(facts={"input_tokens": None, "output_tokens": None})
    counts = rollout.counts()["candidate"]

    assert (counts.resolved, counts.priced, counts.cost_usd) == (1, 0, 0.0)


ENDINGS = [
    # outcome, error, upstream status, tried -> resolved, errors, rejected
    (FAULT, "upstream_timeout", None, (), (1, 1, 0)),
    (FAULT, "server_error", 500, (), (1, 1, 0)),
    (FAULT, "upstream_protocol_error", 200, (), (1, 1, 0)),
    (events.CENSORED, "rate_limit_exceeded", 429, (), (1, 1, 0)),
    (events.CENSORED, "upstream_auth_error", 401, (), (1, 1, 0)),
    (events.CENSORED, "client_gone", None, (), (0, 0, 0)),
    (events.CENSORED, "client_gone", 200, (), (0, 0, 0)),
    (events.CENSORED, "overloaded", None, (), (0, 0, 0)),
    (events.CALLER_FAULT, "invalid_request", 400, (), (0, 0, 1)),
    (events.CALLER_FAULT, "model_not_found", 404, (), (0, 0, 1)),
    (events.CALLER_FAULT, "invalid_request", None, (), (0, 0, 0)),
    # A fallback or a repetition saved the request: by intention to treat it is the side's error.
    (events.COMPLETED, None, 200, (("first", 500, "server_error"), ("fallback", 200, None)), (1, 1, 0)),
    (events.COMPLETED, None, 200, (("first", None, "upstream_reset"), ("retry", 200, None)), (1, 1, 0)),
    (events.COMPLETED, None, 200, (("first", 429, "rate_limit_exceeded"), ("fallback", 200, None)), (1, 1, 0)),
    (events.COMPLETED, None, 200, (("first", 404, "model_not_found"), ("fallback", 200, None)), (1, 1, 0)),
    (events.COMPLETED, None, 200, (("first", 401, "invalid_api_key"), ("fallback", 200, None)), (1, 1, 0)),
    # The first attempt did not fail: the request was too large, we were too busy, or a hedge was quicker.
    (events.COMPLETED, None, 200, (("first", 400, "too_long"), ("larger_context", 200, None)), (1, 0, 0)),
    (events.COMPLETED, None, 200, (("first", None, "overloaded"), ("fallback", 200, None)), (1, 0, 0)),
    (events.COMPLETED, None, 200, (("first", None, "hedged"), ("hedge", 200, None)), (1, 0, 0)),
    (events.COMPLETED, None, 200, (("hedge", 500, "server_error"), ("first", 200, None)), (1, 0, 0)),
    # Whoever was asked instead failed as well.
    (FAULT, "server_error", 500, (("first", None, "hedged"), ("hedge", 500, "server_error")), (1, 1, 0)),
    (FAULT, "server_error", 500, (("first", 503, "x"), ("fallback", 500, "server_error")), (1, 1, 0)),
    (events.CENSORED, "client_gone", None, (("first", 503, "x"), ("fallback", None, "client_gone")), (1, 1, 0)),
    (events.CENSORED, "client_gone", None, (("first", 400, "y"), ("larger_context", None, "client_gone")), (0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize("u", [0.0, 0.9])
@pytest.mark.parametrize(("outcome", "error", "status", "tried", "expected"), ENDINGS)
async def test_what_counts_as_the_sides_error(u, outcome, error, status, tried, expected):
    """The first attempt's upstream fault or 429, and whatever ended in one; never a caller's or our own doing."""
    rollout = Rollout()
    rollout.ask(u, outcome, error, status, tried=tried)
    counts = rollout.counts()["candidate" if u < 0.25 else "control"]

    assert (counts.resolved, counts.errors, counts.rejected) == expected
    assert counts.assigned == 1
    assert counts.timed == counts.priced == (1 if expected[0] and not expected[1] else 0)


async def test_pinned_unguarded_and_stopped_requests_are_in_no_count():
    """Nor are control's, while its counterpart gets nothing: there would be nothing to compare them with."""
    rollout = Rollout()
    rollout.ask(0.0, pin="c")
    rollout.ask(0.9, pin="a")
    rollout.ask(0.0, guarded=False)
    rollout.ask(0.9, guarded=False)
    assert rollout.counts() == {}
    for _ in range(20):
        rollout.ask(0.0, FAULT, "server_error", 500)
    assert rollout.counts() == {"candidate": SideCounts(assigned=20, resolved=20, errors=20)}
    rollout.ask(0.0)
    rollout.ask(0.9)

    assert rollout.counts() == {}
    marks = [{name for name in ("guard_lost", "stopped") if data.get(name)} for data in rollout.events()]
    assert marks == [set(), set(), {"guard_lost"}, set(), *[set()] * 20, {"stopped"}, set()]
    assert [data["side_probability"] for data in rollout.events()[-2:]] == [1.0, 1.0]


async def test_a_candidate_that_can_serve_nobody_is_counted_and_control_serves():
    """Without its credentials the candidate has errors, and soon a stop; its callers have answers."""
    rollout = Rollout(candidate=_side("away"))
    for _ in range(21):
        rollout.ask(0.0)

    assert rollout.counts() == {"candidate": SideCounts(assigned=20, resolved=20, errors=20)}
    marks = [{name for name in ("unserved", "stopped") if data.get(name)} for data in rollout.events()]
    assert marks == [*[{"unserved"}] * 20, {"stopped"}]
    assert {(data["side"], data["side_probability"]) for data in rollout.events()} == {("control", 1.0)}
    assert rollout.watches.take_stops() == [("r", "ro", "hard_stop")]


async def test_a_side_that_can_not_do_what_is_asked_rejects():
    """A candidate whose arms do not speak the endpoint is told of, beside a control that does as by itself."""
    rollout = Rollout(candidate=_side("old"))
    rollout.ask(0.0)

    assert rollout.counts() == {"candidate": SideCounts(assigned=1, rejected=1)}
    assert rollout.events()[0]["side"] == "control"


@pytest.mark.parametrize(("names", "fault"), [(("away",), Unavailable), (("old",), ClientFault)])
async def test_where_neither_side_can_serve_each_is_counted_for_its_own(names, fault):
    """The caller is told what control says, once."""
    rollout = Rollout(control=_side(*names), candidate=_side(*names))
    for u in (0.0, 0.9):
        with pytest.raises(fault):
            rollout.ask(u)
    counts = rollout.counts()

    assert counts["control"] == counts["candidate"]
    assert counts["control"].assigned == 1


async def test_embeddings_count_as_other_requests():
    """There is no text to judge, but errors, times and costs are the same."""
    rollout = Rollout(control=_side("a"), candidate=_side("a", "b"))
    envelope = parse("embeddings", orjson.dumps({"model": "r", "input": "hi"}))
    decision = decide(rollout.table, envelope, {}, uniform=lambda: 0.0, guarded=True)
    facts = ReplyFacts()
    facts.input_tokens, facts.output_tokens = 1, 0
    rollout.recorder.request(
        "req_1",
        envelope=envelope,
        decision=decision,
        table_version=1,
        facts=facts,
        timing=Timing(1, 150.0, 0.5),
        ending=Ending(events.COMPLETED, 200, None, 200),
    )

    assert rollout.counts()["candidate"] == SideCounts(
        assigned=1, resolved=1, timed=1, slow=1, priced=1, cost_usd=1.0, cost_usd2=1.0
    )


async def test_a_request_is_booked_where_it_was_decided():
    """It began in stage 2 and ended after the table had gone on to stage 3, and then to no rollout at all."""
    rollout = Rollout()
    envelope = parse("chat", orjson.dumps({"model": "r", "messages": [{"role": "user", "content": "hi"}]}))
    decision = decide(rollout.table, envelope, {}, uniform=lambda: 0.0, guarded=True)
    rollout.use(guarding=Guarding(stage=3))
    rollout.ask(0.0)
    rollout.use(candidate=None, candidate_fraction=0.0, rollout=None, guarding=None)
    assert decision.watch is not None
    decision.watch.errored("candidate")

    rows = {tuple(row[:4]): row[4] for row in rollout.watches.take()}
    assert rows["r", "ro", 2, "candidate"] == {"assigned": 1, "resolved": 1, "errors": 1}
    assert rows["r", "ro", 3, "candidate"]["resolved"] == 1


async def test_what_is_urgent_is_told_at_once():
    """When the candidate is stopped, and when the baseline fails; the former stays in every report."""
    rollout = Rollout()
    told: list[list[tuple[str, str, str]]] = []
    rollout.watches.on_stop = lambda: told.append(rollout.watches.take_stops())
    for _ in range(40):
        rollout.ask(0.9, FAULT, "server_error", 500)
        rollout.ask(0.0, FAULT, "server_error", 500)
    assert told == [[("r", "ro", "baseline_failing")]]
    assert rollout.watches.take_stops() == []
    for _ in range(100):
        rollout.ask(0.9)
    rollout.ask(0.0, FAULT, "server_error", 500)

    assert told[1:] == [[("r", "ro", "hard_stop")]]
    assert rollout.watches.take_stops() == [("r", "ro", "hard_stop")]


@given(
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(ENDINGS), st.booleans(), st.booleans()),
        max_size=60,
    )
)
async def test_whatever_happens_the_counts_agree(requests):
    """resolved is errors plus completed, the parts never exceed their whole, and only drawn requests are assigned."""
    rollout = Rollout()
    drawn = 0
    total = SideCounts()
    for u, (outcome, error, status, tried, _), guarded, pinned in requests:
        stopped = rollout.table.routes["r"].watch.stopped
        drawn += guarded and not pinned and not stopped
        rollout.ask(u, outcome, error, status, tried=tried, guarded=guarded, pin="a" if pinned else None)
        for counts in rollout.counts().values():
            total += counts

    assert total.assigned == drawn >= total.resolved + total.rejected
    assert total.resolved == total.errors + total.timed
    assert total.late <= total.slow <= total.timed
    assert total.priced == total.timed
    assert total.cost_usd2 >= total.cost_usd * 3.0  # one attempt costs 3 USD, two cost 6
