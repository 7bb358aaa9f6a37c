// What each guard measures, what it holds the candidate to, and how near it is to its verdict. Pure.
import type { Plan, Verdict } from "../../api/types.ts";
import { UNKNOWN, usd } from "../../parts/format.ts";

export type Unit = "share" | "usd" | "score";

export interface Guard {
  name: string;
  title: string;
  /** What is measured, in one sentence. */
  measures: string;
  unit: Unit;
  /** What it is held to, as a sentence with the numbers in. */
  heldTo: string;
  /** The threshold on the scale of the measured values; null where evidence alone decides. */
  limit: number | null;
  /** How far the evidence has come to the verdict that it is for, 0..1; null where a guard has none. */
  evidence: { share: number; value: number; needed: number; isFor: "harm" | "safety" } | null;
  verdict: Verdict;
}

interface About {
  title: string;
  measures: string;
  unit: Unit;
}

const ABOUT: Record<string, About> = {
  error: { title: "Errors", measures: "First attempts that failed upstream, compared with control.", unit: "share" },
  rejected: {
    title: "Refusals",
    measures: "Requests that the upstream refused as the caller's fault, compared with control.",
    unit: "share",
  },
  invalid: {
    title: "Invalid replies",
    measures: "Replies that are empty, not the JSON that was asked for, or a refusal, compared with control.",
    unit: "share",
  },
  latency: {
    title: "Slow replies",
    measures: "Replies slower than control's 95th percentile was when the rollout began, compared with control.",
    unit: "share",
  },
  error_rate: { title: "Error rate", measures: "Errors of the candidate against a fixed bound.", unit: "share" },
  latency_p95: {
    title: "95th percentile",
    measures: "Replies of the candidate beyond the bound of the 95th percentile; 5% may be.",
    unit: "share",
  },
  cost_per_request: { title: "Cost per request", measures: "Mean cost of the candidate against a fixed bound.", unit: "usd" },
  quality: { title: "Quality", measures: "Mean rating of the candidate, compared with control.", unit: "score" },
  success_margin: {
    title: "Proof of success",
    measures: "Whether the candidate's successes are proven to be no worse than the margin.",
    unit: "share",
  },
  quality_margin: {
    title: "Proof of quality",
    measures: "Whether the candidate's ratings are proven to be no worse than the margin.",
    unit: "score",
  },
  sample_ratio: {
    title: "Split of the traffic",
    measures: "The candidate's share of requests against the share that the stage gives it.",
    unit: "share",
  },
};

const ORDER = Object.keys(ABOUT);

/** The guards in the order in which they are asked, failed ones first. */
export function guardsOf(verdicts: Readonly<Record<string, Verdict>>, plan: Plan): Guard[] {
  return Object.entries(verdicts)
    .map(([name, verdict]) => guard(name, verdict, plan))
    .sort((one, other) => rank(one) - rank(other));
}

function rank(guard: Guard): number {
  const place = ORDER.indexOf(guard.name);
  return (guard.verdict.verdict === "fail" ? 0 : 1000) + (place < 0 ? 999 : place);
}

export function guard(name: string, verdict: Verdict, plan: Plan): Guard {
  const about = ABOUT[name] ?? { title: name, measures: "", unit: "share" as const };
  return {
    name,
    ...about,
    heldTo: heldTo(name, verdict, plan),
    limit: limit(name, verdict),
    evidence: evidence(name, verdict),
    verdict,
  };
}

function heldTo(name: string, verdict: Verdict, plan: Plan): string {
  const threshold = verdict.threshold;
  switch (name) {
    case "latency_p95":
      return plan.checks.latency_p95_ms === null
        ? "at most 5% beyond the bound"
        : `at most 5% beyond ${Math.round(plan.checks.latency_p95_ms)} ms`;
    case "error_rate":
      return threshold === null ? "a fixed bound" : `at most ${figure(threshold, "share")}`;
    case "cost_per_request":
      return threshold === null ? "a fixed bound" : `at most ${figure(threshold, "usd")}`;
    case "quality":
      return threshold === null || threshold === 0
        ? "not proven worse than control"
        : `not proven more than ${figure(-threshold, "score")} worse than control`;
    case "success_margin":
    case "quality_margin":
      return threshold === null
        ? "proven no worse than the margin"
        : `proven less than ${figure(-threshold, name === "success_margin" ? "share" : "score")} worse`;
    case "sample_ratio":
      return threshold === null ? "the stage's share" : `about ${figure(threshold, "share")}`;
    default:
      return "not proven worse than control";
  }
}

/** Where a mark for the threshold belongs on a bar of measured values. */
function limit(name: string, verdict: Verdict): number | null {
  const { threshold, control } = verdict;
  if (threshold === null) return control;
  switch (name) {
    case "quality":
    case "quality_margin":
    case "success_margin":
      return control === null ? null : control + threshold;
    default:
      return threshold;
  }
}

function evidence(name: string, verdict: Verdict): Guard["evidence"] {
  if (verdict.e_value === null || !(verdict.alpha > 0)) return null;
  const needed = 1 / verdict.alpha;
  const share = Math.log(Math.max(verdict.e_value, 1)) / Math.log(needed);
  const isFor = name === "success_margin" || name === "quality_margin" ? "safety" : "harm";
  return { share: Math.min(Math.max(share, 0), 1), value: verdict.e_value, needed, isFor };
}

/** A measured value with its unit. Three digits that count, also of a percentage: thresholds must not be rounded away. */
export function figure(value: number | null, unit: Unit): string {
  if (value === null) return UNKNOWN;
  if (unit === "usd") return usd(value);
  return unit === "share" ? `${Number((100 * value).toPrecision(3))}%`.replace("-", "−") : String(Number(value.toPrecision(3))).replace("-", "−");
}

/** Both sides and the limit on one scale 0..1, with some room above the greatest. */
export function scale(guard: Guard): { control: number | null; candidate: number | null; limit: number | null } {
  const { control, candidate } = guard.verdict;
  const known = [control, candidate, guard.limit].filter((value): value is number => value !== null);
  const top = guard.unit === "score" ? 1 : Math.max(...known, 0) * 1.15 || 1;
  const on = (value: number | null): number | null => (value === null ? null : Math.min(Math.max(value / top, 0), 1));
  return { control: on(control), candidate: on(candidate), limit: on(guard.limit) };
}

const VERDICTS: Record<Verdict["verdict"], string> = { pass: "passes", fail: "failed", insufficient: "too few values yet" };

export function verdictWords(guard: Guard): string {
  const { verdict } = guard.verdict;
  if (verdict === "insufficient" && guard.evidence?.isFor === "safety") return "not proven yet";
  return VERDICTS[verdict];
}
