// What would change, what is expected of it, and on what evidence.
import type { Candidate, Effect, Optimization, Proposal } from "../../api/types.ts";
import { Card, Empty, format, Pairs, Table } from "../../parts/index.ts";

export function ProposalCard(props: { row: Optimization }) {
  const { row } = props;
  const { proposal } = row;
  const parameters = Object.entries(row.parameters).filter(([, value]) => value !== null);
  return (
    <Card title="Proposal" aside={proposal !== null ? `made ${format.since(proposal.made_at)}` : undefined}>
      {proposal === null ? <Empty title="There is none yet">{row.explanation || "The strategy has not found a change with enough evidence."}</Empty> : <Body proposal={proposal} />}
      {parameters.length > 0 && (
        <details>
          <summary>Asked for with</summary>
          <Pairs of={parameters.map(([name, value]) => [name, <code key={name}>{JSON.stringify(value)}</code>])} />
        </details>
      )}
    </Card>
  );
}

function Body(props: { proposal: Proposal }) {
  const { proposal } = props;
  const samples = Object.entries(proposal.samples);
  const sure = `${format.figure(100 * proposal.confidence, 1)}% interval`;
  return (
    <div class="stack tight">
      <p>{proposal.summary}</p>
      {proposal.effects.length > 0 && (
        <div class="effects">
        <Table
          caption="Expected effects against the baseline"
          rows={proposal.effects}
          id={(effect) => effect.metric}
          columns={[
            { name: "Metric", title: true, cell: (effect) => format.words(effect.metric) },
            { name: "Baseline", number: true, cell: (effect) => amount(effect.baseline, effect.unit) },
            { name: "Then", number: true, cell: (effect) => amount(effect.candidate, effect.unit) },
            {
              name: `Change, ${sure}`,
              number: true,
              cell: (effect) => (
                <span class="change">
                  <b>{change(effect)}</b>
                  <span class="small muted">{signed(effect.low, effect.unit)} to {signed(effect.high, effect.unit)}</span>
                </span>
              ),
            },
          ]}
        />
        </div>
      )}
      <Pairs
        of={[
          ...changes(proposal.candidate),
          ...(proposal.saving_usd_per_day !== null ? ([["Saves", `${format.usd(proposal.saving_usd_per_day)} a day at the traffic of when it was made`]] as [string, string][]) : []),
          ...(samples.length > 0 ? ([["Evidence", samples.map(([arm, count]) => `${arm}: ${format.count(count)}`).join(", ")]] as [string, string][]) : []),
        ]}
      />
    </div>
  );
}

/** The fields of the route that would differ. */
function changes(candidate: Candidate): [string, string][] {
  const rows: [string, string][] = [];
  if (candidate.arms) rows.push(["Arms", candidate.arms.join(", ")]);
  if (candidate.baseline) rows.push(["Baseline", candidate.baseline]);
  if (candidate.policy) {
    const fixed = Object.entries(candidate.policy.fixed).map(([arm, share]) => `${arm} ${format.share(share)}`);
    rows.push(["Policy", fixed.length > 0 ? `${candidate.policy.name}: ${fixed.join(", ")}` : candidate.policy.name]);
  }
  if (candidate.objectives) {
    rows.push(["Objectives", candidate.objectives.map((one) => `${one.maximize ? "more" : "less"} ${one.metric} (${format.figure(one.weight)})`).join(", ")]);
  }
  if (candidate.constraints) {
    const kept = Object.entries(candidate.constraints).filter(([, value]) => typeof value === "number");
    rows.push(["Constraints", kept.map(([name, value]) => `${format.words(name)} ${value}`).join(", ") || "none"]);
  }
  return rows;
}

function amount(value: number, unit: string): string {
  switch (unit) {
    case "usd":
      return format.usd(value);
    case "s":
      return format.seconds(value);
    case "ratio":
      return format.share(value);
    default:
      return `${format.figure(value, 4)} ${unit}`.trim();
  }
}

function signed(value: number, unit: string): string {
  const sign = value > 0 ? "+" : "";
  // The difference of two shares is in points: "+2%" would mean something else.
  return unit === "ratio" ? `${sign}${format.figure(100 * value, 1)} pt` : `${sign}${amount(value, unit)}`;
}

function change(effect: Effect): string {
  const relative = effect.baseline !== 0 && effect.unit !== "ratio" ? ` (${effect.change > 0 ? "+" : ""}${format.share(effect.change / effect.baseline)})` : "";
  return signed(effect.change, effect.unit) + relative;
}
