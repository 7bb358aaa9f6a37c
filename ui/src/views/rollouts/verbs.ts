// What a person may order: the words on the button, what will happen, and what a refusal means. Pure.
import type { Optimization, Plan, Verb } from "../../api/types.ts";

/** A button: a verb of the API, and promoting by all stages at once, which is the same verb with `full`. */
export type Button = Verb | "promote_full";

export interface Order {
  button: Button;
  label: string;
  title: string;
  /** Sentences about what happens, the most important first. */
  says: string[];
  /** It takes traffic away or can't be undone: shown as such. */
  isGrave: boolean;
}

/** Every button of the page, in its order; which of them work now is said by the answer's `verbs`. */
export const BUTTONS: readonly Button[] = [
  "deploy",
  "resume",
  "promote",
  "promote_full",
  "pause",
  "rollback",
  "abort",
  "retry",
  "delete",
];

const LABELS: Record<Button, string> = {
  deploy: "Deploy",
  promote: "Promote one stage",
  promote_full: "Promote to 100%",
  pause: "Pause",
  resume: "Resume",
  rollback: "Roll back",
  abort: "Abort",
  retry: "Retry",
  delete: "Delete",
};

const MEANINGS: Record<Button, string> = {
  deploy: "Bring the proposal to traffic.",
  promote: "On to the next stage without waiting for its time and samples.",
  promote_full: "All traffic now, without the stages that are left.",
  pause: "Hold the share where it is.",
  resume: "Go on with the same stage.",
  rollback: "Take all traffic from the candidate.",
  abort: "Take all traffic from the candidate, for good.",
  retry: "Begin a new attempt.",
  delete: "Remove it from the lists.",
};

/** Before there is traffic, rolling back is refusing, and deploying waits for a proposal where there is none. */
export function label(row: Pick<Optimization, "status" | "proposal">, button: Button): string {
  if (button === "rollback" && (row.status === "collecting" || row.status === "proposed")) return "Refuse";
  return button === "deploy" && row.proposal === null ? "Deploy when proposed" : LABELS[button];
}

/** Whether the server would take it now. Promoting to all is the same verb as promoting by a stage. */
export function isAllowed(row: Pick<Optimization, "verbs">, button: Button): boolean {
  return row.verbs.includes(button === "promote_full" ? "promote" : button);
}

/** What a button says when one points at it: its meaning, or why it does not work now. */
export function hint(row: Pick<Optimization, "verbs" | "status" | "reason">, button: Button): string {
  if (isAllowed(row, button)) return MEANINGS[button];
  const now = statusWords(row);
  if (button === "resume" && row.reason === "approval") {
    return "It waits for approval: promote it, or roll it back.";
  }
  return `Not possible while it is ${now}.`;
}

export function statusWords(row: Pick<Optimization, "status">): string {
  return row.status.replace("_", " ");
}

/** The share of a stage, 0..100: as it was written, because 12.5 is not 13. */
export function percent(value: number): string {
  return `${Number(value.toPrecision(4))}%`;
}

/** The shares of a plan one after the other: `5 % → 25 % → 100%`. */
export function planWords(plan: Plan): string {
  const steps = plan.stages.map((stage) => percent(stage.percentage));
  if (steps.length === 0) return "100% at once";
  if (plan.stages[plan.stages.length - 1]!.percentage < 100) steps.push("100%");
  return steps.join(" → ");
}

/** The share that promoting by one stage leads to. */
export function nextShare(row: Pick<Optimization, "rollout">): number {
  const rollout = row.rollout;
  const stages = rollout?.plan.stages ?? [];
  return stages[(rollout?.stage ?? 0) + 1]?.percentage ?? 100;
}

/** What the dialog says before `verb` is sent. */
export function order(row: Optimization, button: Button): Order {
  return {
    button,
    label: label(row, button),
    title: `${label(row, button)}: ${row.name}`,
    says: SAYS[button](row),
    isGrave: button === "rollback" || button === "abort" || button === "delete" || button === "promote_full",
  };
}

