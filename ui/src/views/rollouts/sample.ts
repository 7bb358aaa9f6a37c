// An optimization for the tests of this folder; every test says what differs.
import type { Optimization, Plan, Verdict } from "../../api/types.ts";

export const PLAN: Plan = {
  stages: [
    { percentage: 5, duration_s: 600, min_samples: 100, max_wait_s: 0 },
    { percentage: 50, duration_s: 600, min_samples: 100, max_wait_s: 0 },
    { percentage: 100, duration_s: 0, min_samples: 0, max_wait_s: 0 },
  ],
  checks: {
    enabled: true,
    interval_s: 5,
    error_rate: 0.05,
    latency_p95_ms: null,
    cost_per_request_usd: null,
    quality_ratio: null,
    non_inferiority_margin: null,
  },
  approval: false,
};

export function verdict(guard: string, more: Partial<Verdict> = {}): Verdict {
  return {
    guard,
    verdict: "insufficient",
    alpha: 0.0075,
    control: null,
    candidate: null,
    threshold: null,
    e_value: null,
    low: null,
    high: null,
    control_samples: 0,
    candidate_samples: 0,
    control_fails: false,
    samples: 0,
    ...more,
  };
}

export function optimization(more: Partial<Optimization> = {}): Optimization {
  return {
    id: "opt_1",
    name: "cheaper",
    strategy: "manual",
    route: "chat",
    parameters: {},
    status: "running",
    revision: 4,
    origin: "api",
    created_at: 1000,
    updated_at: 1100,
    reason: "",
    explanation: "",
    auto_deploy: false,
    proposal: {
      candidate: { arms: ["new"], baseline: "new", policy: null, objectives: null },
      summary: "the new one",
      effects: [],
      samples: {},
      confidence: 0.95,
      made_at: 1010,
      saving_usd_per_day: null,
    },
    rollout: {
      id: "ro_1",
      attempt: 1,
      plan: PLAN,
      base: {},
      started_at: 1050,
      stage: 0,
      stage_started_at: 1050,
      waited_from: 1050,
      reference_ms: null,
      expected_s: null,
    },
    measured: { guards: {}, needs: null },
    deployed_at: null,
    attempts: 1,
    candidate_percentage: 5,
    metrics: { cost_reduction: null, quality_score: null, deployment_percentage: 5 },
    plan: PLAN,
    config_hash: "abc",
    verbs: ["promote", "pause", "rollback", "abort"],
    ...more,
  };
}
