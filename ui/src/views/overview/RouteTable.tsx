// One row per route. A page of rows is drawn at a time: a hundred routes of twenty arms are two thousand pieces of bars.
import { useState } from "preact/hooks";

import type { TableRollout } from "../../api/types.ts";
import { useApp } from "../../app/context.ts";
import { href } from "../../app/router.ts";
import { look } from "../../charts/palette.ts";
import { score } from "../../charts/numbers.ts";
import { ShareBar } from "../../charts/ShareBar.tsx";
import { Sparkline } from "../../charts/Sparkline.tsx";
import { Badge, Card, type Column, Dot, Empty, format, Table, toneOf } from "../../parts/index.ts";
import { armsOf, chosen, type Order, ORDERS, type Row, spent, trafficOf } from "./model.ts";

const PAGE = 20;

export function RouteTable(props: {
  rows: readonly Row[];
  text: string;
  order: Order;
  change: (text: string, order: Order) => void;
}) {
  const { text, order, change } = props;
  const [page, setPage] = useState(0);
  const columns = useColumns();
  const found = chosen(props.rows, text, order);
  const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
  const at = Math.min(page, last);
  const shown = found.slice(at * PAGE, (at + 1) * PAGE);
  const set = (nextText: string, nextOrder: Order) => {
    setPage(0);
    change(nextText, nextOrder);
  };
  return (
    <Card title={`Routes (${props.rows.length})`} flush label="Routes">
      <div class="route-tools row">
        <label class="field">
          <span>Filter by route, model or arm</span>
          <input type="search" value={text} onInput={(event) => set(event.currentTarget.value, order)} />
        </label>
        <label class="field">
          <span>Order</span>
          <select value={order} onChange={(event) => set(text, event.currentTarget.value as Order)}>
            {Object.entries(ORDERS).map(([id, name]) => <option key={id} value={id}>{name}</option>)}
          </select>
        </label>
      </div>
      {shown.length === 0 ? (
        <Empty title="No route fits">No route, pattern or arm contains “{text}”.</Empty>
      ) : (
        <Table columns={columns} rows={[...shown]} id={(row) => row.name} caption="Routes: traffic, cost and health of each" />
      )}
      {last > 0 && (
        <nav class="route-pages small" aria-label="Pages of routes">
          <button type="button" class="button small" disabled={at === 0} onClick={() => setPage(at - 1)}>Back</button>
          <span>{at * PAGE + 1} to {at * PAGE + shown.length} of {found.length}</span>
          <button type="button" class="button small" disabled={at === last} onClick={() => setPage(at + 1)}>Next</button>
        </nav>
      )}
    </Card>
  );
}

function useColumns(): Column<Row>[] {
  const { theme } = useApp();
  return [
    { name: "Route", title: true, cell: (row) => <Name row={row} /> },
    {
      name: "Traffic by arm",
      cell: (row) => {
        const traffic = trafficOf(row.route);
        const parts = armsOf(row.route).map((arm, place) => ({ name: arm.id, look: look(place, theme), share: traffic.get(arm.id) ?? 0 }));
        return <ShareBar parts={parts} label={`Traffic of ${row.name}`} />;
      },
    },
    {
      name: "Last hour",
      cell: (row) => <Sparkline values={over(row.history?.requests ?? [])} label={`Requests of ${row.name} in the last hour: ${format.count(sum(row.history?.requests))}`} />,
    },
    { name: "Requests", number: true, cell: (row) => format.count(row.figures?.requests ?? 0) },
    { name: "Saved", number: true, cell: (row) => <Saving row={row} /> },
    { name: "Cost", number: true, cell: (row) => <Cost figures={row.figures} /> },
    { name: "Errors, 5 min", number: true, cell: (row) => <Errors rate={row.figures?.requests ? row.figures.error_rate_5m : undefined} /> },
    { name: "p95", number: true, cell: (row) => format.seconds(row.figures?.latency_p95_s) },
    { name: "Quality", number: true, cell: (row) => score(row.figures?.quality_score) },
    { name: "Rollout", cell: (row) => <Rollout rollout={row.route.rollout} /> },
  ];
}

function Name(props: { row: Row }) {
  const { row } = props;
  const arms = armsOf(row.route).length;
  return (
    <div class="route-name">
      <span>
        <a href={href(["routes", row.name])}>{row.name}</a>
        {row.troubles.length > 0 && <span class="trouble" title={row.troubles.join("\n")}><Dot tone="warn" /><span class="unseen">{row.troubles.join("; ")}</span></span>}
      </span>
      <span class="small muted">{arms === 1 ? "1 arm" : `${arms} arms`}, {format.words(row.route.control.policy)}</span>
    </div>
  );
}

function Saving(props: { row: Row }) {
  const { saving } = props.row;
  if (saving === null || saving.saved_usd === null) return <span class="muted" title="Not known yet">{format.UNKNOWN}</span>;
  const isSure = saving.low_usd !== null && saving.high_usd !== null && (saving.low_usd > 0 || saving.high_usd < 0);
  const tone = !isSure ? "" : saving.saved_usd < 0 ? "lost" : "won";
  return (
    <span class={`two-lines ${tone}`}>
      <span>{format.usd(saving.saved_usd)}</span>{" "}
      <span class="small">{isSure ? format.share(saving.share) : "not sure yet"}</span>
    </span>
  );
}

function Cost(props: { figures: Row["figures"] }) {
  const unpriced = props.figures?.cost_unknown_requests ?? 0;
  if (unpriced === 0) return <>{spent(props.figures)}</>;
  return (
    <span class="two-lines">
      <span>{spent(props.figures)}</span>{" "}
      <span class="small muted">{format.count(unpriced)} unpriced</span>
    </span>
  );
}

function Errors(props: { rate: number | undefined }) {
  const { rate } = props;
  if (rate === undefined) return <>{format.UNKNOWN}</>;
  return rate >= 0.05 ? <Badge tone="bad">{format.share(rate)}</Badge> : <>{format.share(rate)}</>;
}

function Rollout(props: { rollout: TableRollout | null }) {
  const { rollout } = props;
  if (rollout === null) return <span class="muted">none</span>;
  const stage = rollout.stage === null || rollout.stage === undefined ? "" : `stage ${rollout.stage + 1}${rollout.stages ? ` of ${rollout.stages}` : ""}, `;
  return (
    <span class="two-lines start">
      <a href={href(["rollouts", rollout.optimization ?? rollout.id])}>
        <Badge tone={toneOf(rollout.status ?? "running")}>{format.words(rollout.status ?? "running")}</Badge>
      </a>
      <span class="small muted">{stage}{format.percent(rollout.percentage)} of traffic</span>
    </span>
  );
}

/** Without the last step, which is not over yet and would look like a fall; unless there is no other. */
function over(values: readonly number[]): readonly number[] {
  const without = values.slice(0, -1);
  return without.some((value) => value > 0) ? without : values;
}

const sum = (values: readonly number[] | undefined): number => (values ?? []).reduce((a, b) => a + b, 0);
