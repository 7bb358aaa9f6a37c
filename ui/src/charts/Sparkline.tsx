/** A small picture of how much happened; the numbers are beside it. */
import { thinned, type Points } from "./series.ts";

const WIDTH = 96;
const HEIGHT = 24;

export function Sparkline(props: { values: Points; label: string }) {
  const values = thinned(props.values, 48);
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  return (
    <svg class="sparkline" width={WIDTH} height={HEIGHT} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={props.label}>
      {most > 0 && <path class="area" d={`${path(values, most)}V${HEIGHT}H0Z`} />}
      <path class="line" d={most > 0 ? path(values, most) : `M0 ${HEIGHT - 1}H${WIDTH}`} />
    </svg>
  );
}

/** The line through `values` as an SVG path, the largest at the top. */
export function path(values: readonly number[], most: number): string {
  const wide = WIDTH / Math.max(1, values.length - 1);
  const points = values.map((value, at) => `${round(at * wide)} ${round(HEIGHT - 1 - (value / most) * (HEIGHT - 3))}`);
  return `M${points.length === 1 ? [...points, `${WIDTH} ${points[0]?.split(" ")[1] ?? 0}`].join("L") : points.join("L")}`;
}

const round = (value: number): number => Math.round(value * 10) / 10;
