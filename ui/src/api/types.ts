// What the admin surface answers, as far as the page reads it. Times are Unix seconds, percentages 0..100,
// shares 0..1, money USD. Answers grow: members that are not named here are ignored.

export interface Missing {
  node: string | null;
  address: string | null;
  shards: number[];
  reason: string;
}

/** `incomplete` is null or missing on one node; in a cluster it names what could not be asked. */
export interface Gathered {
  incomplete?: Missing[] | null;
}

export interface TableArm {
  id: string;
  model: string;
  upstream: string | null;
  variant: string;
  parameters: Record<string, unknown>;
  percentage: number;
}

export interface TableSide {
  percentage: number;
  policy: string;
  baseline: string;
  arms: TableArm[];
}

export interface TableRollout {
  id: string;
  percentage: number;
  optimization?: string | null;
  name?: string | null;
  status?: Status | null;
  reason?: string | null;
  attempt?: number | null;
  stage?: number | null;
  stages?: number | null;
  started_at?: number | null;
  stage_started_at?: number | null;
  expected_s?: number | null;
}

export interface TableOverlay {
  optimization: string;
  name: string;
  strategy: string;
  deployed_at: number | null;
}

export interface TableRoute {
  name: string;
  match: string[];
  sticky: { by: string; header: string } | null;
  home: string | null;
  control: TableSide;
  candidate?: TableSide | null;
  rollout: TableRollout | null;
  deployed: TableOverlay[];
  context: { features_version: string; size: number; words: boolean; by_request: boolean } | null;
}

export interface Routes extends Gathered {
  table_version: number;
  published_at: number;
  config_hash: string;
  routes: TableRoute[];
}

/** A mean with its central 95 % interval; `weight` 0 means that only the prior speaks. */
export interface Estimate {
  mean: number;
  low: number;
  high: number;
  weight: number;
}

export interface Alarm {
  signal: string;
  before: number;
  after: number;
  keep: number;
  at: number;
}

export interface Arm {
  route: string;
  arm: string;
  model: string;
  variant: string;
  probability: number;
  pulls: number;
  share: number;
  success: Estimate;
  quality: Estimate | null;
  cost_usd: Estimate | null;
  latency_s: Estimate | null;
  ttft_s: Estimate | null;
  custom: Record<string, Estimate>;
  alarms: Alarm[];
}

export interface Kept {
  name: string;
  target: number;
  expected: number;
  actual: number | null;
  multiplier: number;
  feasible: boolean;
}

export interface Arms extends Gathered {
  table_version: number;
  arms: Arm[];
  steering: Record<string, { kept: Kept[]; gain: number }>;
}

export interface Figures {
  requests: number;
  completed: number;
  failed: number;
  error_rate_5m: number;
  cost_usd: number;
  cost_unknown_requests: number;
  tokens: number;
  latency_mean_s: number | null;
  latency_p50_s: number | null;
  latency_p95_s: number | null;
  cost_savings_usd: number | null;
}

export interface Summary extends Gathered {
  cost: { current: number | null; previous: number | null; reduction: number | null };
  latency: { p50_ms: number | null; p95_ms: number | null; p99_ms: number | null };
  quality: { score: number | null; trend: number | null };
  total: Figures;
  routes: Record<string, Figures & { quality_score: number | null }>;
}

/** Columns of buckets: entry i of every list belongs to `at[i]`. */
export interface History extends Gathered {
  from: number;
  to: number;
  step_s: number;
  at: number[];
  routes: RouteHistory[];
  arms: ArmHistory[] | null;
  candidate_share: (number | null)[] | null;
}

export interface RouteHistory {
  route: string;
  requests: number[];
  failed: number[];
  cost_usd: number[];
  saved_usd: (number | null)[];
}

export interface ArmHistory {
  arm: string;
  model: string;
  variant: string;
  requests: number[];
  failed: number[];
  cost_usd: number[];
  latency_p50_s: (number | null)[];
  latency_p95_s: (number | null)[];
  ttft_p50_s: (number | null)[];
  quality: (number | null)[];
  rated: number[];
}

export interface Saving {
  requests: number;
  unknown: number;
  actual_usd: number | null;
  baseline_usd: number | null;
  saved_usd: number | null;
  low_usd: number | null;
  high_usd: number | null;
  share: number | null;
  low_share: number | null;
  high_share: number | null;
}

export interface Savings extends Gathered {
  total: Saving;
  routes: Record<string, Saving>;
}

export type Signal = "quality" | "success" | "cost_usd" | "latency_s";

export interface Density {
  arm: string;
  mean: number;
  low: number;
  high: number;
  weight: number;
  x: number[];
  density: number[];
}

export interface Densities extends Gathered {
  route: string;
  signals: { signal: Signal; arms: Density[] }[];
}

export interface RequestRow {
  id: string;
  time: string | number;
  route: string;
  arm: string;
  served_by: string | null;
  model: string | null;
  variant: string | null;
  side: string | null;
  outcome: string;
  status: number | null;
  error: string | null;
  duration_ms: number | null;
  ttft_ms: number | null;
  cost_usd: number | null;
  stream: boolean;
  attempts: number;
  cached: boolean;
  endpoint: string;
}

export interface Requests extends Gathered {
  requests: RequestRow[];
  next: string | null;
}

export interface ScoreRow {
  arm: string;
  eligible: boolean;
  mean: number;
  deviation: number;
  value: number;
  penalties: number[];
  predicted_cost_usd: number | null;
  given: number;
  probability: number;
  recomputed: number;
}

/** The logged event of one request, and why it went where it went. */
export interface Decision {
  specversion: string;
  id: string;
  source: string;
  type: string;
  time: string;
  data: Record<string, unknown>;
  explanation: string[];
  decision: {
    features_version: string;
    features: { name: string; value: number }[];
    draw: number | null;
    policy_blob: string;
    arms: ScoreRow[] | null;
    low: number | null;
    high: number | null;
    difference: number | null;
  } | null;
}

export type Status =
  | "collecting"
  | "proposed"
  | "running"
  | "paused"
  | "deployed"
  | "rolled_back"
  | "aborted"
  | "superseded"
  | "deleted";

export type * from "./types_optimize.ts";
export type * from "./types_operation.ts";
