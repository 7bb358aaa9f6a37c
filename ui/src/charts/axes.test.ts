import { describe, expect, it } from "vitest";

import { airy, interesting, ratios, room, spansRatios, times } from "./axes.ts";

const at = (day: number, hour: number, minute = 0, second = 0): number =>
  new Date(2026, 10, day, hour, minute, second).getTime() / 1000;

describe("times", () => {
  it("writes hours and minutes, and a new day where it begins", () => {
    expect(times([at(22, 22), at(22, 23), at(23, 0), at(23, 1)], 3600)).toEqual(["22:00", "23:00", "23 Nov", "01:00"]);
  });

  it("writes seconds and days where ticks ask for them", () => {
    expect(times([at(23, 9, 0, 0), at(23, 9, 0, 30)], 30)).toEqual(["09:00:00", "09:00:30"]);
    expect(times([at(20, 0), at(22, 0)], 172_800)).toEqual(["20 Nov", "22 Nov"]);
  });
});

describe("ranges", () => {
  it("leave room for the longest label", () => {
    expect(room(["1", "$0.000123"])).toBeGreaterThan(room(["1", "2"]));
    expect(room(null)).toBe(28);
  });

  it("keep zero when asked and never collapse", () => {
    expect(airy(2, 4, true)).toEqual([0, 4.24]);
    expect(airy(-1, 1, true)[0]).toBeLessThan(-1);
    expect(airy(3, 3, false)[0]).toBeLessThan(3);
    expect(airy(0, 0, true)).toEqual([0, 1]);
    expect(airy(Infinity, -Infinity, true)).toEqual([0, 1]);
  });

  it("look only at posteriors that data speaks for", () => {
    const prior = { mean: 0.5, low: 0.02, high: 0.98, weight: 0 };
    const said = { mean: 0.8, low: 0.7, high: 0.9, weight: 40 };
    const [low, high] = interesting([prior, said], [0, 1]);
    expect(low).toBeCloseTo(0.65);
    expect(high).toBeCloseTo(0.95);
    expect(interesting([prior], [0, 1])).toEqual([0, 1]);
    expect(interesting([], [0, Infinity])).toEqual([0, 1]);
    expect(interesting([said], [0, 1], true)[0]).toBeCloseTo(0.56);
  });

  it("turn to ratios for what spans much", () => {
    const at = (mean: number) => ({ mean, low: mean * 0.9, high: mean * 1.1, weight: 5 });
    expect(spansRatios([at(1), at(2)])).toBe(false);
    expect(spansRatios([at(0.001), at(0.1)])).toBe(true);
    expect(spansRatios([{ ...at(1), low: 0 }, at(100)])).toBe(false);
    expect(spansRatios([])).toBe(false);
    expect(ratios(0.0004, 0.006, 5)).toEqual([0.0005, 0.001, 0.002, 0.005]);
    expect(ratios(0.0004, 0.1, 5)).toEqual([0.001, 0.003, 0.01, 0.03, 0.1]);
    expect(ratios(0.5, 5000, 4)).toEqual([1, 10, 100, 1000]);
    expect(ratios(0.5, 5000, 2)).toEqual([1, 100]);
  });
});
