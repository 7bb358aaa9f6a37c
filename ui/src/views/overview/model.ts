// What the overview says, made of what the product answers. Nothing here draws.
import type { Arms, Health, History, Kept, Optimization, RouteHistory, Routes, Saving, Savings, Summary, TableRoute } from "../../api/types.ts";
import { own } from "../../api/records.ts";
import { format } from "../../parts/index.ts";
import { between } from "../../charts/numbers.ts";

export const DAY_S = 86_400;

export interface Row {
  readonly name: string;
  readonly route: TableRoute;
  readonly figures: Summary["routes"][string] | null;
  readonly saving: Saving | null;
  readonly history: RouteHistory | null;
  readonly troubles: readonly string[];
}

export function rows(routes: Routes, summary: Summary, savings: Savings | null, history: History | null, alerts: readonly Alert[]): Row[] {
  const past = new Map(history?.routes.map((route) => [route.route, route]));
  return routes.routes.map((route) => ({
    name: route.name,
    route,
    figures: own(summary.routes, route.name),
    saving: own(savings?.routes, route.name),
    history: past.get(route.name) ?? null,
    troubles: alerts.filter((alert) => alert.route === route.name).map((alert) => alert.title),
  }));
}

/** What was spent, as far as it is known: of requests without a known price it says nothing, and that is not $0. */
export function spent(figures: { cost_usd: number; cost_unknown_requests: number } | null): string {
  if (figures === null || (figures.cost_usd === 0 && figures.cost_unknown_requests > 0)) return format.UNKNOWN;
  return format.usd(figures.cost_usd);
}

export const ORDERS = {
  name: "Name",
  requests: "Most requests",
  cost: "Highest cost",
  saved: "Most saved",
  lost: "Least saved",
  errors: "Most errors",
  slow: "Slowest",
} as const;
export type Order = keyof typeof ORDERS;

const MEASURES: Readonly<Record<Exclude<Order, "name">, (row: Row) => number | null | undefined>> = {
  requests: (row) => row.figures?.requests,
  cost: (row) => row.figures?.cost_usd,
  saved: (row) => row.saving?.saved_usd,
  lost: (row) => (row.saving?.saved_usd == null ? null : -row.saving.saved_usd),
  errors: (row) => row.figures?.error_rate_5m,
  slow: (row) => row.figures?.latency_p95_s,
};

/** Rows whose route, arms or patterns contain `text`, in `order`; what is not known comes last. */
export function chosen(all: readonly Row[], text: string, order: Order): Row[] {
  const wanted = text.trim().toLowerCase();
  const kept = all.filter((row) => wanted === "" || words(row.route).some((word) => word.toLowerCase().includes(wanted)));
  if (order === "name") return kept.sort((a, b) => a.name.localeCompare(b.name));
  const measure = MEASURES[order];
  const value = (row: Row): number => measure(row) ?? -Infinity;
  return kept.sort((a, b) => (value(a) === value(b) ? a.name.localeCompare(b.name) : value(b) > value(a) ? 1 : -1));
}

const words = (route: TableRoute): string[] => [route.name, ...route.match, ...armsOf(route).map((arm) => arm.id)];

/** Every arm of the route once, control's first: the order that gives arms their looks. */
export function armsOf(route: TableRoute): TableRoute["control"]["arms"] {
  const own = new Set(route.control.arms.map((arm) => arm.id));
  return [...route.control.arms, ...(route.candidate?.arms ?? []).filter((arm) => !own.has(arm.id))];
}

/** Each arm's share of the route's traffic, 0..1, over both sides. */
export function trafficOf(route: TableRoute): Map<string, number> {
  const found = new Map<string, number>();
  for (const side of [route.control, route.candidate])
    for (const arm of side?.arms ?? []) found.set(arm.id, (found.get(arm.id) ?? 0) + (arm.percentage * (side?.percentage ?? 0)) / 10_000);
  return found;
}

export interface Alert {
  readonly id: string;
  readonly tone: "bad" | "warn";
  readonly title: string;
  readonly text: string;
  /** Path of the view that says more. */
  readonly to: string[];
  readonly route?: string;
}

/** Everything that asks for somebody's attention, the worst first. `now` in Unix seconds. */
export function alerts(health: Health | null, arms: Arms | null, optimizations: readonly Optimization[], now: number): Alert[] {
  return [...ofHealth(health), ...rolledBack(optimizations), ...held(optimizations), ...infeasible(arms), ...drifted(arms, now)];
}

function ofHealth(health: Health | null): Alert[] {
  return Object.entries(health?.components ?? {}).flatMap(([part, state]): Alert[] => {
    if (state === "healthy" || state === "off") return [];
    if (part === "configuration")
      return [{ id: part, tone: "bad", title: "The last reload failed", text: "The configuration before it is still in use.", to: ["config"] }];
    return [{ id: part, tone: "bad", title: `${capital(format.words(part))} is ${format.words(state)}`, text: "Health says why.", to: ["health"] }];
  });
}

function rolledBack(optimizations: readonly Optimization[]): Alert[] {
  return optimizations
    .filter((one) => one.status === "rolled_back")
    .map((one) => ({
      id: one.id,
      tone: "bad",
      title: `${one.name} was rolled back on ${one.route}`,
      text: one.explanation || one.reason,
      to: ["rollouts", one.id],
      route: one.route,
    }));
}

