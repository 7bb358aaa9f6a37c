// The one number that the product is there for, with how sure it is and against what.
import type { History, Saving, TableRoute } from "../../api/types.ts";
import { Chart } from "../../charts/Chart.tsx";
import { look, type Look } from "../../charts/palette.ts";
import type { Plot } from "../../charts/plot.ts";
import { accumulated, beginning, isEmpty, totalled } from "../../charts/series.ts";
import { useApp } from "../../app/context.ts";
import { format } from "../../parts/index.ts";
import { baselineOf, claim } from "./model.ts";

export function Saved(props: { saving: Saving | null; history: History | null; routes: readonly TableRoute[] }) {
  const { theme } = useApp();
  const said = claim(props.saving, against(props.routes));
  const plot = props.history === null ? null : drawn(props.history, { ...look(0, theme), tag: "" });
  return (
    <section class="card saved" aria-label="Saved">
      <div class="saved-words" data-testid="saved">
        <h2>{said.head}</h2>
        <p class={`saved-value ${said.tone ?? ""}`}>{said.value}</p>
        <p>{said.sentence}</p>
        <p class="small muted">{said.note}</p>
      </div>
      <div class="saved-chart">
        <h3 class="small muted">Saved in the last hour, adding up</h3>
        {plot === null ? <p class="small muted">Nothing was compared in the last hour.</p> : <Chart plot={plot} label="Saved in the last hour, adding up" height={150} />}
      </div>
    </section>
  );
}

/** "sim-large", or in general words where routes have several baselines. */
export function against(routes: readonly TableRoute[]): string {
  const baselines = new Set(routes.map(baselineOf));
  const [only] = baselines;
  return baselines.size === 1 && only !== undefined ? `sending everything to ${only}` : "sending everything to each route's baseline arm";
}

function drawn(history: History, mark: Look): Plot | null {
  const saved = totalled(history.routes.map((route) => route.saved_usd));
  if (isEmpty([saved])) return null;
  const from = beginning(totalled(history.routes.map((route) => route.requests)));
  const sums = accumulated(saved.slice(from));
  return {
    x: history.at.slice(from),
    marks: [{ name: "Saved", look: mark, values: sums, filled: true }],
    time: true,
    writeX: (at) => format.time(at),
    write: format.usd,
    fromZero: true,
  };
}
