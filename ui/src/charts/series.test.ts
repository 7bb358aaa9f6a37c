import { describe, expect, it } from "vitest";

import {
  accumulated, beginning, divided, extent, grouped, grouping, isEmpty, isolated, joined, peaked, shares, stacked,
  thinned, totalled,
} from "./series.ts";

describe("series", () => {
  it("keeps a bucket without requests a hole in the shares", () => {
    expect(shares([[1, 0, 3], [3, 0, null]])).toEqual([[0.25, null, 1], [0.75, null, 0]]);
  });

  it("stacks shares up to one", () => {
    const edges = stacked(shares([[1, 2, 0], [2, 2, 0], [1, 0, 0]]));
    expect(edges[2]).toEqual([1, 1, null]);
    expect(edges[0]).toEqual([0.25, 0.5, null]);
  });

  it("sums, accumulates and divides around holes", () => {
    expect(totalled([[1, null], [2, 3]])).toEqual([3, 3]);
    expect(accumulated([1, null, -2])).toEqual([1, 1, -1]);
    expect(divided([1, 1, null], [4, 0, 2])).toEqual([0.25, null, null]);
  });

  it("keeps the sum when it thins", () => {
    const row = Array.from({ length: 61 }, (_, at) => (at % 7 ? at : null));
    const few = thinned(row, 20);
    expect(few.length).toBeLessThanOrEqual(20);
    expect(few.reduce((a, b) => a + b, 0)).toBe(row.reduce<number>((a, b) => a + (b ?? 0), 0));
    expect(thinned([], 20)).toEqual([]);
  });

  it("brings curves with points of their own to one axis", () => {
    const { x, rows } = joined([{ x: [0, 2], y: [0, 4] }, { x: [1, 3], y: [2, 6] }]);
    expect(x).toEqual([0, 1, 2, 3]);
    expect(rows).toEqual([[0, 2, 4, 0], [0, 2, 4, 6]]);
    expect(joined([])).toEqual({ x: [], rows: [] });
  });

  it("scales to the peak", () => {
    expect(peaked([1, 2, 4])).toEqual([0.25, 0.5, 1]);
    expect(peaked([0, 0])).toEqual([0, 0]);
  });

  it("finds the extent, and that there is none", () => {
    expect(extent([[null, 2], [-1]])).toEqual([-1, 2]);
    expect(extent([[null]])).toBeNull();
    expect(isEmpty([[0, null], [0]])).toBe(true);
    expect(isEmpty([[0, 1]])).toBe(false);
  });

  it("draws alone what stands alone", () => {
    expect(isolated([null, 1, null, 2, 3, null, 4])).toEqual([1, 6]);
  });

  it("puts buckets together until few are empty", () => {
    const sparse = Array.from({ length: 120 }, (_, at) => (at % 4 === 0 ? 1 : 0));
    expect(grouping(sparse)).toBe(4);
    expect(grouped(sparse, 4)).toEqual(Array.from({ length: 30 }, () => 1));
    expect(grouping(Array.from({ length: 120 }, () => 2))).toBe(1);
    expect(grouping(Array.from({ length: 120 }, () => 0))).toBe(1);
    expect(grouped([null, null, 1], 2)).toEqual([null, 1]);
  });

  it("begins where traffic began", () => {
    expect(beginning([0, 0, 0, 5])).toBe(2);
    expect(beginning([0, 0])).toBe(0);
    expect(beginning([1])).toBe(0);
  });
});
