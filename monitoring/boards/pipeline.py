"""Pipeline: everything between a request and what is learned from it: processes, log, tables, engines, exports."""

from typing import Final

from monitoring.boards.model import Board, Query, Row, grown, rate, series
from monitoring.boards.panels import GREEN, ORANGE, RED, lines, number, states, table


def _each(name: str) -> str:
    return f"max by (instance) ({series(name)})"


_GLANCE: Final = Row(
    "At a glance",
    (
        number(
            "Nodes",
            "Whose optimizer process answers.",
            Query(f"sum({series('optimizer_up')})"),
            decimals=0,
        ),
        number("Workers", "That have reported within 6 s.", Query(f"sum({series('worker_up')})"), decimals=0),
        number(
            "Behind",
            "Age of the oldest event that is not learned from, on the slowest node.",
            Query(f"max({series('ingest_lag_seconds')})"),
            unit="s",
            steps=((None, GREEN), (10.0, ORANGE), (60.0, RED)),
        ),
        number(
            "Events lost",
            "Within the time shown. Each is a request or a rating that nobody will learn from.",
            Query(f"sum({grown('events_lost_total')})", instant=True),
            steps=((None, GREEN), (0.5, RED)),
            decimals=0,
        ),
        number(
            "Configuration",
            "Whether the last reload was accepted on every node.",
            Query(f"min({series('config_last_reload_successful')})"),
            words=((0, "refused", RED), (1, "accepted", GREEN)),
        ),
        number(
            "Table",
            "Age of the newest published routing table.",
            Query(f"time() - max({series('table_published_timestamp_seconds')})"),
            unit="s",
        ),
    ),
)
_LOG: Final = Row(
    "Log and learning",
    (
        lines(
            "Events read",
            "Per second, from the log.",
            Query(f"sum by (instance) ({rate('events_read_total')})", "{{instance}}"),
            unit="ops",
        ),
        lines(
            "Not learned yet",
            "Bytes of the log.",
            Query(_each("ingest_lag_bytes"), "{{instance}}"),
            unit="bytes",
        ),
        lines(
            "Learning is behind by",
            "Age of the oldest event that is not learned from.",
            Query(_each("ingest_lag_seconds"), "{{instance}}"),
            unit="s",
        ),
        lines(
            "Size of the log",
            "On disk; `event_log` bounds it.",
            Query(f"sum by (instance) ({series('log_bytes')})", "{{instance}}"),
            unit="bytes",
        ),
        lines(
            "Lost by reason",
            "In the last 10 minutes by reason.",
            Query(
                f"sum by (instance, reason) (increase({series('events_lost_total')}[10m])) > 0",
                "{{instance}} · {{reason}}",
            ),
        ),
        lines(
            "Left out and failed",
            "In the last 10 minutes: what the reader of the log had to leave out, steps that failed, "
            "tasks that started again.",
            Query(f"sum by (reason) (increase({series('ingest_errors_total')}[10m])) > 0", "{{reason}}"),
            Query(f"sum by (task) (increase({series('task_deaths_total')}[10m])) > 0", "task {{task}}"),
        ),
        lines(
            "Slow disk",
            "Times in the last 10 minutes that lines of the log had to wait in memory, and the bytes that "
            "wait now.",
            Query(
                f"sum by (instance) (increase({series('log_diversions_total')}[10m]))", "{{instance}}, times"
            ),
            Query(f"sum by (instance) ({series('worker_log_queued_bytes')})", "{{instance}}, bytes now"),
            Query(f"sum by (instance) ({series('worker_log_diverted')})", "{{instance}}, workers now"),
        ),
        lines(
            "Versions of the table",
            "Published, and the oldest that a worker uses. They should be one line.",
            Query(_each("table_version"), "{{instance}}, published"),
            Query(f"min by (instance) ({series('worker_table_version')})", "{{instance}}, in use"),
            least=None,
        ),
    ),
)
_WORKERS: Final = Row(
    "Workers",
    (
        lines(
            "CPU",
            "Cores that workers use. One worker uses one core at most.",
            Query(
                f"sum by (instance, worker) ({rate('worker_cpu_seconds_total')})", "{{instance}} · {{worker}}"
            ),
        ),
        lines(
            "Memory",
            "Resident memory of workers, and bodies and unsent replies among it.",
            Query(f"sum by (instance) ({series('worker_rss_bytes')})", "{{instance}}, resident"),
            Query(f"sum by (instance) ({series('worker_buffered_bytes')})", "{{instance}}, bodies"),
            unit="bytes",
        ),
        lines(
            "Under way",
            "Requests that workers answer, and connections of clients.",
            Query(f"sum by (instance) ({series('worker_in_flight')})", "{{instance}}, requests"),
            Query(f"sum by (instance) ({series('worker_connections')})", "{{instance}}, connections"),
        ),
        lines(
            "Delay of event loops",
            "The worst lately. Everything that a worker does waits so long.",
            Query(
                f"max by (instance, worker) ({series('worker_loop_lag_seconds')})",
                "{{instance}} · {{worker}}",
            ),
            unit="s",
        ),
        lines(
            "Refused to stay alive",
            "Per second: requests that workers refused because they were behind, and connections that "
            "were cut for reading slowly.",
            Query(f"sum by (instance) ({rate('requests_shed_total')})", "{{instance}}, shed"),
            Query(f"sum by (instance) ({rate('slow_readers_evicted_total')})", "{{instance}}, evicted"),
            unit="ops",
        ),
        lines(
            "Files refused",
            "Tables, key files and files of contextual routes that workers did not take; they go on with "
            "what they had.",
            Query(f"sum by (instance) ({series('worker_refused_tables')})", "{{instance}}, tables"),
            Query(f"sum by (instance) ({series('worker_refused_key_files')})", "{{instance}}, keys"),
            Query(
                f"sum by (instance, reason) ({series('worker_index_refused')}) > 0",
                "{{instance}}, {{reason}}",
            ),
        ),
        table(
            "Each worker",
            "As of its last report.",
            (
                ("Up for", "s", f"max by (instance, worker) ({series('worker_uptime_seconds')})"),
                ("Memory", "bytes", f"max by (instance, worker) ({series('worker_rss_bytes')})"),
                ("Under way", "short", f"max by (instance, worker) ({series('worker_in_flight')})"),
                ("Table", "none", f"max by (instance, worker) ({series('worker_table_version')})"),
                (
                    "Sees its optimizer",
                    "bool_yes_no",
                    f"max by (instance, worker) ({series('worker_guarded')})",
                ),
            ),
            ("instance", "worker"),
        ),
    ),
)
_KAFKA: Final = Row(
    "Kafka",
    (
        states(
            "Kafka",
            "Whether it is connected. While it is away requests are served and events wait on the disk.",
            Query(_each("kafka_up"), "{{instance}}"),
            words=((0, "away", RED), (1, "connected", GREEN)),
            width=12,
        ),
        lines(
            "Not shipped yet",
            "Bytes of the log.",
            Query(_each("kafka_lag_bytes"), "{{instance}}"),
            unit="bytes",
        ),
        lines(
            "Events",
            "Per second: confirmed, sent again, put aside for good.",
            Query(f"sum({rate('kafka_delivered_total')})", "confirmed"),
            Query(f"sum({rate('kafka_retried_total')})", "again"),
            Query(f"sum({rate('kafka_dead_lettered_total')})", "put aside"),
            Query(f"sum({rate('kafka_errors_total')})", "failed attempts"),
            unit="ops",
        ),
        lines(
            "Ratings from Kafka",
            "Records on the feedback topic per second.",
            Query(f"sum by (result) ({rate('kafka_feedback_total')})", "{{result}}"),
            unit="ops",
        ),
    ),
)
_TRACES: Final = Row(
    "Traces",
    (
        states(
            "Collector",
            "Whether it took the last spans. Only with `tracing` in the configuration.",
            Query(_each("traces_up"), "{{instance}}"),
            words=((0, "away", RED), (1, "takes spans", GREEN)),
            width=8,
        ),
        lines(
            "Spans",
            "Per second: taken by the collector, calls that failed, and those left out by reason.",
            Query(f"sum({rate('traces_delivered_total')})", "taken"),
            Query(f"sum({rate('traces_errors_total')})", "failed calls"),
            Query(f"sum by (reason) ({rate('traces_lost_total')})", "{{reason}}"),
            unit="ops",
            width=8,
        ),
        lines(
            "Not sent yet",
            "Bytes of the log; half of a GB at most waits.",
            Query(_each("traces_lag_bytes"), "{{instance}}"),
            unit="bytes",
            width=8,
        ),
    ),
)
_CLUSTER: Final = Row(
    "Cluster",
    (
        states(
            "Engines",
            "Whether the last call was answered. None of them holds a request up.",
            Query(f"min by (instance, engine) ({series('engine_up')})", "{{instance}} · {{engine}}"),
            words=((0, "away", RED), (1, "answers", GREEN)),
            width=12,
        ),
        lines(
            "Calls that failed",
            "Per second.",
            Query(f"sum by (engine) ({rate('engine_errors_total')})", "{{engine}}"),
            unit="ops",
        ),
        lines(
            "Nodes and shards",
            "Nodes that each node hears of; shards with an owner and shards that wait for one.",
            Query(_each("cluster_nodes"), "{{instance}}, nodes"),
            Query(f"sum({series('shards_owned')})", "shards owned"),
            Query(f"sum({series('shards_waiting')})", "shards waiting"),
        ),
        lines(
            "Records not learned",
            "Of a shard's partition, at its owner.",
            Query(f"max by (shard) ({series('shard_lag_records')})", "shard {{shard}}"),
        ),
        lines(
            "Age of snapshots",
            "Time since what a shard learned was saved.",
            Query(f"max by (shard) ({series('shard_snapshot_age_seconds')})", "shard {{shard}}"),
            unit="s",
        ),
        lines(
            "Tables between nodes",
            "For how long the oldest table of an own shard is not used everywhere, and tables that are "
            "published per second.",
            Query(_each("table_unacknowledged_seconds"), "{{instance}}, s"),
            Query(f"sum by (instance) ({rate('table_publications_total')})", "{{instance}}, published"),
        ),
        lines(
            "Changes of owners",
            "Tenure of each shard (it grows with every change), and tenures that ended because another "
            "node had it.",
            Query(f"max by (shard) ({series('shard_generation')})", "shard {{shard}}"),
            Query(f"sum({series('tenures_fenced_total')})", "ended by another node"),
        ),
        lines(
            "Feedback between nodes",
            "Per second, about requests that another node decided.",
            Query(f"sum by (result) ({rate('feedback_forwarding_total')})", "{{result}}"),
            unit="ops",
        ),
    ),
)
_CONFIG: Final = Row(
    "Configuration and product",
    (
        lines(
            "Reloads",
            "In the last hour by result.",
            Query(
                f"sum by (instance, result) (increase({series('config_reloads_total')}[1h]))",
                "{{instance}}, {{result}}",
            ),
        ),
        table(
            "Each node",
            "What each runs. Nodes of a cluster should have one version and one configuration.",
            (
                ("Runs", "short", f"max by (instance, version) ({series('build_info')})"),
                ("Configurations", "none", f"max by (instance, hash, generation) ({series('config_info')})"),
            ),
            ("instance", "version", "hash", "generation"),
            width=12,
            height=8,
        ),
        lines(
            "Series left out",
            "Label combinations folded into `other`, in the last hour.",
            Query(
                f"sum by (instance) (increase({series('metric_series_dropped_total')}[1h]))", "{{instance}}"
            ),
        ),
        lines(
            "Limits not stored",
            "Reports of workers on limits in the last hour that could not be stored; budgets grant "
            "nothing then.",
            Query(
                f"sum by (instance) (increase({series('limit_reports_unstored_total')}[1h]))", "{{instance}}"
            ),
        ),
    ),
)

BOARD: Final = Board(
    "pipeline",
    "Pipeline",
    "Log, learning, workers, Kafka, the cluster and configuration: is everything that a request sets off "
    "being done?",
    rows=(_GLANCE, _LOG, _WORKERS, _KAFKA, _TRACES, _CLUSTER, _CONFIG),
)
