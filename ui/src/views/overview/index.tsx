// What the product does, what it saves, and what asks for attention: everything on one page, one row per route.
import { useRef, useState } from "preact/hooks";

import type { Client } from "../../api/client.ts";
import type { Arms, Health, History, Optimization, Routes, Savings, Summary } from "../../api/types.ts";
import { useApp, usePolled } from "../../app/context.ts";
import { go, href } from "../../app/router.ts";
import { rate, score } from "../../charts/numbers.ts";
import { Empty, Figure, format, Incomplete, missingOf, Shown } from "../../parts/index.ts";
import { Attention } from "./Attention.tsx";
import { alerts, type Order, ORDERS, rows, spent } from "./model.ts";
import "./overview.css";
import { RouteTable } from "./RouteTable.tsx";
import { Saved } from "./Saved.tsx";
import { Meter, optional, Seldom } from "./seldom.ts";

const WATCHED = "running,paused,rolled_back";
// Tables of thousands of arms and an hour of history do not change between two looks.
const LARGE_MS = 10_000;
const MANY_ARMS = 200;
const FEW_ROUTES = 20;

export interface Seen {
  readonly summary: Summary;
  readonly routes: Routes;
  readonly savings: Savings | null;
  readonly history: History | null;
  readonly arms: Arms | null;
  readonly health: Health | null;
  readonly optimizations: readonly Optimization[] | null;
  readonly perSecond: number | null;
  readonly now: number;
}

export default function Overview() {
  const seldom = useRef(new Seldom());
  const meter = useRef(new Meter());
  const polled = usePolled((client, signal) => look(client, signal, seldom.current, meter.current));
  return (
    <>
      <div class="head">
        <h1>Overview</h1>
        {polled.data !== null && <p class="small">Totals of all that its state remembers, restarts included{running(polled.data)}</p>}
      </div>
      <Shown of={polled} what="the overview">{(seen) => <Page seen={seen} />}</Shown>
    </>
  );
}

function Page(props: { seen: Seen }) {
  const { seen } = props;
  const { place } = useApp();
  const [text, setText] = useState(place.query["filter"] ?? "");
  const [order, setOrder] = useState<Order>(orderOf(place.query["order"]));
  const keep = (nextText: string, nextOrder: Order) => {
    setText(nextText);
    setOrder(nextOrder);
    go(href([], { filter: nextText, order: nextOrder === "requests" ? null : nextOrder }), true);
  };
  const found = alerts(seen.health, seen.arms, seen.optimizations ?? [], seen.now);
  const missing = missingOf(seen.summary, seen.arms, seen.savings, seen.history);
  return (
    <div class="stack">
      <Incomplete missing={missing} />
      <Attention alerts={found} known={seen.health !== null && seen.arms !== null && seen.optimizations !== null && missing.length === 0} />
      {seen.summary.total.requests === 0 && seen.routes.routes.length > 0 && (
        <p class="attention small" data-testid="first">
          No request has come yet. Send one to <code>{location.origin}/v1/chat/completions</code> with <code>{`"model": ${JSON.stringify(seen.routes.routes[0]?.name ?? "")}`}</code>; this page fills by itself.
        </p>
      )}
      <Saved saving={seen.savings?.total ?? null} history={seen.history} routes={seen.routes.routes} />
      <Tiles seen={seen} />
      {seen.routes.routes.length === 0 ? (
        <Empty title="No routes are configured">Routes say which models may answer. They are made in the configuration file, under `routes`.</Empty>
      ) : (
        <RouteTable
          rows={rows(seen.routes, seen.summary, seen.savings, seen.history, found)}
          text={text}
          order={order}
          change={keep}
        />
      )}
    </div>
  );
}

function Tiles(props: { seen: Seen }) {
  const { summary, perSecond } = props.seen;
  const { total, quality } = summary;
  const priced = total.requests - total.cost_unknown_requests;
  const trend = quality.trend;
  return (
    <div class="figures">
      <Figure name="Requests" value={rate(perSecond)} note={`${format.count(total.requests)} in all, ${format.count(total.tokens)} tokens`} />
      <Figure
        name="Cost"
        value={spent(total)}
        note={priced > 0 ? `${format.usd((total.cost_usd / priced) * 1000)} per 1,000 requests${unpriced(total.cost_unknown_requests)}` : "no request has a known price yet"}
      />
      <Figure
        name="Error rate, last 5 min"
        value={total.requests === 0 ? format.UNKNOWN : format.share(total.error_rate_5m)}
        tone={total.error_rate_5m >= 0.05 ? "bad" : undefined}
        note={`${format.count(total.failed)} of ${format.count(total.requests)} failed in all, after retries and fallbacks`}
      />
      <Figure
        name="Latency, p95"
        value={format.seconds(total.latency_p95_s)}
        note={total.latency_p95_s === null ? "nothing is completed yet" : `p50 ${format.seconds(total.latency_p50_s)}, both upper bounds; mean ${format.seconds(total.latency_mean_s)}`}
      />
      <Figure
        name="Quality served"
        value={score(quality.score)}
        note={trend === null ? "no ratings yet" : trendOf(trend)}
      />
    </div>
  );
}

function trendOf(trend: number): string {
  if (Math.abs(trend) < 0.0005) return "the same with the present shares";
  return `${trend > 0 ? "+" : ""}${score(trend)} with the present shares`;
}

const unpriced = (count: number): string => (count > 0 ? `; ${format.count(count)} without a known price` : "");

async function look(client: Client, signal: AbortSignal, seldom: Seldom, meter: Meter): Promise<Seen> {
  const [summary, health, found] = await Promise.all([
    client.summary(signal),
    optional(client.health(signal)),
    optional(client.optimizations({ status: WATCHED, limit: 200 }, signal)),
  ]);
  const routes = await seldom.of("routes", 0, () => client.routes(signal));
  const size = routes.routes.reduce((sum, route) => sum + route.control.arms.length, 0);
  const pause = size > MANY_ARMS ? LARGE_MS : 0;
  const [savings, history, arms] = await Promise.all([
    optional(seldom.of("savings", 0, () => client.savings(signal))),
    optional(seldom.of("history", LARGE_MS, () => client.history({ minutes: 60, points: routes.routes.length > FEW_ROUTES ? 60 : 180 }, signal))),
    optional(seldom.of("arms", pause, () => client.arms(undefined, signal))),
  ]);
  const now = Date.now() / 1000;
  return {
    summary, routes, savings, history, arms, health, now,
    optimizations: found?.optimizations ?? null,
    // Without a node's part the total is another total.
    perSecond: (summary.incomplete?.length ? null : meter.rate(now, summary.total.requests)) ?? lastMinute(history),
  };
}

/** Requests per second in the last bucket that is over. */
function lastMinute(history: History | null): number | null {
  if (history === null || history.at.length < 2) return null;
  const at = history.at.length - 2;
  return history.routes.reduce((sum, route) => sum + (route.requests[at] ?? 0), 0) / history.step_s;
}

const orderOf = (text: string | undefined): Order => (text !== undefined && Object.hasOwn(ORDERS, text) ? (text as Order) : "requests");

/** Totals outlive the process, so its age is said apart from them. */
function running(seen: Seen): string {
  const uptime = seen.health?.uptime_seconds;
  return uptime === null || uptime === undefined ? "" : `; the optimizer is up for ${format.seconds(uptime)}`;
}
