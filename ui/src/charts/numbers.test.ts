import { describe, expect, it } from "vitest";

import { share } from "../parts/format.ts";
import { between, rate, score } from "./numbers.ts";

describe("numbers", () => {
  it.each([
    [0, "0/s"],
    [1234, "1,234/s"],
    [12.34, "12/s"],
    [1.26, "1.3/s"],
    [0.05, "3/min"],
    [0.0005, "1.8/h"],
    [null, "–"],
    [Number.NaN, "–"],
  ])("writes %s a second as %s", (value, text) => expect(rate(value)).toBe(text));

  it("writes scores and intervals, and that they are unknown", () => {
    expect([0.8758, -0.25, undefined].map(score)).toEqual(["0.876", "−0.250", "–"]);
    expect(between(0.1, 0.25, share)).toBe("10% to 25%");
    expect(between(null, 0.25, share)).toBe("–");
  });
});
