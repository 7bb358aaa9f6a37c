import { describe, expect, it } from "vitest";

import { look } from "./palette.ts";
import { columns, type Mark, options, type Plot, shape, spoken, type Surface } from "./plot.ts";

const mark = (name: string, place: number, values: (number | null)[]): Mark => ({ name, look: look(place, "light"), values });
const plot = (more: Partial<Plot> = {}): Plot => ({
  x: [10, 20, 30],
  marks: [mark("one", 0, [0.25, null, 0.5]), mark("two", 1, [0.75, null, 0.5])],
  time: true,
  writeX: (value) => `t${value}`,
  write: (value) => `${value}`,
  ...more,
});
const surface = (of: Plot): Surface => ({
  width: 600,
  height: 200,
  ink: { text: "#111111", grid: "#eeeeee", ground: "#ffffff", font: "12px sans-serif" },
  newest: () => of,
  moved: () => undefined,
  hatched: (one) => one.colour,
});

describe("a plot", () => {
  it("lays marks on each other and keeps the holes", () => {
    expect(columns(plot({ stack: true }))).toEqual([[10, 20, 30], [0.25, null, 0.5], [1, null, 1]]);
    expect(columns(plot())[2]).toEqual([0.75, null, 0.5]);
  });

  it("is built anew for other marks, not for other values", () => {
    const other = plot({ x: [1, 2], marks: [mark("one", 0, [1, 2]), mark("two", 1, [1, 2])] });
    expect(shape(other)).toBe(shape(plot()));
    expect(shape(plot({ marks: [mark("one", 0, [1, 2, 3])] }))).not.toBe(shape(plot()));
    expect(shape(plot({ stack: true }))).not.toBe(shape(plot()));
  });

  it("fills between the layers of a stack", () => {
    const made = options(plot({ stack: true }), surface(plot()));
    expect(made.bands?.map((band) => band.series)).toEqual([[2, 1]]);
    expect(made.series).toHaveLength(3);
    expect(made.legend?.show).toBe(false);
  });

  it("says in words what it shows", () => {
    expect(spoken(plot())).toBe("From t10 to t30. one: 0.25 to 0.5, last 0.5; two: 0.5 to 0.75, last 0.5.");
    expect(spoken(plot({ x: [] }))).toBe("No data.");
    const belief: Mark = { ...mark("one", 0, [0, 1, 0]), bounds: { mean: 20, low: 15, high: 25 } };
    expect(spoken(plot({ marks: [belief] }))).toContain("one: 95 % between t15 and t25");
  });
});
