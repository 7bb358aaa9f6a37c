// Every optimization with its status, stage and share; filtered by the address, so that a filter can be sent to others.
import { useState } from "preact/hooks";
import { useApp, usePolled } from "../../app/context.ts";
import { go, href } from "../../app/router.ts";
import type { Optimization, Optimizations } from "../../api/types.ts";
import { Card, Empty, format, Incomplete, Percent, Shown, State, Table } from "../../parts/index.ts";
import { reasonWords } from "./history.ts";
import { isSplitting, STATUSES } from "./model.ts";

const PAGE = 50;

export function List() {
  const { place } = useApp();
  const { status = "", route = "" } = place.query;
  const [offset, setOffset] = useState(0);
  const listed = usePolled(
    (client, signal) => client.optimizations({ status, route, limit: PAGE, offset }, signal),
    [status, route, offset],
  );
  const routes = usePolled((client, signal) => client.routes(signal), [], 30_000);
  const names = [...new Set([...(routes.data?.routes.map((one) => one.name) ?? []), ...(route ? [route] : [])])].sort();
  const filter = (next: { status?: string; route?: string }) => {
    setOffset(0);
    go(href(["rollouts"], { status, route, ...next }), true);
  };
  return (
    <>
      <div class="head">
        <div>
          <h1>Rollouts</h1>
          <p>Changes that strategies or people propose, and how far each has reached traffic.</p>
        </div>
        <a class="button primary" href="#/rollouts/new">New optimization</a>
      </div>
      <div class="stack">
        <div class="filters">
          <label class="field">
            <span>Status</span>
            <select value={status} onChange={(event) => filter({ status: event.currentTarget.value })}>
              <option value="">all but deleted</option>
              <option value="running,paused">dividing traffic</option>
              {STATUSES.map((one) => <option key={one} value={one}>{format.words(one)}</option>)}
            </select>
          </label>
          <label class="field">
            <span>Route</span>
            <select value={route} onChange={(event) => filter({ route: event.currentTarget.value })}>
              <option value="">all routes</option>
              {names.map((name) => <option key={name} value={name}>{name}</option>)}
            </select>
          </label>
        </div>
        <Shown of={listed} what="optimizations">
          {(page) => <Page page={page} isFiltered={status !== "" || route !== ""} turn={setOffset} />}
        </Shown>
      </div>
    </>
  );
}

function Page(props: { page: Optimizations; isFiltered: boolean; turn: (offset: number) => void }) {
  const { page, turn } = props;
  if (page.total === 0) return <Nothing isFiltered={props.isFiltered} />;
  const last = page.offset + page.optimizations.length;
  return (
    <div>
      <Incomplete missing={page.incomplete} />
      <Card flush label="Optimizations">
        <Table
          caption="Optimizations, the newest first"
          rows={page.optimizations}
          id={(row) => row.id}
          columns={[
            { name: "Optimization", title: true, cell: (row) => <Name row={row} /> },
            { name: "Status", cell: (row) => <Standing row={row} /> },
            { name: "Route", cell: (row) => <a href={href(["routes", row.route])}>{row.route}</a> },
            { name: "Strategy", cell: (row) => format.words(row.strategy) },
            { name: "Stage", cell: stageWords },
            { name: "Gets the candidate", cell: (row) => <Percent value={row.candidate_percentage} label="Share of the candidate" /> },
            { name: "Changed", number: true, cell: (row) => <span title={format.time(row.updated_at)}>{format.since(row.updated_at)}</span> },
          ]}
        />
      </Card>
      {(page.offset > 0 || last < page.total) && (
        <div class="row spread pages">
          <button type="button" class="button small" disabled={page.offset === 0} onClick={() => turn(Math.max(0, page.offset - PAGE))}>Newer</button>
          <span class="muted small">{page.offset + 1} to {last} of {page.total}</span>
          <button type="button" class="button small" disabled={last >= page.total} onClick={() => turn(page.offset + PAGE)}>Older</button>
        </div>
      )}
    </div>
  );
}

function Name(props: { row: Optimization }) {
  return <a href={href(["rollouts", props.row.id])}>{props.row.name}</a>;
}

function Standing(props: { row: Optimization }) {
  const { status, reason } = props.row;
  const says = reason !== "" && status !== "collecting" ? reasonWords(reason) : "";
  return (
    <span class="standing">
      <State word={status} />
      {says !== "" && <span class="small muted">{says}</span>}
    </span>
  );
}

function stageWords(row: Optimization): string {
  if (row.rollout === null || !isSplitting(row)) return format.UNKNOWN;
  return `${row.rollout.stage + 1} of ${row.rollout.plan.stages.length}`;
}

function Nothing(props: { isFiltered: boolean }) {
  if (props.isFiltered) {
    return (
      <Card>
        <Empty title="No optimization is like this">Other statuses or routes may have some. <a href="#/rollouts">Show all of them</a></Empty>
      </Card>
    );
  }
  return (
    <Card>
      <Empty title="There is no optimization yet">
        A strategy looks at a route and proposes a change with its evidence; nothing reaches traffic before somebody deploys it.{" "}
        <a href="#/rollouts/new">Ask for the first one</a>
      </Empty>
    </Card>
  );
}
