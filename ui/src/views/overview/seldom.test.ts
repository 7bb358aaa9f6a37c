import { describe, expect, it } from "vitest";

import { Meter, Seldom } from "./seldom.ts";

describe("Seldom", () => {
  it("asks again only when the answer is old", async () => {
    let now = 0;
    let asked = 0;
    const seldom = new Seldom(() => now);
    const ask = async () => (asked += 1);
    expect(await seldom.of("a", 100, ask)).toBe(1);
    now = 99;
    expect(await seldom.of("a", 100, ask)).toBe(1);
    expect(await seldom.of("b", 100, ask)).toBe(2);
    now = 100;
    expect(await seldom.of("a", 100, ask)).toBe(3);
    seldom.forget("b");
    expect(await seldom.of("b", 100, ask)).toBe(4);
  });

  it("keeps no failure", async () => {
    const seldom = new Seldom(() => 0);
    await expect(seldom.of("a", 100, () => Promise.reject(new Error("away")))).rejects.toThrow("away");
    expect(await seldom.of("a", 100, async () => "there")).toBe("there");
  });
});

describe("Meter", () => {
  it("counts over its window only", () => {
    const meter = new Meter(10);
    expect(meter.rate(0, 100)).toBeNull();
    expect(meter.rate(2, 120)).toBe(10);
    expect(meter.rate(12, 120)).toBe(0);
    expect(meter.rate(12, 120)).toBe(0);
  });

  it("begins anew with the counter", () => {
    const meter = new Meter();
    meter.rate(0, 100);
    expect(meter.rate(2, 5)).toBeNull();
    expect(meter.rate(4, 9)).toBe(2);
  });
});
