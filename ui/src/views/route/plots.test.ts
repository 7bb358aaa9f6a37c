import { describe, expect, it } from "vitest";

import type { ArmHistory, Densities, History, Saving } from "../../api/types.ts";
import { look } from "../../charts/palette.ts";
import { belief, candidate, errors, latency, marginOf, ratings, saved, spend, traffic, usual } from "./plots.ts";

const looks = () => look(0, "light");
const arm = (name: string, more: Partial<ArmHistory>): ArmHistory => ({
  arm: name, model: name, variant: "default",
  requests: [0, 0, 0, 0], failed: [0, 0, 0, 0], cost_usd: [0, 0, 0, 0],
  latency_p50_s: [null, null, null, null], latency_p95_s: [null, null, null, null], ttft_p50_s: [null, null, null, null],
  quality: [null, null, null, null], rated: [0, 0, 0, 0], ...more,
});
const history = (more: Partial<History> = {}): History => ({
  from: 0, to: 40, step_s: 10, at: [0, 10, 20, 30],
  routes: [{ route: "r", requests: [0, 0, 4, 6], failed: [0, 0, 1, 0], cost_usd: [0, 0, 1, 2], saved_usd: [0, 0, 3, 4] }],
  arms: [arm("big", { requests: [0, 0, 3, 0] }), arm("small", { requests: [0, 0, 1, 6] })],
  candidate_share: [null, null, null, null],
  ...more,
});
const saving = (more: Partial<Saving> = {}): Saving => ({
  requests: 10, unknown: 0, actual_usd: 3, baseline_usd: 10, saved_usd: 7, low_usd: 6, high_usd: 9, share: 0.7, low_share: 0.6, high_share: 0.9, ...more,
});

describe("charts of a route", () => {
  it("show shares from just before the first request to the end of the last step", () => {
    const plot = traffic(history(), looks);
    expect(plot?.x).toEqual([10, 20, 30, 40]);
    expect(plot?.marks.map((mark) => mark.values)).toEqual([[null, 0.75, 0, 0], [null, 0.25, 1, 1]]);
  });

  it("show nothing where nothing was", () => {
    const quiet = history({ routes: [{ route: "r", requests: [0], failed: [0], cost_usd: [0], saved_usd: [0] }], arms: [] });
    expect([traffic(quiet, looks), errors(quiet, looks()), spend(quiet, [looks(), looks()]), saved(quiet, null, looks()), candidate(quiet, looks())]).toEqual([null, null, null, null, null]);
    expect(latency(history(), "latency_p95_s", looks, new Set(["big"]))).toBeNull();
  });

  it("add up spending beside the baseline's", () => {
    const plot = spend(history(), [looks(), looks()]);
    expect(plot?.marks.map((mark) => mark.values)).toEqual([[0, 1, 3], [0, 4, 10]]);
  });

  it("give a saving its interval, as shares of what the baseline would have cost", () => {
    expect(marginOf(saving())).toEqual([0.1, 0.2]);
    expect(marginOf(saving({ low_usd: null }))).toBeNull();
    const plot = saved(history(), saving(), looks());
    expect(plot?.marks.map((mark) => mark.values)).toEqual([[0, 3, 7], [0, 3.8, 9], [0, 2.6, 6]]);
    expect(saved(history(), null, looks())?.marks).toHaveLength(1);
  });

  it("keep a place for steps without an error, and none for those without a request", () => {
    expect(errors(history(), looks())?.marks[0]?.values).toEqual([null, 0.25, 0]);
  });

  it("weigh ratings when steps are put together", () => {
    const rated = history({ arms: [arm("big", { quality: [null, null, 0.5, 1], rated: [0, 0, 3, 1] })] });
    expect(ratings(rated, looks, new Set(["big"]))?.marks[0]?.values).toEqual([null, 0.5, 1]);
  });

  it("draw what is believed, but not a bare prior", () => {
    const curve = { arm: "big", mean: 0.8, low: 0.7, high: 0.9, weight: 20, x: [0, 0.7, 0.8, 0.9, 1], density: [0, 2, 8, 2, 0] };
    const densities: Densities = { route: "r", signals: [{ signal: "quality", arms: [curve, { ...curve, arm: "new", weight: 0 }, { ...curve, arm: "other" }] }] };
    const plot = belief(densities, "quality", looks, new Set(["big", "new"]));
    expect(plot?.marks.map((mark) => mark.name)).toEqual(["big"]);
    expect(plot?.x[0]).toBeCloseTo(0.65);
    expect(plot?.x.at(-1)).toBeCloseTo(0.95);
    expect(Math.max(...(plot?.marks[0]?.values ?? []).map(Number))).toBe(1);
    expect(plot?.marks[0]?.says?.(0)).toBe("0.800 (0.700 to 0.900)");
    expect(belief(densities, "success", looks, new Set(["big"]))).toBeNull();
    expect(belief(null, "quality", looks, new Set())).toBeNull();
  });

  it("draw the likeliest of many, and always the baseline", () => {
    const arms = Array.from({ length: 20 }, (_, at) => ({ arm: `a${at}`, probability: at / 190 }));
    const drawn = usual(arms, "a0");
    expect(drawn.size).toBe(8);
    expect(drawn.has("a0") && drawn.has("a19")).toBe(true);
  });
});
