// One route: who gets its traffic, what is believed of its arms and why, what it costs and saves, and what it must keep.
import { useMemo, useRef, useState } from "preact/hooks";

import type { Client } from "../../api/client.ts";
import { ApiError } from "../../api/error.ts";
import { own } from "../../api/records.ts";
import type { Arms, Densities, History, Routes, Savings, Summary, TableRoute } from "../../api/types.ts";
import { useApp, usePolled } from "../../app/context.ts";
import { go, href } from "../../app/router.ts";
import { look } from "../../charts/palette.ts";
import { Badge, format, Incomplete, missingOf, Shown } from "../../parts/index.ts";
import { armsOf, baselineOf } from "../overview/model.ts";
import { optional, Seldom } from "../overview/seldom.ts";
import { ArmTable } from "./ArmTable.tsx";
import { Beliefs } from "./Beliefs.tsx";
import { Kept } from "./Kept.tsx";
import { Money } from "./Money.tsx";
import { type Looks, usual } from "./plots.ts";
import "./route.css";
import { Summing } from "./Summing.tsx";
import { Service, Traffic } from "./Traffic.tsx";

/** How far back, in how many steps, and how often that is asked for. */
const RANGES = {
  "15m": { name: "15 min", minutes: 15, points: 90, ms: 5_000 },
  "1h": { name: "1 h", minutes: 60, points: 120, ms: 8_000 },
  "24h": { name: "24 h", minutes: 1440, points: 144, ms: 30_000 },
  "14d": { name: "14 d", minutes: 20_160, points: 168, ms: 60_000 },
} as const;
type Range = keyof typeof RANGES;

const DENSITIES_MS = 5_000;

export interface Seen {
  readonly route: TableRoute;
  readonly version: number;
  readonly arms: Arms;
  readonly summary: Summary;
  readonly savings: Savings | null;
  readonly history: History | null;
  readonly densities: Densities | null;
  /** What `history` is of: the range that is asked for may already be another one. */
  readonly range: Range;
}

export default function RouteView() {
  const { place } = useApp();
  const name = place.path[1] ?? "";
  // Another route is another view: nothing of the one before may be seen in it.
  return <OneRoute key={name} name={name} range={rangeOf(place.query["range"])} />;
}

function OneRoute(props: { name: string; range: Range }) {
  const { name, range } = props;
  const seldom = useRef(new Seldom());
  const polled = usePolled((client, signal) => read(client, signal, name, range, seldom.current), [name]);
  const choose = (next: Range) => {
    go(href(["routes", name], { range: next === "1h" ? null : next }), true);
    // The next tick would do, but whoever pressed a button looks now.
    setTimeout(polled.again);
  };
  return (
    <>
      <div class="head">
        <div>
          <p class="small"><a href="#/">Overview</a> / Route</p>
          <h1>{name}</h1>
        </div>
        <div class="ranges" role="group" aria-label="Time range of the charts">
          {Object.entries(RANGES).map(([id, one]) => (
            <button key={id} type="button" class="button small" aria-pressed={id === range} onClick={() => choose(id as Range)}>{one.name}</button>
          ))}
        </div>
      </div>
      <Shown of={polled} what={`the route ${name}`}>{(seen) => <Page seen={seen} />}</Shown>
    </>
  );
}

function Page(props: { seen: Seen }) {
  const { seen } = props;
  const { route, history, densities } = seen;
  const looks = useLooks(route, history);
  const [wish, setWish] = useState<ReadonlySet<string> | null>(null);
  const arms = seen.arms.arms.filter((arm) => arm.route === route.name);
  const drawn = useSame(wish ?? usual(arms, route.control.baseline));
  const span = `in the last ${RANGES[seen.range].name}`;
  const saving = own(seen.savings?.routes, route.name);
  return (
    <div class="stack">
      <Incomplete missing={missingOf(seen.arms, seen.summary, seen.savings, history, densities)} />
      <About route={route} version={seen.version} />
      <Summing route={route} figures={own(seen.summary.routes, route.name)} saving={saving} />
      <Kept steering={own(seen.arms.steering, route.name)} arms={arms} />
      <Traffic route={route} history={history} looks={looks} span={span} />
      <ArmTable route={route} arms={arms} looks={looks} drawn={drawn} draw={setWish} />
      <Beliefs densities={densities} looks={looks} drawn={drawn} />
      <Money history={history} saving={saving} baseline={baselineOf(route)} span={span} />
      <Service history={history} looks={looks} drawn={drawn} span={span} />
    </div>
  );
}

function About(props: { route: TableRoute; version: number }) {
  const { route } = props;
  return (
    <p class="row small" data-testid="about">
      <Badge tone="accent">{format.words(route.control.policy)}</Badge>
      <span>baseline <strong>{route.control.baseline}</strong></span>
      {route.match.length > 0 && <span class="muted">also answers to {route.match.join(", ")}</span>}
      {route.sticky !== null && <Badge>sticky by {format.words(route.sticky.by)}</Badge>}
      {route.context !== null && <Badge>{route.context.by_request ? "decides by what the request is" : "learns what requests are"}</Badge>}
      {route.deployed.map((one) => <a key={one.optimization} href={href(["rollouts", one.optimization])}><Badge tone="good">deployed: {one.name}</Badge></a>)}
      <span class="muted">table {props.version}</span>
    </p>
  );
}

/** The set of before while it holds the same: charts are drawn again for another one. */
function useSame(arms: ReadonlySet<string>): ReadonlySet<string> {
  const key = JSON.stringify([...arms].sort());
  return useMemo(() => arms, [key]);
}

/** The look of each arm by its place in the route; those that only history knows come after. */
function useLooks(route: TableRoute, history: History | null): Looks {
  const { theme } = useApp();
  const ids = armsOf(route).map((arm) => arm.id);
  const names = [...ids, ...(history?.arms ?? []).map((arm) => arm.arm).filter((arm) => !ids.includes(arm))];
  const key = JSON.stringify(names);
  return useMemo(() => {
    const places = new Map(names.map((name, place) => [name, look(place, theme)]));
    return (arm: string) => places.get(arm) ?? look(names.length, theme);
  }, [key, theme]);
}

async function read(client: Client, signal: AbortSignal, name: string, range: Range, seldom: Seldom): Promise<Seen> {
  const { minutes, points, ms } = RANGES[range];
  const [routes, arms, summary, savings, history, densities] = await Promise.all([
    client.routes(signal),
    client.arms(name, signal),
    client.summary(signal),
    optional(client.savings(signal)),
    optional(seldom.of(`history ${range}`, ms, () => client.history({ minutes, points, route: name }, signal))),
    optional(seldom.of("densities", DENSITIES_MS, () => client.densities(name, signal))),
  ]);
  return { ...found(routes, name), arms, summary, savings, history, densities, range };
}

function found(routes: Routes, name: string): { route: TableRoute; version: number } {
  const route = routes.routes.find((one) => one.name === name);
  if (route === undefined) throw new ApiError("refused", `There is no route ${name} in the routing table in use.`, 404);
  return { route, version: routes.table_version };
}

const rangeOf = (text: string | undefined): Range => (text !== undefined && Object.hasOwn(RANGES, text) ? (text as Range) : "1h");
