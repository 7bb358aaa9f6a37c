import { describe, expect, it } from "vitest";
import type { Decision } from "../../api/types.ts";
import { attemptsOf, barsOf, drawOf, lacksVector } from "./decision.ts";
import { MOST_SHOWN, withNewest, withOlder } from "./pages.ts";

const decision = (data: Record<string, unknown>): Decision => ({
  specversion: "1.0", id: "r", source: "", type: "", time: "", data, explanation: [], decision: null,
});
const row = (id: string) => ({ id });

describe("a decision", () => {
  it("has a bar for every arm, also for those that could not serve", () => {
    const bars = barsOf(decision({ arms: ["a", "b"], probabilities: [0.2, 0.8], arm: "a", baseline_arm: "b", filtered: { c: "context" }, draw: 0.1 }));
    expect(bars.map((bar) => [bar.arm, bar.probability, bar.filtered])).toEqual([["b", 0.8, ""], ["a", 0.2, ""], ["c", null, "context"]]);
    expect(bars[1]!.isChosen).toBe(true);
    expect(bars[1]!.stretch).toEqual([0, 0.2]);
    expect(bars[0]!.stretch![1]).toBeCloseTo(1);
  });

  it("of more than 32 arms still has the chosen one", () => {
    const large = decision({ vector: "v1", arm: "a", propensity: 0.03 });
    expect(lacksVector(large)).toBe(true);
    expect(barsOf(large)).toMatchObject([{ arm: "a", probability: 0.03, isChosen: true }]);
  });

  it("takes what an event with one attempt says at the top for that attempt", () => {
    const found = attemptsOf(decision({ attempts: [{ arm: "a", status: 200, ms: 12 }], cost_usd: 0.5, "gen_ai.usage.input_tokens": 7 }));
    expect(found).toMatchObject([{ arm: "a", cost_usd: 0.5, tokens: "7 in, ? out", error: "" }]);
  });

  it("survives events that are not what they should be", () => {
    const odd = decision({ arms: "x", probabilities: {}, attempts: [3, null], filtered: [], draw: "no" });
    expect(barsOf(odd)).toEqual([]);
    expect(attemptsOf(odd)).toEqual([]);
    expect(drawOf(odd)).toBeNull();
  });
});

describe("the newest requests", () => {
  it("come on top of older ones, each once", () => {
    const first = withNewest({ rows: [], next: null }, { rows: [row("3"), row("2")], next: "2" });
    const older = withOlder(first, { rows: [row("2"), row("1")], next: null });
    const newer = withNewest(older, { rows: [row("4"), row("3")], next: "3" });
    expect(newer.rows.map((one) => one.id)).toEqual(["4", "3", "2", "1"]);
    expect(newer.next).toBeNull();
  });

  it("leave no hole where a page does not reach the one before", () => {
    const shown = withNewest({ rows: [row("1")], next: null }, { rows: [row("9")], next: "9" });
    expect(shown).toEqual({ rows: [row("9")], next: "9" });
  });

  it("are bounded", () => {
    const many = Array.from({ length: MOST_SHOWN }, (_, index) => row(`${index}`));
    const shown = withNewest({ rows: many, next: null }, { rows: [row("new"), row("0")], next: "0" });
    expect(shown.rows.length).toBe(MOST_SHOWN);
    expect(shown.next).toBe(`${MOST_SHOWN - 2}`);
  });
});
