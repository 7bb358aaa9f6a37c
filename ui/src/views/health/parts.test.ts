import { describe, expect, it } from "vitest";
import type { Health } from "../../api/types.ts";
import { partsOf, workersOf } from "./parts.ts";

const health = (more: Partial<Health>): Health => ({ status: "healthy", components: {}, timestamp: "", ...more });

describe("health", () => {
  it("puts what is degraded first, with what to do", () => {
    const parts = partsOf(health({
      components: { workers: "healthy", database: "degraded", kafka: "off" },
      workers: { "0": {} },
      database: { error: "no such file", pending_rows: 2 },
    }));
    expect(parts.map((part) => part.name)).toEqual(["database", "workers", "kafka"]);
    expect(parts[0]!.says).toBe("no such file; 2 rows wait to be written.");
    expect(parts[0]!.advice).not.toBe("");
    expect(parts[1]!.says).toBe("1 worker reports.");
    expect(parts[2]!.says).toBe("Not used.");
  });

  it("shows a part or a state that it does not know", () => {
    expect(partsOf(health({ components: { new_part: "odd" } }))).toMatchObject([{ title: "new part", state: "unknown", says: "odd" }]);
  });

  it("says what a stranger may see without figures", () => {
    expect(partsOf(health({ components: { breakers: "degraded" } }))[0]!.says).toBe("A breaker is open.");
  });

  it("knows which workers are behind", () => {
    const workers = workersOf(health({ timestamp: "2026-11-23T09:00:10Z", table: { version: 7, published_at: Date.parse("2026-11-23T09:00:00Z") / 1000 }, workers: { "10": { table_version: 7 }, "2": { table_version: 6 } } }));
    expect(workers.map((worker) => [worker.name, worker.isBehind])).toEqual([["2", true], ["10", false]]);
  });
});
