// The newest requests as they come in. They can be held still, filtered, and looked up by either of two ids.
import { useRef, useState } from "preact/hooks";
import { useApp, usePolled } from "../../app/context.ts";
import { go, href } from "../../app/router.ts";
import { ApiError } from "../../api/error.ts";
import type { Missing, RequestRow, Requests } from "../../api/types.ts";
import { Badge, Card, Empty, format, Incomplete, Shown, Table } from "../../parts/index.ts";
import { outcomeTone, outcomeWords } from "./decision.ts";
import { MOST_SHOWN, type Page, withOlder } from "./pages.ts";

const PAGE = 50;
const OUTCOMES = ["completed", "upstream_fault", "caller_fault", "censored"];

interface Filter {
  route: string;
  arm: string;
  outcome: string;
}

interface Feed extends Page<RequestRow> {
  incomplete: Missing[] | null;
}

const NOTHING: Feed = { rows: [], next: null, incomplete: null };

export function List() {
  const { place } = useApp();
  const { route = "", arm = "", outcome = "" } = place.query;
  const filter = { route, arm, outcome };
  return (
    <>
      <div class="head">
        <div>
          <h1>Requests</h1>
          <p>The newest ones, and why each went where it went.</p>
        </div>
        <Lookup />
      </div>
      <Newest key={`${route}\n${arm}\n${outcome}`} filter={filter} />
    </>
  );
}

function Newest(props: { filter: Filter }) {
  const { filter } = props;
  const { client, tell } = useApp();
  const [isLive, setLive] = useState(true);
  const [, drawn] = useState(0);
  const feed = useRef<Feed>(NOTHING);
  const live = useRef(true);
  live.current = isLive;
  const shown = usePolled<Feed>(async (asked, signal) => {
    // Held still, it asks for nothing; what is there stays.
    if (live.current || feed.current === NOTHING) {
      const page = await asked.requests({ ...filter, limit: PAGE }, signal);
      feed.current = { ...read(page), incomplete: page.incomplete ?? null };
    }
    return feed.current;
  });
  const older = async () => {
    const before = feed.current.next;
    if (before === null) return;
    setLive(false);
    try {
      const page = await client.requests({ ...filter, limit: PAGE, before });
      feed.current = { ...feed.current, ...withOlder(feed.current, read(page)) };
      drawn((count) => count + 1);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      tell(error.message, "bad");
    }
  };
  return (
    <div class="stack">
      <div class="row spread wide-filters">
        <Filters filter={filter} />
        <button type="button" class={isLive ? "button" : "button primary"} aria-pressed={!isLive} onClick={() => setLive(!isLive)}>
          {isLive ? "Hold still" : "Go on live"}
        </button>
      </div>
      <Shown of={shown} what="requests">
        {() => <Rows feed={feed.current} filter={filter} isLive={isLive} older={() => void older()} />}
      </Shown>
    </div>
  );
}

function read(page: Requests): Page<RequestRow> {
  return { rows: page.requests, next: page.next };
}

function Rows(props: { feed: Feed; filter: Filter; isLive: boolean; older: () => void }) {
  const { feed, filter } = props;
  if (feed.rows.length === 0) {
    const isFiltered = Object.values(filter).some((one) => one !== "");
    return (
      <Card>
        {isFiltered ? (
          <Empty title="No request is like this">The newest 5,000 of a node are kept for this list. <a href="#/requests">Show all of them</a></Empty>
        ) : (
          <Empty title="No request has come in yet">Send one to <code>/v1/chat/completions</code>; it appears here within a second or two after it has ended.</Empty>
        )}
      </Card>
    );
  }
  const canGrow = feed.next !== null && feed.rows.length < MOST_SHOWN;
  return (
    <div>
      <Incomplete missing={feed.incomplete} />
      <Card flush label="Requests">
        <div class="requests" data-testid="requests"><Table
          caption="Requests, the newest first"
          rows={feed.rows}
          id={(row) => row.id}
          columns={[
            { name: "Time", title: true, cell: (row) => <a href={href(["requests", row.id])}>{format.time(row.time)}</a> },
            { name: "Outcome", cell: (row) => <Outcome row={row} /> },
            { name: "Route", cell: (row) => (row.route ? <a href={href(["routes", row.route])}>{row.route}</a> : <span class="muted">none</span>) },
            { name: "Arm", cell: (row) => <Arm row={row} /> },
            { name: "Took", number: true, cell: (row) => format.milliseconds(row.duration_ms) },
            { name: "First token", number: true, cell: (row) => format.milliseconds(row.ttft_ms) },
            { name: "Cost", number: true, cell: (row) => format.usd(row.cost_usd) },
          ]}
        /></div>
      </Card>
      <div class="row spread pages">
        <span class="muted small">{format.count(feed.rows.length)} shown{props.isLive ? ", live" : ", held still"}</span>
        {canGrow && <button type="button" class="button small" onClick={props.older}>Older</button>}
      </div>
    </div>
  );
}

