// What every guard has measured: both sides on one scale, the limit, the evidence, the samples.
import type { Optimization } from "../../api/types.ts";
import { Badge, Card, Empty, format, Pairs, Table, toneOf } from "../../parts/index.ts";
import { figure, type Guard, guardsOf, scale, verdictWords } from "./guards.ts";
import { isSplitting } from "./model.ts";
import { Meter } from "./Split.tsx";

export function Guards(props: { row: Optimization }) {
  const { row } = props;
  const guards = guardsOf(row.measured.guards, row.plan);
  const aside = isSplitting(row) ? `looked at every ${format.seconds(row.plan.checks.interval_s)}` : "as they stood when it ended";
  return (
    <Card title="Guards" aside={guards.length > 0 ? aside : undefined} flush={guards.length > 0} label="Guards">
      {guards.length === 0 ? (
        <Empty title={row.plan.checks.enabled ? "Nothing was compared" : "Health checks are off"}>
          {row.plan.checks.enabled ? "No stage divided the traffic, or nothing has come in yet." : "Nothing takes this rollout back but a person, or a worker after errors in a row."}
        </Empty>
      ) : (
        <div class="guards">
          <GuardTable guards={guards} minimum={minimum(row)} />
          <details class="inset small">
            <summary>What each of them measures</summary>
            <Pairs of={guards.filter((guard) => guard.measures !== "").map((guard) => [guard.title, guard.measures])} />
          </details>
          <p class="small muted inset">
            Evidence grows with every outcome that speaks against the candidate, and may be looked at at any time; where it reaches the number on the right, the guard fails.
          </p>
        </div>
      )}
    </Card>
  );
}

function GuardTable(props: { guards: Guard[]; minimum: number }) {
  return (
    <Table
      caption="Measured values of both sides, by guard"
      rows={props.guards}
      id={(guard) => guard.name}
      rowClass={(guard) => (guard.verdict.verdict === "fail" ? "failed" : "")}
      columns={[
        { name: "Guard", title: true, cell: (guard) => guard.title },
        { name: "Verdict", cell: (guard) => <Badge tone={toneOf(guard.verdict.verdict)}>{verdictWords(guard)}</Badge> },
        { name: "Candidate", number: true, cell: (guard) => <b>{figure(guard.verdict.candidate, guard.unit)}</b> },
        { name: "Control", number: true, cell: (guard) => (guard.name === "sample_ratio" ? format.UNKNOWN : figure(guard.verdict.control, guard.unit)) },
        { name: "Compared", cell: (guard) => <Compared guard={guard} /> },
        { name: "Held to", cell: (guard) => <span class="small">{guard.heldTo}</span> },
        { name: "Evidence", cell: (guard) => <Evidence guard={guard} /> },
        { name: "Samples", number: true, cell: (guard) => <Samples guard={guard} minimum={props.minimum} /> },
      ]}
    />
  );
}

/** Two bars, the candidate's above the control's, and the limit as a line through both. */
function Compared(props: { guard: Guard }) {
  const { guard } = props;
  const on = scale(guard);
  if (on.candidate === null && on.control === null) return <span class="muted">{format.UNKNOWN}</span>;
  const label = `candidate ${figure(guard.verdict.candidate, guard.unit)}, control ${figure(guard.verdict.control, guard.unit)}, limit ${figure(guard.limit, guard.unit)}`;
  return (
    <svg class={`compared ${guard.verdict.verdict === "fail" ? "fail" : isSuspect(guard) ? "suspect" : ""}`} viewBox="0 0 120 22" preserveAspectRatio="none" role="img" aria-label={label}>
      <rect class="whole" width="120" height="22" />
      <rect class="candidate" y="2" width={120 * (on.candidate ?? 0)} height="8" />
      <rect class="control" y="12" width={120 * (on.control ?? 0)} height="8" />
      {on.limit !== null && <rect class="limit" x={Math.min(118, 120 * on.limit)} width="2" height="22" />}
    </svg>
  );
}

/** Not failed, and well on the way to it. */
function isSuspect(guard: Guard): boolean {
  return guard.evidence?.isFor === "harm" && guard.evidence.share >= 0.3;
}

function Evidence(props: { guard: Guard }) {
  const { evidence, verdict } = props.guard;
  if (evidence === null) {
    if (verdict.low === null && verdict.high === null) return <span class="muted">{format.UNKNOWN}</span>;
    return <span class="small">between {figure(verdict.low, props.guard.unit)} and {figure(verdict.high, props.guard.unit)}</span>;
  }
  const tone = evidence.isFor === "safety" ? "good" : evidence.share >= 1 ? "bad" : isSuspect(props.guard) ? "warn" : "calm";
  const words = `${compact(evidence.value)} of ${compact(evidence.needed)}`;
  return (
    <span class="evidence" title={evidence.isFor === "safety" ? "Evidence that it is safe" : "Evidence of harm; at the whole of it the guard fails"}>
      <Meter share={evidence.share} tone={tone} label={`Evidence of ${evidence.isFor}: ${words}`} />
      <span class="small">{words}</span>
    </span>
  );
}

function Samples(props: { guard: Guard; minimum: number }) {
  const { candidate_samples, control_samples } = props.guard.verdict;
  const needed = props.minimum > 0 && candidate_samples < props.minimum ? ` of ${format.count(props.minimum)}` : "";
  return <span title="Values of the candidate, and of control">{format.count(candidate_samples)}{needed} <span class="muted">/ {format.count(control_samples)}</span></span>;
}

function compact(value: number): string {
  if (value >= 1e6) return `10^${Math.floor(Math.log10(value))}`;
  return value >= 10 ? format.figure(value, 0) : format.figure(value, 1);
}

/** Outcomes of the candidate that the present stage asks for. */
function minimum(row: Optimization): number {
  return row.plan.stages[row.rollout?.stage ?? 0]?.min_samples ?? 0;
}