const SAYS: Record<Button, (row: Optimization) => string[]> = {
  deploy: (row) =>
    row.proposal === null
      ? [
          "There is no proposal yet. As soon as there is one, and the route is free, it is deployed without asking again.",
          `It then goes ${planWords(row.plan)}.`,
        ]
      : [
          firstStep(row),
          row.plan.stages.length > 1 || row.plan.approval ? `The plan is ${planWords(row.plan)}.` : "",
          row.plan.checks.enabled
            ? "Guards compare it with the rest of the traffic and take it back by themselves when it does harm."
            : "Health checks are off, so nothing takes it back but a person.",
          row.plan.approval ? "Before 100% it pauses and waits for a person." : "",
        ].filter(Boolean),
  promote: (row) => {
    const next = nextShare(row);
    return [
      next >= 100
        ? `No stage is left below 100%: all traffic of ${row.route} gets the candidate.`
        : `${percent(next)} of the traffic of ${row.route} gets the candidate instead of ${percent(row.candidate_percentage)}.`,
      ...unproven(row),
    ];
  },
  promote_full: (row) => [
    `All traffic of ${row.route} gets the candidate now, instead of ${percent(row.candidate_percentage)}.`,
    "The stages that are left are skipped, and without control traffic the guards that compare see nothing more.",
    ...unproven(row),
  ],
  pause: (row) => [
    `The candidate keeps ${percent(row.candidate_percentage)} of the traffic of ${row.route}, and it does not rise.`,
    "The guards go on and may still roll it back. Nothing else happens until somebody resumes or promotes it.",
  ],
  resume: (row) => [
    `The stage goes on with ${percent(row.candidate_percentage)} of the traffic, and its waiting time begins again.`,
  ],
  rollback: (row) => [
    row.candidate_percentage > 0
      ? `The candidate loses its ${percent(row.candidate_percentage)} of the traffic of ${row.route} at once; requests that are under way end where they are.`
      : "The proposal is refused; no traffic changes.",
    "It is not proposed again while the configuration is the same. Retry brings it back.",
  ],
  abort: (row) => [
    `The candidate loses its ${percent(row.candidate_percentage)} of the traffic of ${row.route} at once.`,
    "It stays aborted until somebody says retry.",
  ],
  retry: (row) =>
    row.proposal === null
      ? ["It looks for a proposal again; no traffic changes."]
      : [firstStep(row), "The requests that get it are drawn anew, and the evidence of the attempt before does not count."],
  delete: () => ["It leaves every list. Its history stays in the audit."],
};

function firstStep(row: Optimization): string {
  const first = row.plan.stages[0];
  const isAtOnce = first === undefined || (first.percentage >= 100 && first.duration_s <= 0);
  return isAtOnce
    ? `All traffic of ${row.route} gets the candidate at once: the plan has no stages.`
    : `${percent(first.percentage)} of the traffic of ${row.route} gets the candidate at once.`;
}

function unproven(row: Optimization): string[] {
  const needs = row.measured.needs;
  if (needs === null || needs.explanation === "") return [];
  return needs.waits_for === "" ? [] : [`The stage is not decided yet: ${needs.explanation}.`];
}

/** The verb of the API behind a button, and what goes with it. */
export function request(button: Button, reason: string): { verb: Verb; body: { reason?: string; full?: boolean } } {
  const why = reason.trim() === "" ? {} : { reason: reason.trim() };
  return button === "promote_full" ? { verb: "promote", body: { full: true, ...why } } : { verb: button, body: why };
}

/** A refused order in words: what it means and what to do. */
export function refusal(status: number, message: string): string {
  if (status === 412) {
    return `Nothing was done, because it has changed since this page read it. ${message} Look again and decide anew.`;
  }
  if (status === 409) return `Nothing was done: ${message}`;
  if (status === 503) return `Nothing was given for certain: ${message} Taking traffic away works even so.`;
  return message;
}
