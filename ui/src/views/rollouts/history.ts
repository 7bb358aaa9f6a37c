// The audit of one optimization as the story of it: who did what when, and why. Pure.
import type { AuditRow, Verdict } from "../../api/types.ts";

export interface Moment {
  id: string;
  at: number;
  actor: string;
  verb: string;
  title: string;
  from: string;
  to: string;
  reason: string;
  explanation: string;
  /** The candidate's share afterwards, 0..100. */
  percentage: number | null;
  attempt: number | null;
  guards: Record<string, Verdict>;
}

const TITLES: Record<string, string> = {
  create: "Asked for",
  propose: "A change was proposed",
  withdraw: "The proposal was withdrawn",
  note: "Still collecting",
  request: "To be deployed as soon as possible",
  deploy: "Deployed",
  advance: "Next stage",
  complete: "All stages passed",
  promote: "Promoted by a person",
  pause: "Paused",
  resume: "Resumed",
  rollback: "Rolled back",
  abort: "Aborted",
  retry: "New attempt",
  supersede: "Superseded",
  delete: "Deleted",
  withhold: "Traffic was withheld",
  recover: "Recovered after a restart",
};

const REASONS: Record<string, string> = {
  manual: "a person paused it",
  insufficient: "the stage got too little traffic in time",
  approval: "a person is to decide",
  baseline_over_threshold: "control breaks the threshold too",
  baseline_failing: "requests fail on both sides",
  srm: "the traffic was not split as it should have been",
  hard_stop: "a worker stopped it after errors in a row",
  rollback_requested: "a person asked for it",
  abort_requested: "a person asked for it",
  file_changed: "the configuration below it was edited",
  arm_vanished: "the configuration no longer has an arm of it",
  route_vanished: "the configuration no longer has the route",
  covered: "newer deployments change all that it changes",
  route_taken: "another rollout has the route",
};

/** A stable word for people; a guard's name stays what it is, and words that are not known here are shown as they are. */
export function reasonWords(reason: string): string {
  if (reason.startsWith("guard:")) return `the guard ${reason.slice(6)} failed`;
  return REASONS[reason] ?? reason.replaceAll("_", " ");
}

/** The rows about transitions, the oldest first; rows of another kind are left out. */
export function story(rows: readonly AuditRow[]): Moment[] {
  return rows
    .filter((row) => row.action.startsWith("optimization."))
    .map(moment)
    .sort((one, other) => one.at - other.at || revision(one.id) - revision(other.id));
}

function moment(row: AuditRow): Moment {
  const verb = row.action.slice("optimization.".length);
  const detail = row.detail;
  return {
    id: row.id,
    at: row.at,
    actor: row.actor,
    verb,
    title: TITLES[verb] ?? verb,
    from: text(detail["from"]),
    to: text(detail["to"]),
    reason: text(detail["reason"]),
    explanation: text(detail["explanation"]),
    percentage: number(detail["percentage"]),
    attempt: number(detail["attempt"]),
    guards: guards(detail["measured"]),
  };
}

function guards(measured: unknown): Record<string, Verdict> {
  if (typeof measured !== "object" || measured === null) return {};
  const found = Object.entries(measured).filter(
    ([, verdict]) => typeof verdict === "object" && verdict !== null && "verdict" in verdict,
  );
  return Object.fromEntries(found) as Record<string, Verdict>;
}

/** Transitions of the same instant are told apart by the revision that ends their id. */
function revision(id: string): number {
  const last = Number(id.slice(id.lastIndexOf(":") + 1));
  return Number.isFinite(last) ? last : 0;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}
