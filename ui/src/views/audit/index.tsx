// Who did what: every change that a person, a program or the optimizer itself made, filtered by the address.
import "./audit.css";
import { useRef, useState } from "preact/hooks";
import { useApp, usePolled } from "../../app/context.ts";
import { go, href } from "../../app/router.ts";
import { ApiError } from "../../api/error.ts";
import type { Audit, AuditRow } from "../../api/types.ts";
import { Card, Empty, format, Shown, Table } from "../../parts/index.ts";
import { detailWords } from "./words.ts";
import { type Page, withNewest, withOlder } from "../requests/pages.ts";

const PAGE = 50;
const INTERVAL_MS = 5_000;
const NOTHING: Page<AuditRow> = { rows: [], next: null };

interface Filter {
  actor: string;
  action: string;
  target: string;
}

export default function AuditView() {
  const { place } = useApp();
  const { actor = "", action = "", target = "" } = place.query;
  const filter = { actor, action, target };
  return (
    <>
      <div class="head">
        <div>
          <h1>Audit</h1>
          <p>What people, programs and the optimizer did, and why. Rows are written once and never changed.</p>
        </div>
      </div>
      <div class="stack">
        <Filters key={`filters ${actor}\n${action}\n${target}`} filter={filter} />
        <Rows key={`${actor}\n${action}\n${target}`} filter={filter} />
      </div>
    </>
  );
}

function Rows(props: { filter: Filter }) {
  const { filter } = props;
  const { client, tell } = useApp();
  const [, drawn] = useState(0);
  const kept = useRef<Page<AuditRow>>(NOTHING);
  const shown = usePolled(async (asked, signal) => {
    kept.current = withNewest(kept.current, read(await asked.audit({ ...filter, limit: PAGE }, signal)));
    return kept.current;
  }, [], INTERVAL_MS);
  const older = async () => {
    const before = kept.current.next;
    if (before === null) return;
    try {
      kept.current = withOlder(kept.current, read(await client.audit({ ...filter, limit: PAGE, before })));
      drawn((count) => count + 1);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      tell(error.message, "bad");
    }
  };
  return <Shown of={shown} what="the audit">{() => <Listed page={kept.current} filter={filter} older={() => void older()} />}</Shown>;
}

function read(page: Audit): Page<AuditRow> {
  return { rows: page.audit, next: page.next };
}

function Listed(props: { page: Page<AuditRow>; filter: Filter; older: () => void }) {
  const { page, filter } = props;
  if (page.rows.length === 0) {
    const isFiltered = Object.values(filter).some((one) => one !== "");
    return (
      <Card>
        {isFiltered ? (
          <Empty title="No row is like this">Words are compared whole: <code>optimization.deploy</code>, not <code>deploy</code>. <a href="#/audit">Show all rows</a></Empty>
        ) : (
          <Empty title="Nobody has done anything yet">Optimizations, client keys and reloads of the configuration leave a row here.</Empty>
        )}
      </Card>
    );
  }
  return (
    <div>
      <Card flush label="Audit">
        <div class="audit"><Table
          caption="Rows of the audit, the newest first"
          rows={page.rows}
          id={(row) => row.id}
          columns={[
            { name: "Time", number: false, cell: (row) => <span class="number">{format.time(row.at)}</span> },
            { name: "Action", title: true, cell: (row) => <a href={href(["audit"], { ...filter, action: row.action })}>{row.action}</a> },
            { name: "Who", cell: (row) => <a href={href(["audit"], { ...filter, actor: row.actor })}>{row.actor}</a> },
            { name: "What", cell: (row) => <Target row={row} /> },
            { name: "Detail", cell: (row) => <Detail row={row} /> },
          ]}
        /></div>
      </Card>
      <div class="row spread pages">
        <span class="muted small">{format.count(page.rows.length)} shown</span>
        {page.next !== null && <button type="button" class="button small" onClick={props.older}>Older</button>}
      </div>
    </div>
  );
}

function Target(props: { row: AuditRow }) {
  const { row } = props;
  if (!row.action.startsWith("optimization.")) return <span class="mono wrap">{row.target}</span>;
  const name = row.detail["name"];
  return <a href={href(["rollouts", row.target])}>{typeof name === "string" && name !== "" ? name : row.target}</a>;
}

/** The reason where there is one, and the rest when somebody asks. */
function Detail(props: { row: AuditRow }) {
  const { detail } = props.row;
  if (Object.keys(detail).length === 0) return <span class="muted">{format.UNKNOWN}</span>;
  return (
    <details class="row-detail">
      <summary>{detailWords(detail)}</summary>
      <pre class="code" tabIndex={0}>{JSON.stringify(detail, null, 2)}</pre>
    </details>
  );
}

function Filters(props: { filter: Filter }) {
  const [typed, setTyped] = useState(props.filter);
  const apply = (event: Event) => {
    event.preventDefault();
    go(href(["audit"], { ...typed }));
  };
  const field = (name: keyof Filter, title: string, hint: string) => (
    <label class="field">
      <span>{title}</span>
      <input value={typed[name]} placeholder={hint} spellcheck={false} autocomplete="off" onInput={(event) => setTyped({ ...typed, [name]: event.currentTarget.value.trim() })} />
    </label>
  );
  const isFiltered = Object.values(props.filter).some((one) => one !== "");
  return (
    <form class="row audit-filters" onSubmit={apply}>
      {field("actor", "Who", "optimizer, local, admin key …")}
      {field("action", "Action", "optimization.rollback")}
      {field("target", "What (id)", "opt_…")}
      <div class="row">
        <button type="submit" class="button">Filter</button>
        {isFiltered && <a class="button quiet" href="#/audit">Clear</a>}
      </div>
    </form>
  );
}
