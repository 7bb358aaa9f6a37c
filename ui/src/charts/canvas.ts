/** What uPlot does not draw by itself: hatched areas, and what lies within an interval under a curve. */
import type uPlot from "uplot";

import { faded, type Look } from "./palette.ts";
import type { Mark } from "./plot.ts";

const TILE = 8;

/** Areas by look, each pattern made once. The plain ones are their colour. */
export function hatching(): (look: Look) => CanvasPattern | string {
  const made = new Map<string, CanvasPattern | string>();
  return (look) => {
    const name = `${look.colour} ${look.hatch}`;
    const area = made.get(name) ?? hatch(look);
    made.set(name, area);
    return area;
  };
}

function hatch(look: Look): CanvasPattern | string {
  if (look.hatch === 0) return faded(look.colour, 0.85);
  const tile = document.createElement("canvas");
  tile.width = tile.height = TILE;
  const ink = tile.getContext("2d");
  if (ink === null) return look.colour;
  ink.fillStyle = faded(look.colour, 0.35);
  ink.fillRect(0, 0, TILE, TILE);
  ink.strokeStyle = look.colour;
  ink.lineWidth = 1 + look.hatch;
  // The second and third line close the corners, so that tiles meet.
  for (const shift of [0, -TILE, TILE]) {
    const way = look.hatch % 2 === 1 ? [shift, TILE, shift + TILE, 0] : [shift, 0, shift + TILE, TILE];
    ink.beginPath();
    ink.moveTo(way[0] ?? 0, way[1] ?? 0);
    ink.lineTo(way[2] ?? 0, way[3] ?? 0);
    ink.stroke();
  }
  return ink.createPattern(tile, "repeat") ?? look.colour;
}

/** Shade the 95 % of `mark` under its curve, draw its mean, and write its tag there. */
export function shadeBounds(u: uPlot, series: number, mark: Mark | undefined): void {
  const bounds = mark?.bounds;
  const [xs, ys] = [u.data[0], u.data[series]];
  if (mark === undefined || bounds === undefined || xs === undefined || ys === undefined) return;
  const ink = u.ctx;
  const left = (x: number): number => u.valToPos(x, "x", true);
  const top = (y: number): number => u.valToPos(y, "y", true);
  const floor = top(0);
  ink.save();
  ink.beginPath();
  ink.rect(left(bounds.low), u.bbox.top, left(bounds.high) - left(bounds.low), u.bbox.height);
  ink.clip();
  ink.beginPath();
  ink.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ink.clip();
  ink.beginPath();
  ink.moveTo(left(xs[0] ?? 0), floor);
  for (let at = 0; at < xs.length; at += 1) ink.lineTo(left(xs[at] ?? 0), top(ys[at] ?? 0));
  ink.lineTo(left(xs[xs.length - 1] ?? 0), floor);
  ink.closePath();
  ink.fillStyle = faded(mark.look.colour, 0.16);
  ink.fill();
  ink.restore();
  name(u, mark, left(bounds.mean), top(height(xs, ys, bounds.mean)), floor);
}

function name(u: uPlot, mark: Mark, x: number, y: number, floor: number): void {
  if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) return;
  const ink = u.ctx;
  const ratio = devicePixelRatio || 1;
  ink.save();
  ink.strokeStyle = mark.look.colour;
  ink.setLineDash([2 * ratio, 3 * ratio]);
  ink.lineWidth = ratio;
  ink.beginPath();
  ink.moveTo(x, y);
  ink.lineTo(x, floor);
  ink.stroke();
  ink.fillStyle = mark.look.colour;
  ink.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  ink.textAlign = "center";
  ink.textBaseline = "alphabetic";
  ink.fillText(mark.look.tag, x, y - 4 * ratio);
  ink.restore();
}

function height(xs: ArrayLike<number>, ys: ArrayLike<number | null | undefined>, x: number): number {
  for (let at = 1; at < xs.length; at += 1) {
    const [before, after] = [xs[at - 1] ?? 0, xs[at] ?? 0];
    if (x > after) continue;
    const part = after === before ? 0 : (x - before) / (after - before);
    return (ys[at - 1] ?? 0) * (1 - part) + (ys[at] ?? 0) * part;
  }
  return 0;
}