function held(optimizations: readonly Optimization[]): Alert[] {
  return optimizations
    .filter((one) => one.status === "paused")
    .map((one) => ({
      id: one.id,
      tone: "warn",
      title: `${one.name} is paused on ${one.route}`,
      text: one.measured.needs?.explanation || one.explanation || one.reason,
      to: ["rollouts", one.id],
      route: one.route,
    }));
}

function infeasible(arms: Arms | null): Alert[] {
  return Object.entries(arms?.steering ?? {}).flatMap(([route, { kept }]) =>
    kept
      .filter((one) => !one.feasible)
      .map((one): Alert => ({
        id: `${route} ${one.name}`,
        tone: "warn",
        title: `${route} can not keep its ${constraint(one).name}`,
        text: `Asked for is ${constraint(one).write(one.target)}; the nearest that its arms can do together is ${constraint(one).write(one.expected)}.`,
        to: ["routes", route],
        route,
      })),
  );
}

function drifted(arms: Arms | null, now: number): Alert[] {
  return (arms?.arms ?? []).flatMap((arm) =>
    arm.alarms
      .filter((alarm) => now - alarm.at < DAY_S)
      .map((alarm): Alert => ({
        id: `${arm.route} ${arm.arm} ${alarm.signal} ${alarm.at}`,
        tone: "warn",
        title: `${capital(format.words(alarm.signal))} of ${arm.arm} changed suddenly on ${arm.route}`,
        text: `From ${signal(alarm.signal)(alarm.before)} to ${signal(alarm.signal)(alarm.after)}, ${format.since(alarm.at, now * 1000)}. What was known before counts ${format.share(alarm.keep)} since.`,
        to: ["routes", arm.route],
        route: arm.route,
      })),
  );
}

type Write = (value: number | null | undefined) => string;

/** How the values of a signal are written. */
export function signal(name: string): Write {
  if (name.startsWith("cost")) return format.usd;
  if (name.startsWith("latency") || name.startsWith("ttft")) return format.seconds;
  return format.share;
}

/** What a constraint is called and how its values are written. */
export function constraint(kept: Kept): { name: string; write: Write } {
  if (kept.name === "cost") return { name: "cost per request", write: format.usd };
  if (kept.name === "late") return { name: "share of late replies", write: format.share };
  return { name: format.words(kept.name), write: format.share };
}

/** What a saving is against. Each request is compared with the baseline of its time, and a deployment may change that. */
export function baselineOf(route: TableRoute): string {
  const { baseline } = route.control;
  return route.deployed.length === 0 ? baseline : `the baseline arm of its time (now ${baseline})`;
}

export interface Claim {
  readonly value: string;
  readonly tone: "good" | "bad" | undefined;
  readonly head: string;
  readonly sentence: string;
  readonly note: string;
}

/** What may honestly be said about a saving. `against` names the baseline. */
export function claim(saving: Saving | null, against: string): Claim {
  if (saving === null || saving.saved_usd === null || saving.requests === 0) return unknown(saving);
  const { saved_usd: saved, share, low_usd: low, high_usd: high } = saving;
  const size = format.share(share === null ? null : Math.abs(share));
  const lost = saved < 0;
  const sentence = lost
    ? `${size} more than ${against} would have cost (${format.usd(saving.baseline_usd)}).`
    : `${size} less than ${against} would have cost (${format.usd(saving.baseline_usd)}).`;
  return {
    value: lost ? format.usd(-saved) : format.usd(saved),
    tone: low === null || high === null || (low <= 0 && high >= 0) ? undefined : lost ? "bad" : "good",
    head: lost ? "Spent more so far" : "Saved so far",
    sentence,
    note: `${certainty(saving)} ${compared(saving)}`,
  };
}

function unknown(saving: Saving | null): Claim {
  const waiting = saving?.unknown ?? 0;
  return {
    value: "Not known yet",
    tone: undefined,
    head: "Saved so far",
    sentence: waiting
      ? "No request could be compared: its own price or what its baseline costs is not known."
      : "A saving is known once completed requests have a price and the baseline arm has served some of them.",
    note: waiting ? `${format.count(waiting)} requests could not be compared; they count as nothing, not as free.` : "",
  };
}

function certainty(saving: Saving): string {
  const { low_usd: low, high_usd: high } = saving;
  if (low === null || high === null) return "How sure that is can not be said yet.";
  const range = `95 % interval ${between(low, high, format.usd)}`;
  if (low <= 0 && high >= 0) return `${range}: it includes zero, so this may still be chance.`;
  return saving.low_share === null || saving.high_share === null ? `${range}.` : `${range} (${between(saving.low_share, saving.high_share, format.share)}).`;
}

function compared(saving: Saving): string {
  const all = saving.requests + saving.unknown;
  if (saving.unknown === 0) return `All ${format.count(all)} completed requests are compared.`;
  return `${format.count(saving.requests)} of ${format.count(all)} completed requests are compared; for the rest their own price or what the baseline costs was not known then, and they count as nothing.`;
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
