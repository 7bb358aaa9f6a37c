import { describe, expect, it } from "vitest";

import type { Arms, Health, Optimization, Saving, TableRoute } from "../../api/types.ts";
import { alerts, armsOf, baselineOf, chosen, claim, type Row, rows, spent, trafficOf } from "./model.ts";

const NOW = 1_800_000_000;
const arm = (id: string, percentage: number) => ({ id, model: id, upstream: "u", variant: "default", parameters: {}, percentage });
const route = (name: string, more: Partial<TableRoute> = {}): TableRoute => ({
  name,
  match: [`${name}-*`],
  sticky: null,
  home: null,
  control: { percentage: 100, policy: "thompson", baseline: "big", arms: [arm("big", 25), arm("small", 75)] },
  rollout: null,
  deployed: [],
  context: null,
  ...more,
});
const saving = (more: Partial<Saving> = {}): Saving => ({
  requests: 100, unknown: 0, actual_usd: 1, baseline_usd: 4, saved_usd: 3,
  low_usd: 2.5, high_usd: 3.5, share: 0.75, low_share: 0.7, high_share: 0.8, ...more,
});
const row = (name: string, saved: number | null, requests = 1): Row => ({
  name,
  route: route(name),
  figures: { requests, completed: 1, failed: 0, error_rate_5m: 0, cost_usd: 1, cost_unknown_requests: 0, tokens: 1, latency_mean_s: 1, latency_p50_s: 1, latency_p95_s: 1, cost_savings_usd: saved, quality_score: null },
  saving: saving({ saved_usd: saved }),
  history: null,
  troubles: [],
});

describe("rows", () => {
  it("are of routes, whatever those are called", () => {
    const routes = { table_version: 1, routes: [route("constructor")] } as unknown as Parameters<typeof rows>[0];
    const [made] = rows(routes, { routes: {} } as unknown as Parameters<typeof rows>[1], null, null, []);
    expect([made?.figures, made?.saving]).toEqual([null, null]);
  });

  it("are compared with the baseline of each time where a deployment may have changed it", () => {
    const deployed = [{ optimization: "opt_1", name: "x", strategy: "manual", deployed_at: 1 }] as unknown as TableRoute["deployed"];
    expect([baselineOf(route("a")), baselineOf(route("a", { deployed }))]).toEqual(["big", "the baseline arm of its time (now big)"]);
  });

  it("do not call what has no known price free", () => {
    expect(spent({ cost_usd: 0, cost_unknown_requests: 40 })).toBe("–");
    expect(spent({ cost_usd: 0, cost_unknown_requests: 0 })).toBe("$0");
    expect(spent({ cost_usd: 2, cost_unknown_requests: 40 })).toBe("$2.00");
  });
});

describe("what is said of a saving", () => {
  it("names the baseline and the interval", () => {
    const said = claim(saving(), "sending everything to big");
    expect(said.value).toBe("$3.00");
    expect(said.tone).toBe("good");
    expect(said.sentence).toBe("75% less than sending everything to big would have cost ($4.00).");
    expect(said.note).toContain("95 % interval $2.50 to $3.50 (70% to 80%).");
  });

  it("does not hide a loss", () => {
    const said = claim(saving({ saved_usd: -1, share: -0.25, low_usd: -1.5, high_usd: -0.5 }), "big");
    expect([said.head, said.value, said.tone]).toEqual(["Spent more so far", "$1.00", "bad"]);
    expect(said.sentence).toContain("25% more than");
  });

  it("says what may be chance, and claims nothing then", () => {
    const said = claim(saving({ low_usd: -0.5, high_usd: 6 }), "big");
    expect(said.tone).toBeUndefined();
    expect(said.note).toContain("includes zero");
  });

  it("says what is not known", () => {
    expect(claim(null, "big").value).toBe("Not known yet");
    const blind = claim(saving({ requests: 0, unknown: 7, saved_usd: null }), "big");
    expect(blind.note).toContain("7 requests could not be compared");
    expect(claim(saving({ low_usd: null, high_usd: null }), "big").note).toContain("can not be said yet");
    expect(claim(saving({ unknown: 20 }), "big").note).toContain("100 of 120 completed requests");
  });
});

describe("rows", () => {
  it("are found by route, pattern and arm", () => {
    const all = [row("alpha", 1), row("beta", 2)];
    expect(chosen(all, "ALPHA-", "name").map((one) => one.name)).toEqual(["alpha"]);
    expect(chosen(all, "small", "name")).toHaveLength(2);
    expect(chosen(all, "nothing", "name")).toEqual([]);
  });

  it("are ordered, the unknown last", () => {
    const all = [row("a", null), row("b", -1), row("c", 5)];
    expect(chosen(all, "", "saved").map((one) => one.name)).toEqual(["c", "b", "a"]);
    expect(chosen(all, "", "lost").map((one) => one.name)).toEqual(["b", "c", "a"]);
  });

  it("add up traffic over both sides of a rollout", () => {
    const split = route("r", {
      control: { percentage: 90, policy: "thompson", baseline: "big", arms: [arm("big", 50), arm("small", 50)] },
      candidate: { percentage: 10, policy: "fixed", baseline: "big", arms: [arm("small", 0), arm("new", 100)] },
    });
    expect(armsOf(split).map((one) => one.id)).toEqual(["big", "small", "new"]);
    const shares = trafficOf(split);
    expect([shares.get("big"), shares.get("small"), shares.get("new")]).toEqual([0.45, 0.45, 0.1]);
    expect([...shares.values()].reduce((a, b) => a + b)).toBeCloseTo(1);
  });
});

describe("alerts", () => {
  const health = (components: Record<string, string>): Health => ({ status: "degraded", components, timestamp: "" });
  const optimization = (status: string): Optimization =>
    ({ id: `o-${status}`, name: status, route: "r", status, explanation: "errors rose", reason: "guard", measured: { guards: {}, needs: null } }) as unknown as Optimization;

  it("name what is not healthy, and a reload that failed", () => {
    const found = alerts(health({ workers: "degraded", kafka: "off", learning: "healthy", configuration: "degraded" }), null, [], NOW);
    expect(found.map((one) => one.title)).toEqual(["Workers is degraded", "The last reload failed"]);
    expect(found.map((one) => one.to)).toEqual([["health"], ["config"]]);
  });

  it("tell of rollbacks and of what waits", () => {
    const found = alerts(null, null, [optimization("running"), optimization("rolled_back"), optimization("paused")], NOW);
    expect(found.map((one) => [one.tone, one.title])).toEqual([["bad", "rolled_back was rolled back on r"], ["warn", "paused is paused on r"]]);
    expect(found[0]?.text).toBe("errors rose");
  });

  it("tell of constraints that can't be kept and of today's changes of arms", () => {
    const alarm = { signal: "latency", before: 0.2, after: 1.5, keep: 0.1, at: NOW - 60 };
    const arms = {
      table_version: 1,
      arms: [{ route: "r", arm: "big", alarms: [alarm, { ...alarm, at: NOW - 2 * 86_400 }] }],
      steering: { r: { gain: 1, kept: [{ name: "cost", target: 0.001, expected: 0.002, actual: null, multiplier: 1, feasible: false }] } },
    } as unknown as Arms;
    const found = alerts(null, arms, [], NOW);
    expect(found.map((one) => one.title)).toEqual(["r can not keep its cost per request", "Latency of big changed suddenly on r"]);
    expect(found[0]?.text).toContain("$0.00200");
    expect(found[1]?.text).toContain("200 ms to 1.5 s, 1 min ago");
  });
});
