// The stages of a rollout with what became of each, and how far the present one is. Pure.
import type { Optimization, Stage } from "../../api/types.ts";
import { isSplitting } from "./model.ts";

export type StageState = "passed" | "now" | "held" | "failed" | "ahead";

export interface Step {
  /** Counts from 1. */
  number: number;
  percentage: number;
  duration_s: number;
  min_samples: number;
  state: StageState;
  /** Of the present stage. */
  time: { done_s: number; share: number } | null;
  samples: { done: number; share: number } | null;
}

const ENDED = new Set(["rolled_back", "aborted", "superseded"]);

/** Every stage of the plan in use; the last step is all traffic, also where the plan does not write it down. */
export function stepsOf(row: Optimization, now: number): Step[] {
  // All traffic without a time to last is no stage: nothing is waited for in it.
  const stages = row.plan.stages.map((stage) => (isForGood(stage) ? { ...stage, min_samples: 0 } : stage));
  const last = stages[stages.length - 1];
  if (last === undefined || last.percentage < 100) {
    stages.push({ percentage: 100, duration_s: 0, min_samples: 0, max_wait_s: 0 });
  }
  return stages.map((stage, index) => {
    const state = stateOf(row, index);
    const isPresent = state === "now" || state === "held" || (state === "failed" && isSplitting(row));
    return {
      number: index + 1,
      percentage: stage.percentage,
      duration_s: stage.duration_s,
      min_samples: stage.min_samples,
      state,
      time: isPresent && row.rollout !== null ? elapsed(stage.duration_s, now - row.rollout.stage_started_at) : null,
      samples: state === "ahead" || state === "passed" ? null : counted(row, stage.min_samples),
    };
  });
}

function isForGood(stage: Stage): boolean {
  return stage.percentage >= 100 && stage.duration_s <= 0;
}

function stateOf(row: Optimization, index: number): StageState {
  if (row.status === "deployed") return "passed";
  if (row.rollout === null || row.status === "collecting" || row.status === "proposed") return "ahead";
  if (index < row.rollout.stage) return "passed";
  if (index > row.rollout.stage) return "ahead";
  if (ENDED.has(row.status)) return row.deployed_at !== null ? "passed" : "failed";
  return row.status === "paused" ? "held" : "now";
}

function elapsed(duration_s: number, since: number): Step["time"] {
  const done_s = Math.max(since, 0);
  return { done_s, share: duration_s > 0 ? Math.min(done_s / duration_s, 1) : 1 };
}

function counted(row: Optimization, minimum: number): Step["samples"] {
  const done = outcomes(row);
  if (done === null) return null;
  return { done, share: minimum > 0 ? Math.min(done / minimum, 1) : 1 };
}

/** Outcomes of the candidate in the present stage, which is what a stage's minimum counts; null when nobody counts. */
export function outcomes(row: Optimization): number | null {
  const counts = ["error", "success_margin", "error_rate"]
    .map((name) => row.measured.guards[name]?.candidate_samples)
    .filter((count): count is number => count !== undefined);
  return counts.length > 0 ? Math.max(...counts) : null;
}
