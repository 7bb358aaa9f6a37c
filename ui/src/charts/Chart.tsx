/**
 * uPlot in a box: made when shown, fed when data changes, built anew only for another theme or other marks, destroyed
 * when left. The arrow keys walk through the values as the mouse does, and what they say is read out.
 */
import "uplot/dist/uPlot.min.css";
import "./charts.css";

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";

import { useApp } from "../app/context.ts";
import { hatching, shadeBounds } from "./canvas.ts";
import { Marker } from "./Marker.tsx";
import { columns, type Ink, options, type Plot, shape, spoken } from "./plot.ts";

const NARROW = 200;

export function Chart(props: { plot: Plot; label: string; height?: number }) {
  const { plot, height = 220 } = props;
  const { theme } = useApp();
  const box = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | null>(null);
  const newest = useRef(plot);
  const [at, setAt] = useState<number | null>(null);
  newest.current = plot;
  const built = shape(plot);

  useLayoutEffect(() => {
    const into = box.current;
    if (into === null) return;
    const patterns = hatching();
    const made = new uPlot(
      {
        ...options(newest.current, {
          width: Math.max(NARROW, into.clientWidth),
          height,
          ink: inkOf(into),
          newest: () => newest.current,
          moved: setAt,
          hatched: patterns,
        }),
        plugins: [{ hooks: { drawSeries: (u, series) => shadeBounds(u, series, newest.current.marks[series - 1]) } }],
      },
      columns(newest.current),
      into,
    );
    chart.current = made;
    const watch = new ResizeObserver(() => {
      const width = Math.max(NARROW, into.clientWidth);
      if (width !== made.width) made.setSize({ width, height });
    });
    watch.observe(into);
    return () => {
      watch.disconnect();
      made.destroy();
      chart.current = null;
    };
  }, [built, theme, height]);

  useEffect(() => {
    chart.current?.setData(columns(plot));
  }, [plot]);

  const walk = (event: KeyboardEvent) => {
    const last = plot.x.length - 1;
    const from = at ?? last + 1;
    const to = { ArrowLeft: from - 1, ArrowRight: at === null ? 0 : from + 1, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    point(chart.current, to === null ? null : Math.max(0, Math.min(last, to)));
  };
  return (
    <div
      class="chart"
      role="application"
      aria-roledescription="chart, arrow keys read its values"
      aria-label={`${props.label}. ${spoken(plot)}`}
      tabIndex={0}
      onKeyDown={walk}
      onBlur={() => point(chart.current, null)}
    >
      <div class="chart-box" ref={box} style={{ minHeight: `${height}px` }} />
      {at !== null && plot.x[at] !== undefined && <Reading plot={plot} at={at} chart={chart.current} />}
    </div>
  );
}

/** What is known at one place of x, next to it. */
function Reading(props: { plot: Plot; at: number; chart: uPlot | null }) {
  const { plot, at, chart } = props;
  const x = plot.x[at] ?? 0;
  const ratio = chart === null ? 0 : chart.valToPos(x, "x") / Math.max(1, chart.over.clientWidth);
  const rows = plot.marks.filter((mark) => mark.values[at] !== null && mark.values[at] !== undefined);
  return (
    <div class={ratio > 0.5 ? "reading left" : "reading"} role="status">
      <strong>{plot.writeX(x)}</strong>{" "}
      {rows.length === 0 && <span class="muted">nothing known</span>}
      <ul>
        {(plot.stack ? [...rows].reverse() : rows).map((mark) => (
          <li key={mark.name}>
            <Marker look={mark.look} />
            <span class="name">{mark.name}</span>{" "}
            <span class="number">{mark.says ? mark.says(at) : plot.write(mark.values[at] ?? null)}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

function point(chart: uPlot | null, at: number | null): void {
  if (chart === null) return;
  const x = at === null ? undefined : chart.data[0]?.[at];
  const left = x === undefined ? -10 : chart.valToPos(x, "x");
  chart.setCursor({ left, top: x === undefined ? -10 : 1 });
}

function inkOf(element: HTMLElement): Ink {
  const style = getComputedStyle(element);
  const value = (name: string): string => style.getPropertyValue(name).trim();
  return {
    text: value("--muted"),
    grid: value("--line"),
    ground: value("--card"),
    font: `12px ${style.fontFamily}`,
  };
}
