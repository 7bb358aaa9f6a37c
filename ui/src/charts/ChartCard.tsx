/** A chart with its title, what it means, a key, and its numbers as a table for those who want or need them. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

import { Card, Empty } from "../parts/index.ts";
import { Chart } from "./Chart.tsx";
import { Marker } from "./Marker.tsx";
import type { Plot } from "./plot.ts";

export function ChartCard(props: {
  title: string;
  /** What is shown and how to read it, in a sentence. */
  means: ComponentChildren;
  plot: Plot | null;
  /** Why there is nothing, when `plot` is null. */
  empty: ComponentChildren;
  aside?: ComponentChildren;
  height?: number;
  /** Leave the key out where a neighbour shows it. */
  keyless?: boolean;
  children?: ComponentChildren;
}) {
  const { plot } = props;
  return (
    <Card title={props.title} aside={props.aside} label={props.title}>
      <p class="chart-means small muted">{props.means}</p>
      {plot === null ? (
        <Empty title="Nothing to draw yet">{props.empty}</Empty>
      ) : (
        <>
          {!props.keyless && plot.marks.length > 0 && <Key plot={plot} />}
          <Chart plot={plot} label={props.title} {...(props.height === undefined ? {} : { height: props.height })} />
        </>
      )}
      {props.children}
      {plot !== null && !plot.bare && <Numbers plot={plot} title={props.title} />}
    </Card>
  );
}

function Key(props: { plot: Plot }) {
  return (
    <ul class="chart-key small">
      {props.plot.marks.map((mark) => (
        <li key={mark.name}>
          <Marker look={mark.look} />
          <span>{mark.name}</span>
        </li>
      ))}
    </ul>
  );
}

/** The drawn numbers; made only while somebody looks. */
function Numbers(props: { plot: Plot; title: string }) {
  const { plot } = props;
  const [isOpen, setOpen] = useState(false);
  return (
    <details class="chart-numbers small" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Numbers as a table</summary>
      {isOpen && (
        <div class="table-box" tabIndex={0} role="region" aria-label={`${props.title}: numbers`}>
          <table class="table">
            <thead>
              <tr>
                <th scope="col">Time</th>
                {plot.marks.map((mark) => <th key={mark.name} scope="col" class="number">{mark.name}</th>)}
              </tr>
            </thead>
            <tbody>
              {plot.x.map((_, back) => row(plot, plot.x.length - 1 - back))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}

function row(plot: Plot, at: number) {
  const x = plot.x[at] ?? 0;
  return (
    <tr key={x}>
      <th scope="row" class="number">{plot.writeX(x)}</th>
      {plot.marks.map((mark) => (
        <td key={mark.name} class="number">{mark.says ? mark.says(at) : plot.write(mark.values[at] ?? null)}</td>
      ))}
    </tr>
  );
}
