// The parts of /health/detailed with their state in words, and what to do where one is not well. Pure.
import { isRecord } from "../../api/error.ts";
import type { Health } from "../../api/types.ts";
import { bytes as sized, seconds as duration } from "../../parts/format.ts";

export type State = "healthy" | "degraded" | "off" | "unknown";

export interface Part {
  name: string;
  title: string;
  state: State;
  /** How it is now, with figures where there are any. */
  says: string;
  /** What to do; empty while it is well. */
  advice: string;
}

interface About {
  title: string;
  well: (health: Health) => string;
  ill: (health: Health) => string;
  advice: string;
}

const ABOUT: Record<string, About> = {
  optimizer: {
    title: "Optimizer",
    well: (health) => joined(uptime(health), version(health)),
    ill: (health) => joined("A task of the optimizer process has died and is being started again", deaths(health)),
    advice: "Look for “task” in its log. Requests are served meanwhile; learning or rollouts may stand still.",
  },
  workers: {
    title: "Workers",
    well: (health) => `${count(health.workers)}.`,
    ill: () => "No worker has reported in the last seconds.",
    advice: "See whether the worker processes run; the supervisor's log says why one ended.",
  },
  learning: {
    title: "Learning",
    well: (health) => `${figure(health.learning, "events", 0)} events learned${lag(health)}.`,
    ill: (health) => `It is ${seconds(health.learning, "lag_seconds")} behind the log (${bytes(health.learning, "lag_bytes")}).`,
    advice: "It catches up by itself when the machine has time. If the lag grows, give the optimizer process more of a core.",
  },
  event_log: {
    title: "Event log",
    well: (health) => `${bytes(health.event_log, "bytes")} on the disk, nothing lost.`,
    ill: (health) => `Events were lost: ${lost(health)}.`,
    advice: "Look at the disk of the state directory. Lost events can not be learned from; requests are not affected.",
  },
  breakers: {
    title: "Breakers",
    well: () => "All closed.",
    ill: (health) => breakers(health),
    advice: "The upstream fails. Requests go to other arms and fallbacks; the breaker tries again by itself.",
  },
  limits: {
    title: "Limits",
    well: () => "What is used up is stored.",
    ill: (health) => `${figure(health.limits, "unstored_reports", 0)} reports of what was used are not stored.`,
    advice: "Look at the disk of the state directory: after a restart, limits would count from an older state.",
  },
  database: {
    title: "Database",
    well: (health) => joined("It answers", pending(health)),
    ill: (health) => joined(text(health.database, "error") || "It does not answer", pending(health)),
    advice: "Giving traffic to a candidate is refused until it is back. Pausing, aborting and rolling back work.",
  },
  guards: {
    title: "Guards",
    well: () => "Rollouts are guarded.",
    ill: () => "Nobody guards rollouts now, so workers give candidates no traffic.",
    advice: "See what else is degraded: guarding needs the log, the routing table and, in a cluster, an owner of the shard.",
  },
  configuration: {
    title: "Configuration",
    well: (health) => joined(`Generation ${figure(health.configuration, "generation", 1)}`, notes(health)),
    ill: () => "The last reload was refused; the configuration before it is in use.",
    advice: "The Config page shows every problem of the file when you validate it or reload.",
  },
  kafka: {
    title: "Kafka",
    well: (health) => joined(`${figure(health.kafka, "delivered", 0)} events delivered`, `${bytes(health.kafka, "lag_bytes")} to be shipped`),
    ill: (health) => joined(text(health.kafka, "error") || "It does not answer", `${bytes(health.kafka, "lag_bytes")} wait on the disk`),
    advice: "Events wait in the local log and are shipped when it is back. See that brokers and network are up.",
  },
  redis: {
    title: "Redis",
    well: (health) => engine(health, "redis"),
    ill: (health) => engine(health, "redis"),
    advice: "The last routing tables stay; no stage of a rollout advances until it is back.",
  },
  postgresql: {
    title: "PostgreSQL",
    well: (health) => engine(health, "postgresql"),
    ill: (health) => engine(health, "postgresql"),
    advice: "Rollbacks work; giving traffic to a candidate is refused until it is back.",
  },
  ownership: {
    title: "Ownership",
    well: (health) => `This node learns ${list(health.ownership, "owns")} of ${figure(health.ownership, "shards", 0)} shards.`,
    ill: (health) => text(health.ownership, "error") || "Some shards have no owner.",
    advice: "Shards move within seconds when nodes come and go. If it stays, look at Kafka and PostgreSQL.",
  },
  tracing: {
    title: "Traces",
    well: (health) => `${figure((health as { tracing?: unknown }).tracing, "delivered", 0)} spans delivered.`,
    ill: (health) => text((health as { tracing?: unknown }).tracing, "error") || "The collector does not take spans.",
    advice: "Requests are not affected. What can not be sent for too long is left out and counted.",
  },
  state_directory: {
    title: "State directory",
    well: () => "On a disk.",
    ill: (health) => text(health.state_directory, "error") || "In memory only: a restart forgets everything.",
    advice: "Give it a volume that can be written (--state-dir).",
  },
};

