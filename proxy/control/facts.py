"""Gathers what a scrape and the health page show, from the parts that know it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from optimizer.judging.rubric import source_of
from optimizer.rollouts.transitions import TRANSITIONS
from proxy.control.core import Core
from proxy.control.metrics.exposition import ConfigFacts, Facts
from proxy.control.metrics.judging import JudgeFacts, JudgeState
from proxy.control.metrics.limits import LimitFacts, limit_facts
from proxy.control.metrics.rollouts import RolloutFacts, fractions_of, statuses_of
from proxy.control.product import product_version

if TYPE_CHECKING:
    from proxy.control.runtime import Runtime

_FEEDBACK = "feedback_"
# Shown from the start, so that a first failure is an increase and not a new series.
FEEDBACK_RESULTS: Final = (
    *("accepted", "learned", "repeated", "late", "too_many_sources", "out_of_range"),
    *("unknown_request", "unknown_metric", "not_optimized", "not_completed", "continued", "on_failure"),
    *("dropped", "expired", "joined", "foreign", "cached"),
)
KAFKA_GAUGES: Final = ("up", "lag_bytes")
KAFKA_COUNTERS: Final = ("delivered", "retried", "dead_lettered", "errors")
INGEST_ERRORS: Final = (
    "torn",
    "invalid",
    "dropped_segments",
    "read_errors",
    "consumer_errors",
    "step_errors",
    "context",
)


class FactSource:
    """Called for ``Facts``; reads, never changes."""

    def __init__(self, core: Core, runtime: "Runtime") -> None:
        self._core = core
        self._runtime = runtime
        self._version = product_version()

    def __call__(self) -> Facts:
        """The present facts."""
        core, runtime = self._core, self._runtime
        configuration, table = core.configuration, core.learners.table
        learnings, peers = core.learners.all(), runtime.services.peers
        now = core.now()
        marks = runtime.watermarks
        gauges, counters = self._kafka()
        return Facts(
            now=now,
            version=self._version,
            config=ConfigFacts(
                config_hash=configuration.settings.config_hash,
                generation=configuration.generation,
                last_successful=configuration.last_successful,
                last_success_at=configuration.last_success_at,
            ),
            table_version=core.learners.table_version,
            table_published_at=table.published_at if table is not None else 0.0,
            reports=runtime.services.reports(),
            savings_usd={route: usd for one in learnings for route, usd in one.savings_usd().items()},
            custom=configuration.settings.custom_metrics,
            feedback=self._feedback(),
            lost=self._lost(),
            log_bytes=marks.sweep.stored_bytes if marks.sweep is not None else 0,
            ingest_lag_s=now - marks.caught_up_at if marks.lag_bytes else 0.0,
            ingest_lag_bytes=marks.lag_bytes,
            ingest_events=core.ingest.counts["events"],
            ingest_errors=self._ingest_errors(),
            log_diversions=core.journal.writer.diversions,
            limits=self._limits(),
            rollouts=self._rollouts(now),
            judging=self._judging(),
            steering=runtime.services.steering(),
            drift=tuple(row for one in learnings for row in one.drift.series()),
            task_deaths=self._task_deaths(),
            tasks_down=len(runtime.tasks.down),
            kafka=gauges,
            kafka_error=self._kafka_error(),
            kafka_counters=counters,
            kafka_feedback=runtime.kafka.feedback,
            traces=runtime.tracing.facts,
            cluster=peers.facts() if peers is not None else None,
        )

    def _rollouts(self, now: float) -> RolloutFacts:
        learnings, runtime = self._core.learners.all(), self._runtime
        controllers = [one.optimizing.controller for one in learnings]
        books = [one.optimizing.book for one in learnings]
        # In a cluster a node shows the routes that it drives, so that sums over nodes are right.
        routes = [route.name for one in learnings for route in one.settings.routes]
        # Every verb from the start, so that a first rollback is an increase and not a new series.
        transitions: Counter[str] = Counter(dict.fromkeys((row.verb for row in TRANSITIONS), 0))
        for controller in controllers:
            transitions.update(controller.transitions)
        return RolloutFacts(
            statuses=statuses_of(record for book in books for record in book.all()),
            candidate_fractions=fractions_of(routes, (one for book in books for one in book.overlaying())),
            transitions=transitions,
            guard_age_s=max((max(now - one.optimizing.watched_at, 0.0) for one in learnings), default=0.0),
            store_up=not any(controller.store_away for controller in controllers),
            store_errors=sum(controller.store_retries for controller in controllers),
            pending_rows=sum(one.pending_rows + one.pending_records for one in controllers),
            unpublished_takes=any(controller.unpublished_takes for controller in controllers),
            webhooks=runtime.webhooks.counts,
            webhooks_waiting=runtime.webhooks.waiting,
        )

    def _judging(self) -> JudgeFacts:
        core, judge = self._core, self._runtime.judge
        paused = judge.paused
        states = {}
        for route in core.settings.routes:
            if route.judge is None:
                continue
            source = source_of(route.judge.name, route.judge.version)
            states[route.name] = JudgeState(
                name=route.judge.name,
                model=route.judge.model,
                version=route.judge.version,
                rate=route.judge.rate,
                spent_usd=judge.spent_usd(source),
                usd_per_day=route.judge.usd_per_day,
                word=paused.get(source),
            )
        totals: Counter[tuple[str, str, str]] = Counter()
        costs: dict[str, float] = {}
        for learning in core.learners.all():
            totals.update(learning.judgements.totals)
            costs |= learning.judgements.cost_usd
        return JudgeFacts(states, totals, costs, core.observer.samples, judge.waiting)

    def _feedback(self) -> dict[str, int]:
        counts = self._core.ingest.learner.counts
        return {result: counts[_FEEDBACK + result] for result in FEEDBACK_RESULTS}

    def _ingest_errors(self) -> dict[str, int]:
        ingest = self._core.ingest
        # What is wrong with a vector is noticed by the learner, later than what is wrong with its event.
        known = {**ingest.counts, "context": ingest.learner.counts["context_refused"]}
        return {reason: known.get(reason, 0) for reason in INGEST_ERRORS}

    def _task_deaths(self) -> Counter[str]:
        # Reloads are numbered, and a label for each would be one too many.
        lasting = (name for name in self._runtime.tasks.names if not name[-1].isdigit())
        deaths: Counter[str] = Counter(dict.fromkeys(lasting, 0))
        for name, count in self._runtime.tasks.deaths.items():
            deaths[name.rstrip("0123456789").rstrip("-")] += count
        return deaths

    def _limits(self) -> LimitFacts:
        leases, settings = self._core.leases, self._core.configuration.settings
        return limit_facts(leases.meters(), settings.routes, unstored=leases.unstored)

    def _lost(self) -> dict[str, int]:
        lost = dict(self._core.journal.writer.lost)
        lost["retention_unread"] = self._runtime.watermarks.unread_lost
        lost["malformed"] = self._core.ingest.counts["malformed"]
        return lost

    def _kafka_error(self) -> str:
        """Why nothing is shipped at present."""
        return "; ".join(sink.stats.last_error for sink in self._runtime.kafka.sinks if not sink.stats.up)

    def _kafka(self) -> tuple[Mapping[str, float] | None, Mapping[str, float] | None]:
        for sink in self._runtime.kafka.sinks:
            if sink.name == "kafka":
                stats: dict[str, Any] = asdict(sink.stats)
                gauges = {name: float(stats[name]) for name in KAFKA_GAUGES}
                return gauges, {name: float(stats[name]) for name in KAFKA_COUNTERS}
        return None, None
