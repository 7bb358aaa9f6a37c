// The route's charts as data. Arms keep the look that their place in the route gives them, in every chart.
import type { Densities, Density, History, Saving, Signal } from "../../api/types.ts";
import { interesting, spansRatios } from "../../charts/axes.ts";
import { between, score } from "../../charts/numbers.ts";
import type { Look } from "../../charts/palette.ts";
import type { Mark, Plot } from "../../charts/plot.ts";
import {
  accumulated, beginning, divided, grouped, grouping, isEmpty, joined, peaked, shares, totalled,
} from "../../charts/series.ts";
import { format } from "../../parts/index.ts";

export type Looks = (arm: string) => Look;

const timed = { time: true, writeX: (at: number) => format.time(at) } as const;

/** Which share of the requests each arm answered, laid on each other. */
export function traffic(history: History, looks: Looks): Plot | null {
  const arms = history.arms ?? [];
  const totals = totalled(arms.map((arm) => arm.requests));
  if (isEmpty([totals])) return null;
  const from = beginning(totals);
  const by = grouping(totals.slice(from));
  const rows = shares(arms.map((arm) => grouped(arm.requests.slice(from), by)));
  const x = history.at.slice(from).filter((_, at) => at % by === 0);
  // The last step reaches to its end, so that a single one can be seen.
  const end = (x.at(-1) ?? 0) + history.step_s * by;
  return {
    x: [...x, Math.max(end, (x.at(-1) ?? 0) + 1)],
    marks: arms.map((arm, place) => {
      const row = rows[place] ?? [];
      return { name: arm.arm, look: looks(arm.arm), values: [...row, row.at(-1) ?? null] };
    }),
    ...timed,
    write: format.share,
    ends: [0, 1],
    stack: true,
  };
}

export const LATENCIES = { latency_p50_s: "Middle (p50)", latency_p95_s: "p95", ttft_p50_s: "First token, middle" } as const;
export type Latency = keyof typeof LATENCIES;

export function latency(history: History, which: Latency, looks: Looks, drawn: ReadonlySet<string>): Plot | null {
  const arms = (history.arms ?? []).filter((arm) => drawn.has(arm.arm));
  return lines(history, arms.map((arm) => ({ name: arm.arm, look: looks(arm.arm), values: arm[which] })), format.seconds);
}

/** Mean rating per arm and step. */
export function ratings(history: History, looks: Looks, drawn: ReadonlySet<string>): Plot | null {
  const arms = (history.arms ?? []).filter((arm) => drawn.has(arm.arm));
  const totals = totalled(arms.map((arm) => arm.rated));
  const by = grouping(totals.slice(beginning(totals)));
  const rows = arms.map((arm) => {
    const sums = grouped(arm.quality.map((mean, at) => (mean === null ? null : mean * (arm.rated[at] ?? 0))), by);
    return { name: arm.arm, look: looks(arm.arm), values: divided(sums, grouped(arm.rated, by)) };
  });
  const coarse = { ...history, at: history.at.filter((_, at) => at % by === 0) };
  return lines(coarse, rows, score, [0, 1]);
}

/** The route's error rate, over all arms. */
export function errors(history: History, look: Look): Plot | null {
  const [route] = history.routes;
  if (route === undefined || isEmpty([route.requests])) return null;
  const by = grouping(route.requests.slice(beginning(route.requests)));
  const requests = grouped(route.requests, by);
  const values = divided(grouped(route.failed, by), requests);
  const coarse = { ...history, at: history.at.filter((_, at) => at % by === 0) };
  const most = values.reduce<number>((a, b) => Math.max(a, b ?? 0), 0);
  return lines(coarse, [{ name: "Failed", look, values, filled: true }], format.share, [0, Math.min(1, Math.max(0.05, most * 1.15))]);
}

/** What was spent, and what the baseline would have cost, adding up over the range. */
export function spend(history: History, looks: readonly [Look, Look]): Plot | null {
  const [route] = history.routes;
  if (route === undefined || isEmpty([route.requests])) return null;
  const spent = accumulated(route.cost_usd);
  const saved = accumulated(route.saved_usd);
  const instead = spent.map((usd, at) => usd + (saved[at] ?? 0));
  return lines(
    history,
    [
      { name: "Spent", look: looks[0], values: spent, filled: true },
      { name: "Baseline would have", look: { ...looks[1], dash: [6, 4] }, values: instead },
    ],
    format.usd,
    undefined,
    beginning(route.requests),
  );
}

/**
 * What was saved, adding up over the range, in the interval of the whole saving. Most of what is unsure is what the
 * baseline costs; that grows with what it would have been paid, and so does the interval here.
 */