function Outcome(props: { row: RequestRow }) {
  const { row } = props;
  const status = row.status !== null && row.outcome !== "completed" ? ` ${row.status}` : "";
  return (
    <span class="marks">
      <Badge tone={outcomeTone(row.outcome)}>{outcomeWords(row.outcome)}{status}</Badge>
      {row.cached && <Badge tone="accent">cache</Badge>}
      {row.attempts > 1 && <Badge tone="warn">{row.attempts} attempts</Badge>}
      {row.error !== null && <span class="small muted">{format.words(row.error)}</span>}
    </span>
  );
}

function Arm(props: { row: RequestRow }) {
  const { row } = props;
  return (
    <span class="marks">
      <span>{row.arm || row.model || format.UNKNOWN}</span>
      {row.served_by !== null && row.served_by !== row.arm && <span class="small muted">served by {row.served_by}</span>}
      {row.side === "candidate" && <Badge tone="accent">candidate</Badge>}
    </span>
  );
}

function Filters(props: { filter: Filter }) {
  const { filter } = props;
  const table = usePolled((client, signal) => client.routes(signal), [], 30_000);
  const routes = table.data?.routes ?? [];
  const chosen = routes.find((one) => one.name === filter.route);
  const sides = chosen ? [chosen.control, chosen.candidate] : routes.flatMap((one) => [one.control, one.candidate]);
  const arms = [...new Set(sides.flatMap((side) => side?.arms.map((arm) => arm.id) ?? []))].sort();
  const set = (next: Partial<Filter>) => go(href(["requests"], { ...filter, ...next }), true);
  return (
    <div class="filters">
      <Choice name="Route" all="all routes" options={routes.map((one) => one.name)} value={filter.route} choose={(route) => set({ route, arm: "" })} />
      <Choice name="Arm" all="all arms" options={arms} value={filter.arm} choose={(arm) => set({ arm })} />
      <Choice name="Outcome" all="all outcomes" options={OUTCOMES} value={filter.outcome} choose={(outcome) => set({ outcome })} words={outcomeWords} />
    </div>
  );
}

function Choice(props: { name: string; all: string; options: string[]; value: string; choose: (value: string) => void; words?: (value: string) => string }) {
  // What the address says is an option even when nobody offers it.
  const options = props.value !== "" && !props.options.includes(props.value) ? [...props.options, props.value] : props.options;
  return (
    <label class="field">
      <span>{props.name}</span>
      <select value={props.value} onChange={(event) => props.choose(event.currentTarget.value)}>
        <option value="">{props.all}</option>
        {options.map((one) => <option key={one} value={one}>{props.words?.(one) ?? one}</option>)}
      </select>
    </label>
  );
}

/** By the id of ours (`x-llm-optimizer-request-id`) or by the id in a provider's answer. */
function Lookup() {
  const { client, tell, askForKey } = useApp();
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const find = async (event: Event) => {
    event.preventDefault();
    const id = typed.trim();
    if (id === "" || busy) return;
    if (id.startsWith("req_")) {
      go(href(["requests", id]));
      return;
    }
    setBusy(true);
    try {
      const found = await client.get<{ request_id: string }>(`/api/v1/responses/${encodeURIComponent(id)}`);
      go(href(["requests", found.request_id]));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.kind === "unauthorized") askForKey();
      tell(error.message, "bad");
    } finally {
      setBusy(false);
    }
  };
  return (
    <form class="lookup" role="search" onSubmit={(event) => void find(event)}>
      <label class="unseen" for="lookup">Request id, or the id of a provider's answer</label>
      <input id="lookup" value={typed} placeholder="req_… or chatcmpl-…" spellcheck={false} autocomplete="off" onInput={(event) => setTyped(event.currentTarget.value)} />
      <button type="submit" class="button" disabled={busy || typed.trim() === ""}>Look up</button>
    </form>
  );
}
