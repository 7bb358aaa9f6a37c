// Optimizations and their rollouts, as `/api/v1/optimize` answers them.
import type { Gathered, Status } from "./types.ts";

export interface Effect {
  metric: string;
  unit: string;
  baseline: number;
  candidate: number;
  change: number;
  low: number;
  high: number;
}

export interface Candidate {
  arms: string[] | null;
  baseline: string | null;
  policy: {
    name: string;
    floor: number;
    min_pulls: number;
    half_life_s: number;
    max_memory: number;
    prior_strength: number;
    epsilon: number;
    fixed: Record<string, number>;
  } | null;
  objectives: { metric: string; weight: number; maximize: boolean; scale: number | null }[] | null;
  constraints?: {
    cost_per_request_usd: number | null;
    cost_per_day_usd: number | null;
    cost_ratio: number | null;
    max_request_usd: number | null;
    quality_floor: number | null;
    quality_ratio: number | null;
    latency_p95_ms: number | null;
  } | null;
}

export interface Proposal {
  candidate: Candidate;
  summary: string;
  effects: Effect[];
  samples: Record<string, number>;
  confidence: number;
  made_at: number;
  saving_usd_per_day: number | null;
  quality_ratio?: number | null;
}

export interface Stage {
  percentage: number;
  duration_s: number;
  min_samples: number;
  max_wait_s: number;
}

export interface Plan {
  stages: Stage[];
  checks: {
    enabled: boolean;
    interval_s: number;
    error_rate: number | null;
    latency_p95_ms: number | null;
    cost_per_request_usd: number | null;
    quality_ratio: number | null;
    non_inferiority_margin: number | null;
  };
  approval: boolean;
}

/** One attempt to bring the proposal to traffic. `stage` counts from 0. */
export interface Rollout {
  id: string;
  attempt: number;
  plan: Plan;
  base: Record<string, string>;
  started_at: number;
  stage: number;
  stage_started_at: number;
  waited_from: number;
  reference_ms: number | null;
  expected_s: number | null;
}

export interface Verdict {
  verdict: "pass" | "fail" | "insufficient";
  guard: string;
  alpha: number;
  control: number | null;
  candidate: number | null;
  threshold: number | null;
  e_value: number | null;
  low: number | null;
  high: number | null;
  control_samples: number;
  candidate_samples: number;
  control_fails: boolean;
  samples: number | null;
}

export interface Needs {
  waits_for: "" | "time" | "samples" | "margin" | "person";
  explanation: string;
  time_s: number;
  samples: number | null;
  expected_s: number | null;
  pauses_in_s: number | null;
}

export type Verb = "deploy" | "pause" | "resume" | "promote" | "retry" | "abort" | "rollback" | "delete";

export interface Optimization {
  id: string;
  name: string;
  strategy: string;
  route: string;
  parameters: Record<string, unknown>;
  status: Status;
  revision: number;
  origin: "api" | "loop";
  created_at: number;
  updated_at: number;
  reason: string;
  explanation: string;
  auto_deploy: boolean;
  proposal: Proposal | null;
  rollout: Rollout | null;
  measured: { guards: Record<string, Verdict>; needs: Needs | null };
  deployed_at: number | null;
  attempts: number;
  candidate_percentage: number;
  metrics: { cost_reduction: number | null; quality_score: number | null; deployment_percentage: number };
  plan: Plan;
  config_hash: string;
  verbs: string[];
}

export interface Optimizations extends Gathered {
  optimizations: Optimization[];
  total: number;
  limit: number;
  offset: number;
}
