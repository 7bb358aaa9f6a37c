import { describe, expect, it } from "vitest";
import { optimization, PLAN } from "./sample.ts";
import { BUTTONS, hint, isAllowed, nextShare, order, planWords, refusal, request } from "./verbs.ts";

describe("orders", () => {
  it("are allowed exactly where the answer says so", () => {
    const row = optimization();
    expect(BUTTONS.filter((button) => isAllowed(row, button))).toEqual(["promote", "promote_full", "pause", "rollback", "abort"]);
    expect(hint(row, "resume")).toBe("Not possible while it is running.");
  });

  it("say what will happen with the numbers of this rollout", () => {
    const said = order(optimization(), "promote").says.join(" ");
    expect(said).toContain("50% of the traffic of chat gets the candidate instead of 5%");
    expect(order(optimization(), "rollback").says[0]).toContain("loses its 5% of the traffic of chat at once");
  });

  it("say that deploying without a proposal waits for one", () => {
    expect(order(optimization({ proposal: null }), "deploy").says[0]).toContain("As soon as there is one");
  });

  it("say that all traffic moves at once where the plan has no stages", () => {
    const said = order(optimization({ status: "proposed", plan: { ...PLAN, stages: [] } }), "deploy").says[0];
    expect(said).toContain("All traffic of chat gets the candidate at once");
  });

  it("warn that a stage is not decided when somebody promotes it", () => {
    const needs = { waits_for: "samples" as const, explanation: "3 of 100 outcomes are there", time_s: 0, samples: 97, expected_s: null, pauses_in_s: null };
    const row = optimization({ measured: { guards: {}, needs } });
    expect(order(row, "promote_full").says.join(" ")).toContain("3 of 100 outcomes are there");
  });

  it("lead from the last written stage to all traffic", () => {
    const row = optimization();
    expect(nextShare({ rollout: { ...row.rollout!, stage: 2 } })).toBe(100);
    expect(planWords({ ...PLAN, stages: PLAN.stages.slice(0, 2) })).toBe("5% → 50% → 100%");
  });

  it("send promoting to all as a promotion with `full`, and no empty reason", () => {
    expect(request("promote_full", " ")).toEqual({ verb: "promote", body: { full: true } });
    expect(request("pause", " lunch ")).toEqual({ verb: "pause", body: { reason: "lunch" } });
  });

  it("explain what a refusal means", () => {
    expect(refusal(412, "It is paused at revision 7 now.")).toMatch(/changed since this page read it.*revision 7/);
    expect(refusal(409, "busy")).toBe("Nothing was done: busy");
  });
});
