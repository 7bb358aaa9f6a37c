// One logged decision arranged for a person: the chances of every arm, the stretch of the draw, attempts, figures. Pure.
// Events of other versions may lack members, so everything is looked at before it is believed.
import { isRecord } from "../../api/error.ts";
import type { Decision } from "../../api/types.ts";

export interface Bar {
  arm: string;
  /** 0..1; null where the arm could not serve the request or nobody kept the number. */
  probability: number | null;
  isChosen: boolean;
  isBaseline: boolean;
  /** It answered in the end, though another arm had been chosen. */
  isServer: boolean;
  /** Why it was no choice; empty when it was one. */
  filtered: string;
  /** Its stretch of [0, 1), in which the draw fell or not; null where arms do not lie there. */
  stretch: [number, number] | null;
}

export interface Attempt {
  number: number;
  arm: string;
  upstream: string;
  why: string;
  status: number | null;
  error: string;
  ms: number | null;
  cost_usd: number | null;
  tokens: string;
}

const WHYS: Record<string, string> = {
  first: "first",
  retry: "tried again",
  fallback: "fallback",
  larger_context: "for more context",
  hedge: "hedge: the one before was slow",
  continuation: "continued the cut stream",
};

const ERRORS: Record<string, string> = {
  client_gone: "the caller hung up",
  overloaded: "this node was at its limit",
  hedged: "another attempt was faster",
};

/** Every arm of the route's side, the likeliest first, those that were no choice last. */
export function barsOf(decision: Decision): Bar[] {
  const data = decision.data;
  const arms = texts(data["arms"]);
  const probabilities = Array.isArray(data["probabilities"]) ? data["probabilities"].map(number) : [];
  const left = isRecord(data["filtered"]) ? data["filtered"] : {};
  const names = [...new Set([...arms, ...Object.keys(left), ...texts([data["arm"]])])];
  const ends = stretches(arms, probabilities);
  const isDrawn = number(data["draw"]) !== null;
  const bars = names.map((arm): Bar => {
    const place = arms.indexOf(arm);
    const known = place >= 0 ? (probabilities[place] ?? null) : arm === data["arm"] ? number(data["propensity"]) : null;
    return {
      arm,
      probability: known,
      isChosen: arm === data["arm"],
      isBaseline: arm === data["baseline_arm"],
      isServer: arm === data["served_by"],
      filtered: text(left[arm]),
      stretch: isDrawn && place >= 0 ? (ends[place] ?? null) : null,
    };
  });
  return bars.sort((one, other) => rank(other) - rank(one) || one.arm.localeCompare(other.arm));
}

function rank(bar: Bar): number {
  return bar.filtered !== "" ? -1 : (bar.probability ?? 0);
}

function stretches(arms: readonly string[], probabilities: readonly (number | null)[]): [number, number][] {
  if (probabilities.length !== arms.length) return [];
  const total = probabilities.reduce<number>((sum, share) => sum + (share ?? 0), 0) || 1;
  let at = 0;
  return probabilities.map((share) => {
    const from = at;
    at += (share ?? 0) / total;
    return [from, at];
  });
}

/** Whether the whole vector is there; of more than 32 arms the event only names it. */
export function lacksVector(decision: Decision): boolean {
  return typeof decision.data["vector"] === "string" && !Array.isArray(decision.data["probabilities"]);
}

export function drawOf(decision: Decision): number | null {
  return number(decision.data["draw"]) ?? decision.decision?.draw ?? null;
}

export function attemptsOf(decision: Decision): Attempt[] {
  const rows = decision.data["attempts"];
  if (!Array.isArray(rows)) return [];
  const kept = rows.filter(isRecord);
  return kept.map((row, index) => {
    const alone = kept.length === 1;
    // With one attempt the event says these once, at the top.
    const of = (name: string, top: string): number | null => number(row[name]) ?? (alone ? number(decision.data[top]) : null);
    const error = text(row["error"]);
    const input = of("input_tokens", "gen_ai.usage.input_tokens");
    const output = of("output_tokens", "gen_ai.usage.output_tokens");
    return {
      number: index + 1,
      arm: text(row["arm"]),
      upstream: text(row["upstream"]),
      why: WHYS[text(row["why"])] ?? (text(row["why"]) || "first"),
      status: number(row["status"]),
      error: ERRORS[error] ?? error.replaceAll("_", " "),
      ms: number(row["ms"]),
      cost_usd: of("cost_usd", "cost_usd"),
      tokens: input === null && output === null ? "" : `${input ?? "?"} in, ${output ?? "?"} out`,
    };
  });
}

/** Features that say something of the request, the largest first; the bias is the same for all. */
export function featuresOf(decision: Decision): { name: string; value: number }[] {
  const found = decision.decision?.features ?? [];
  return found.filter((feature) => feature.name !== "bias" && Math.abs(feature.value) >= 0.0005).sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
}

export function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

export function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one): one is string => typeof one === "string") : [];
}

const OUTCOMES: Record<string, string> = {
  completed: "completed",
  upstream_fault: "failed upstream",
  caller_fault: "caller's fault",
  censored: "did not end",
};

export function outcomeWords(outcome: string): string {
  return OUTCOMES[outcome] ?? outcome.replaceAll("_", " ");
}

export type Tone = "good" | "bad" | "warn" | "calm";

export function outcomeTone(outcome: string): Tone {
  switch (outcome) {
    case "completed":
      return "good";
    case "upstream_fault":
      return "bad";
    case "caller_fault":
      return "warn";
    default:
      return "calm";
  }
}