export function saved(history: History, saving: Saving | null, look: Look): Plot | null {
  const [route] = history.routes;
  if (route === undefined || isEmpty([route.saved_usd])) return null;
  const sums = accumulated(route.saved_usd);
  const marks: Mark[] = [{ name: "Saved", look, values: sums, filled: true }];
  const margin = marginOf(saving);
  if (margin !== null) {
    const spent = accumulated(route.cost_usd);
    const edge = (by: number): number[] => sums.map((usd, at) => usd + by * Math.max(0, usd + (spent[at] ?? 0)));
    const faint = { ...look, dash: [3, 3] };
    marks.push({ name: "95 %, high", look: faint, values: edge(margin[1]), faint: true });
    marks.push({ name: "95 %, low", look: faint, values: edge(-margin[0]), faint: true });
  }
  return lines(history, marks, format.usd, undefined, beginning(route.requests));
}

/** How far the interval reaches below and above the saving, as shares of what the baseline would have cost. */
export function marginOf(saving: Saving | null): [number, number] | null {
  if (saving === null || saving.saved_usd === null || saving.low_usd === null || saving.high_usd === null || !saving.baseline_usd) return null;
  return [(saving.saved_usd - saving.low_usd) / saving.baseline_usd, (saving.high_usd - saving.saved_usd) / saving.baseline_usd];
}

/** How much of the traffic the candidate of a rollout got. */
export function candidate(history: History, look: Look): Plot | null {
  const shares_ = history.candidate_share;
  if (shares_ === null || shares_.every((share) => share === null)) return null;
  return lines(history, [{ name: "Candidate", look, values: shares_, filled: true }], format.share, [0, 1]);
}

function lines(history: { at: readonly number[] }, marks: readonly Mark[], write: Plot["write"], ends?: readonly [number, number], since?: number): Plot | null {
  const known = marks.filter((mark) => mark.values.some((value) => value !== null));
  if (known.length === 0) return null;
  const first = known.reduce((least, mark) => Math.min(least, mark.values.findIndex((value) => value !== null)), Infinity);
  const from = since ?? Math.max(0, first - 1);
  return {
    x: history.at.slice(from),
    marks: known.map((mark) => ({ ...mark, values: mark.values.slice(from) })),
    ...timed,
    write,
    fromZero: true,
    ...(ends === undefined ? {} : { ends }),
  };
}

export const SIGNALS: Readonly<Record<Signal, { name: string; means: string; write: (value: number | null | undefined) => string; limits: readonly [number, number] }>> = {
  quality: { name: "Quality", means: "How good its answers are, 0 to 1.", write: score, limits: [0, 1] },
  cost_usd: { name: "Cost per request", means: "What a request costs on it.", write: format.usd, limits: [0, Infinity] },
  latency_s: { name: "Latency", means: "How long an answer takes.", write: format.seconds, limits: [0, Infinity] },
  success: { name: "Success", means: "The share of requests that it answers.", write: format.share, limits: [0, 1] },
};

/** What is believed of each drawn arm as a curve of its own height; arms of which only the prior speaks are left out. */
export function belief(densities: Densities | null, signal: Signal, looks: Looks, drawn: ReadonlySet<string>): Plot | null {
  const { write, limits } = SIGNALS[signal];
  const arms = known(densities, signal).filter((arm) => drawn.has(arm.arm) && arm.weight > 0);
  if (arms.length === 0) return null;
  const log = limits[1] === Infinity && spansRatios(arms);
  const [low, high] = interesting(arms, limits, log);
  // Where equal distances are equal ratios, so are equal areas: a density there is one per ratio.
  const per = (arm: Density): number[] => (log ? arm.density.map((value, at) => value * (arm.x[at] ?? 0)) : arm.density);
  const { x, rows } = joined([...arms.map((arm) => ({ x: arm.x, y: per(arm) })), { x: [low, high], y: [0, 0] }]);
  const within = (row: readonly number[]): number[] => row.filter((_, at) => (x[at] ?? 0) >= low && (x[at] ?? 0) <= high);
  return {
    x: within(x),
    marks: arms.map((arm, place) => ({
      name: arm.arm,
      look: looks(arm.arm),
      values: peaked(within(rows[place] ?? [])),
      bounds: arm,
      says: () => `${write(arm.mean)} (${between(arm.low, arm.high, write)})`,
    })),
    time: false,
    log,
    writeX: (value) => write(value),
    write: (value) => score(value),
    ends: [0, 1.22],
    bare: true,
  };
}

export function known(densities: Densities | null, signal: Signal): Density[] {
  return densities?.signals.find((one) => one.signal === signal)?.arms ?? [];
}

const MOST_DRAWN = 8;

/** Which arms have lines of their own when nobody chose: all of a few, else the likeliest and the baseline. */
export function usual(arms: readonly { arm: string; probability: number }[], baseline: string): Set<string> {
  const likely = [...arms].sort((a, b) => Number(b.arm === baseline) - Number(a.arm === baseline) || b.probability - a.probability);
  return new Set(likely.slice(0, MOST_DRAWN).map((arm) => arm.arm));
}
