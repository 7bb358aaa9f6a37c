// Audit, configuration, health and the cluster.
import type { Gathered } from "./types.ts";

export interface AuditRow {
  id: string;
  at: number;
  actor: string;
  action: string;
  target: string;
  detail: Record<string, unknown>;
}

export interface Audit {
  audit: AuditRow[];
  next: string | null;
}

export interface Problem {
  path: string;
  message: string;
  suggestion: string | null;
  line?: number | null;
}

export interface Validated {
  valid: boolean;
  problems: Problem[];
  notes: string[];
  config_hash?: string | null;
  routes?: string[] | null;
}

export interface Reloaded {
  result: "applied" | "unchanged";
  config_hash: string;
  generation: number;
  table_version: number;
  needs_restart: string[];
  superseded: string[];
  notes: string[];
}

/** Figures beside the states come to operators only; their members differ by part. */
export interface Health {
  status: "healthy" | "degraded";
  components: Record<string, string>;
  timestamp: string;
  version?: string | null;
  uptime_seconds?: number | null;
  configuration?: Record<string, unknown> | null;
  table?: Record<string, unknown> | null;
  learning?: Record<string, unknown> | null;
  event_log?: Record<string, unknown> | null;
  breakers?: Record<string, string>[] | null;
  limits?: Record<string, unknown> | null;
  database?: Record<string, unknown> | null;
  workers?: Record<string, unknown> | null;
  engines?: Record<string, unknown> | null;
  ownership?: Record<string, unknown> | null;
  state_directory?: Record<string, unknown> | null;
  task_deaths?: Record<string, number> | null;
  kafka?: Record<string, unknown> | null;
}

export interface ClusterNode {
  node: string;
  address: string;
  age_s: number;
  program: string;
  owns: number[];
  late: number[];
  answers: boolean;
  reason: string | null;
  config_hash: string | null;
  clock_skew_s: number | null;
  engines_down: string[] | null;
  is_this: boolean;
}

export interface ClusterShard {
  shard: number;
  owner: string | null;
  reason: string | null;
  generation: number | null;
  offset: number | null;
  lag: number | null;
  snapshot_age_s: number | null;
  is_guarding: boolean | null;
}

export interface Cluster extends Gathered {
  enabled: boolean;
  node?: string | null;
  nodes?: ClusterNode[] | null;
  partitions?: number | null;
  shards?: ClusterShard[] | null;
  engines?: Record<string, { up: boolean | null; error: string; since: number; errors: number }> | null;
  feedback?: Record<string, number> | null;
  tables_unacknowledged_s?: number | null;
}
