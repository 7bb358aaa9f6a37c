import { describe, expect, it } from "vitest";
import { figure, guard, guardsOf, scale, verdictWords } from "./guards.ts";
import { reasonWords, story } from "./history.ts";
import { readParameters } from "./parameters.ts";
import { optimization, PLAN, verdict } from "./sample.ts";
import { outcomes, stepsOf } from "./stages.ts";

describe("stages", () => {
  it("show how far the present one is in time and samples", () => {
    const row = optimization({ measured: { guards: { error: verdict("error", { candidate_samples: 25 }) }, needs: null } });
    const steps = stepsOf(row, 1350);
    expect(steps.map((step) => step.state)).toEqual(["now", "ahead", "ahead"]);
    expect(steps[0]!.time).toEqual({ done_s: 300, share: 0.5 });
    expect(steps[0]!.samples).toEqual({ done: 25, share: 0.25 });
    expect(outcomes(row)).toBe(25);
  });

  it("mark the one in which a rollout ended", () => {
    const row = optimization({ status: "rolled_back" });
    expect(stepsOf(row, 9999).map((step) => step.state)).toEqual(["failed", "ahead", "ahead"]);
  });

  it("have all passed once it is deployed, and end with all traffic even where the plan does not say so", () => {
    const plan = { ...PLAN, stages: PLAN.stages.slice(0, 1) };
    const steps = stepsOf(optimization({ status: "deployed", plan }), 9999);
    expect(steps.map((step) => [step.percentage, step.state])).toEqual([
      [5, "passed"],
      [100, "passed"],
    ]);
  });
});

describe("guards", () => {
  it("put what failed first and know how near evidence is", () => {
    const found = guardsOf(
      {
        error: verdict("error", { verdict: "pass", e_value: 1 }),
        cost_per_request: verdict("cost_per_request", { verdict: "fail", threshold: 0.01, candidate: 0.02, control: 0.005 }),
      },
      PLAN,
    );
    expect(found.map((one) => one.name)).toEqual(["cost_per_request", "error"]);
    expect(found[0]!.heldTo).toBe("at most $0.0100");
    expect(found[1]!.evidence!.share).toBe(0);
  });

  it("call the evidence of a margin proof and not harm", () => {
    const one = guard("success_margin", verdict("success_margin", { alpha: 0.04, e_value: 5, threshold: -0.02, control: 0.98 }), PLAN);
    expect(one.evidence!.share).toBeCloseTo(0.5);
    expect(one.limit).toBeCloseTo(0.96);
    expect(verdictWords(one)).toBe("not proven yet");
  });

  it("keep both sides and the limit on one scale", () => {
    const found = scale(guard("error_rate", verdict("error_rate", { candidate: 0.2, control: 0.01, threshold: 0.05 }), PLAN));
    expect(found.candidate).toBeGreaterThan(found.limit!);
    expect(found.limit).toBeGreaterThan(found.control!);
    expect(figure(0.2, "share")).toBe("20%");
  });

  it("show one that this page does not know", () => {
    expect(guard("new_one", verdict("new_one"), PLAN).title).toBe("new_one");
  });
});

describe("the story", () => {
  it("is told in order, also within one instant", () => {
    const row = (id: string, action: string, detail = {}) => ({ id, at: 5, actor: "optimizer", action, target: "opt_1", detail });
    const told = story([row("opt_1:3", "optimization.deploy"), row("opt_1:10", "optimization.rollback", { reason: "guard:error" }), row("a", "keys.create")]);
    expect(told.map((moment) => moment.verb)).toEqual(["deploy", "rollback"]);
    expect(reasonWords(told[1]!.reason)).toBe("the guard error failed");
    expect(reasonWords("never_heard_of")).toBe("never heard of");
  });
});

describe("parameters", () => {
  const parameter = (name: string, type: string, more = {}) => ({
    name, type, description: "", default: null, required: false, minimum: null, maximum: null, ...more,
  });
  const strategy = {
    name: "s",
    summary: "",
    parameters: [parameter("share", "number", { minimum: 0, maximum: 1 }), parameter("arms", "texts"), parameter("policy", "table"), parameter("objectives", "list", { required: true })],
  };

  it("are read by their kind, and what is empty is left out", () => {
    const reading = readParameters(strategy, { share: "40%", arms: "a, b", policy: '{"type":"fixed"}', objectives: "cost, quality" });
    expect(reading.parameters).toEqual({ share: 0.4, arms: ["a", "b"], policy: { type: "fixed" }, objectives: ["cost", "quality"] });
    expect(reading.problems).toEqual({});
  });

  it("are refused one by one", () => {
    const reading = readParameters(strategy, { share: "3", policy: "{" });
    expect(reading.problems).toEqual({ share: "must be at most 1", policy: "must be JSON", objectives: "is required" });
  });
});
