import { expect, it } from "vitest";
import { detailWords } from "./words.ts";

it("says what happened in one line", () => {
  expect(detailWords({ explanation: "a guard failed", to: "rolled_back" })).toBe("a guard failed");
  expect(detailWords({ from: "proposed", to: "running", percentage: 12.5, reason: "manual" })).toBe("proposed → running, 12.5% of the traffic, a person paused it");
  expect(detailWords({ result: "applied" })).toBe("applied");
  expect(detailWords({ from: 3, to: null, percentage: "x" })).toBe("show");
});