/** Degraded parts first, then in the order of the answer. */
export function partsOf(health: Health): Part[] {
  const found = Object.entries(health.components).map(([name, state]) => part(name, state, health));
  return [...found.filter((one) => one.state === "degraded"), ...found.filter((one) => one.state !== "degraded")];
}

function part(name: string, word: string, health: Health): Part {
  const about = ABOUT[name];
  const state: State = word === "healthy" || word === "degraded" || word === "off" ? word : "unknown";
  const title = about?.title ?? name.replaceAll("_", " ");
  if (state === "off") return { name, title, state, says: "Not used.", advice: "" };
  if (about === undefined || state === "unknown") return { name, title, state, says: word, advice: "" };
  const isIll = state === "degraded";
  return { name, title, state, says: isIll ? about.ill(health) : about.well(health), advice: isIll ? about.advice : "" };
}

export interface Worker {
  name: string;
  rss_bytes: number | null;
  in_flight: number | null;
  connections: number | null;
  loop_lag_ms: number | null;
  table_version: number | null;
  uptime_s: number | null;
  isBehind: boolean;
}

const SETTLED_S = 5;

/** Workers by number; `isBehind`: it uses an older table than the one published some seconds ago. */
export function workersOf(health: Health): Worker[] {
  // A table that was published this moment is on its way to the workers.
  const age = Date.parse(health.timestamp) / 1000 - (read(health.table, "published_at") ?? 0);
  const newest = age > SETTLED_S ? read(health.table, "version") : null;
  return Object.entries(health.workers ?? {})
    .map(([name, data]): Worker => {
      const of = (field: string): number | null => read(data, field);
      const table = of("table_version");
      return {
        name,
        rss_bytes: of("rss_bytes"),
        in_flight: of("in_flight"),
        connections: of("connections"),
        loop_lag_ms: of("loop_lag_ms"),
        table_version: table,
        uptime_s: of("uptime_s"),
        isBehind: table !== null && newest !== null && table < newest,
      };
    })
    .sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
}

function read(part: unknown, name: string): number | null {
  const value = isRecord(part) ? part[name] : undefined;
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function text(part: unknown, name: string): string {
  const value = isRecord(part) ? part[name] : undefined;
  return typeof value === "string" ? value : "";
}

function figure(part: unknown, name: string, otherwise: number): string {
  return (read(part, name) ?? otherwise).toLocaleString("en");
}

function seconds(part: unknown, name: string): string {
  return duration(read(part, name) ?? 0);
}

/** It looks at the log a few times a second, so a moment is no lag. */
function lag(health: Health): string {
  return (read(health.learning, "lag_seconds") ?? 0) < 5 ? ", keeps up" : `, ${seconds(health.learning, "lag_seconds")} behind`;
}

function bytes(part: unknown, name: string): string {
  return sized(read(part, name) ?? 0);
}

function list(part: unknown, name: string): string {
  const value = isRecord(part) ? part[name] : undefined;
  return Array.isArray(value) ? String(value.length) : "0";
}

function count(part: unknown): string {
  const found = isRecord(part) ? Object.keys(part).length : 0;
  return found === 1 ? "1 worker reports" : `${found} workers report`;
}

function joined(...sentences: string[]): string {
  const said = sentences.filter((one) => one !== "");
  return said.length === 0 ? "" : `${said.join("; ").replace(/\.$/, "")}.`;
}

function uptime(health: Health): string {
  const value = health.uptime_seconds;
  return value === null || value === undefined ? "" : `Up for ${duration(value)}`;
}

function version(health: Health): string {
  return health.version ? `version ${health.version}` : "";
}

function deaths(health: Health): string {
  const found = Object.entries(health.task_deaths ?? {}).filter(([, times]) => times > 0);
  return found.map(([task, times]) => `${task} ${times}×`).join(", ");
}

function lost(health: Health): string {
  const found = isRecord(health.event_log) && isRecord(health.event_log["lost"]) ? health.event_log["lost"] : {};
  const told = Object.entries(found).filter(([, number]) => Number(number) > 0);
  return told.map(([why, number]) => `${String(number)} (${why.replaceAll("_", " ")})`).join(", ") || "how many is not known";
}

function breakers(health: Health): string {
  const found = health.breakers ?? [];
  if (found.length === 0) return "A breaker is open.";
  const told = found.map((row) => `${row["upstream"] ?? "?"} / ${row["model"] ?? "?"} is ${(row["state"] ?? "?").replaceAll("_", " ")}`);
  return `${told.join("; ")}.`;
}

function pending(health: Health): string {
  const rows = read(health.database, "pending_rows") ?? 0;
  return rows > 0 ? `${rows} rows wait to be written` : "";
}

function notes(health: Health): string {
  const found = isRecord(health.configuration) ? health.configuration["notes"] : undefined;
  const number = Array.isArray(found) ? found.length : 0;
  return number > 0 ? `${number} ${number === 1 ? "note" : "notes"} on the file` : "";
}

function engine(health: Health, name: string): string {
  const found = isRecord(health.engines) ? health.engines[name] : undefined;
  const error = text(found, "error");
  const errors = read(found, "errors") ?? 0;
  const up = isRecord(found) ? found["up"] : null;
  if (up === false) return error || "It does not answer.";
  return errors > 0 ? `It answers; ${errors} calls failed so far.` : "It answers.";
}
