/**
 * A chart as data: what `Chart` is given, and the uPlot options and columns made of it. No document is touched here.
 */
import type uPlot from "uplot";

import { airy, ratios, room, times } from "./axes.ts";
import { faded, type Look } from "./palette.ts";
import { extent, isolated, type Points, stacked } from "./series.ts";

export interface Mark {
  readonly name: string;
  readonly look: Look;
  readonly values: Points;
  /** Drawn thinner and without an area: what something is compared with. */
  readonly faint?: boolean;
  /** Fill to the axis below. */
  readonly filled?: boolean;
  /** The central 95 %, shaded under the curve, and the mean. */
  readonly bounds?: { readonly mean: number; readonly low: number; readonly high: number };
  /** What is said of a place instead of the written value. */
  readonly says?: (at: number) => string;
}

export interface Plot {
  /** Ascending; Unix seconds where `time`. */
  readonly x: readonly number[];
  readonly marks: readonly Mark[];
  readonly time: boolean;
  /** Lay the marks on each other; values are heights then. */
  readonly stack?: boolean;
  readonly writeX: (value: number) => string;
  readonly write: (value: number | null) => string;
  /** Ends of the vertical axis; left out, the data's own with air. */
  readonly ends?: readonly [number, number];
  readonly fromZero?: boolean;
  /** Equal distances along x are equal ratios. */
  readonly log?: boolean;
  /** No vertical axis: heights can be compared, but have no unit. */
  readonly bare?: boolean;
}

export interface Ink {
  readonly text: string;
  readonly grid: string;
  readonly ground: string;
  readonly font: string;
}

/** What uPlot draws: x, then the marks; a stack from the top, so that lower areas lie over higher ones. */
export function columns(plot: Plot): uPlot.AlignedData {
  const rows = plot.stack ? stacked(plot.marks.map((mark) => mark.values)) : plot.marks.map((mark) => mark.values);
  return [[...plot.x], ...rows.map((row) => [...row])];
}

/** Changes when uPlot has to be built anew, because its options do. */
export function shape(plot: Plot): string {
  const marks = plot.marks.map((mark) => [mark.name, mark.look, mark.faint, mark.filled, mark.bounds !== undefined]);
  return JSON.stringify([marks, plot.time, plot.stack, plot.log, plot.bare, plot.ends, plot.fromZero]);
}

export interface Surface {
  readonly width: number;
  readonly height: number;
  readonly ink: Ink;
  /** The newest plot: options outlive the one that they were made from. */
  readonly newest: () => Plot;
  readonly moved: (at: number | null) => void;
  readonly hatched: (look: Look) => CanvasPattern | string;
}

export function options(plot: Plot, on: Surface): uPlot.Options {
  const { ink } = on;
  const axis: uPlot.Axis = {
    stroke: ink.text,
    font: ink.font,
    grid: { stroke: ink.grid, width: 1 },
    ticks: { show: false },
    gap: 6,
  };
  return {
    width: on.width,
    height: on.height,
    legend: { show: false },
    padding: [plot.bare ? 4 : 10, 30, 0, plot.bare ? 30 : 0],
    cursor: {
      y: false,
      drag: { x: false, y: false, setScale: false },
      points: { size: 7 },
    },
    scales: {
      x: { time: plot.time, ...(plot.time ? {} : { range: (_, least, most) => [least, most] }), ...(plot.log ? { distr: 3 } : {}) },
      y: { range: (_, least, most) => [...(plot.ends ?? airy(least, most, plot.fromZero ?? true))] },
    },
    axes: [
      {
        ...axis,
        size: 30,
        space: Math.min(plot.time ? 64 : 76, on.width / 5),
        ...(plot.time
          ? { values: (_, ticks, _place, _space, step) => times(ticks, step) }
          : { values: (_, ticks) => ticks.map(on.newest().writeX) }),
        ...(plot.log ? { splits: (u, _at, least, most) => ratios(least, most, u.width / 80), filter: (_u, ticks) => ticks } : {}),
      },
      {
        ...axis,
        show: !plot.bare,
        space: 34,
        size: (_, texts) => room(texts),
        values: (_, ticks) => ticks.map((tick) => on.newest().write(tick)),
      },
    ],
    series: [{}, ...plot.marks.map((mark) => line(mark, plot, on))],
    bands: plot.stack ? plot.marks.slice(1).map((mark, at) => ({ series: [at + 2, at + 1] as [number, number], fill: area(mark, on) })) : [],
    hooks: { setCursor: [(u) => on.moved(u.cursor.idx ?? null)] },
  };
}

function line(mark: Mark, plot: Plot, on: Surface): uPlot.Series {
  const { colour, dash } = mark.look;
  const series: uPlot.Series = {
    label: mark.name,
    stroke: plot.stack ? on.ink.ground : colour,
    width: plot.stack ? 1 : mark.faint ? 1.25 : 2,
    dash: plot.stack ? [] : [...dash],
    points: { show: true, size: 5, fill: colour, stroke: colour, filter: (u, at) => lonely(u.data[at]) },
  };
  if (plot.stack && plot.marks[0] === mark) series.fill = area(mark, on);
  if (mark.filled) series.fill = faded(colour, 0.14);
  return series;
}

function lonely(column: unknown): number[] {
  return isolated((column ?? []) as Points);
}

function area(mark: Mark, on: Surface): () => CanvasGradient {
  // uPlot's types know of gradients only; a canvas takes patterns as well.
  return () => on.hatched(mark.look) as unknown as CanvasGradient;
}

/** What the chart says in a sentence to those who can't see it. */
export function spoken(plot: Plot): string {
  const first = plot.x[0];
  const last = plot.x.at(-1);
  if (first === undefined || last === undefined) return "No data.";
  const said = plot.marks.map((mark) => {
    const ends = extent([mark.values]);
    if (ends === null) return `${mark.name}: not known`;
    const newest = mark.values.findLast((value) => value !== null) ?? null;
    if (mark.bounds) return `${mark.name}: 95 % between ${plot.writeX(mark.bounds.low)} and ${plot.writeX(mark.bounds.high)}`;
    return `${mark.name}: ${plot.write(ends[0])} to ${plot.write(ends[1])}, last ${plot.write(newest)}`;
  });
  return `From ${plot.writeX(first)} to ${plot.writeX(last)}. ${said.join("; ")}.`;
}
