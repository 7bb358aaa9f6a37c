// What a contextual decision looked at, and how it weighed the arms.
import type { Decision, ScoreRow } from "../../api/types.ts";
import { Badge, Card, Empty, format, Table } from "../../parts/index.ts";
import { featuresOf } from "./decision.ts";

export function Context(props: { decision: Decision }) {
  const { decision } = props.decision;
  if (decision === null) return null;
  return (
    <div class="stack">
      <Card title="What was seen of it" aside={`features ${decision.features_version}`}>
        <Features decision={props.decision} />
      </Card>
      <Card title="How the arms were weighed" flush={decision.arms !== null} label="Scores">
        {decision.arms === null ? (
          <Empty title="No scores">The policy that decided is no longer kept, or it did not draw by the request.</Empty>
        ) : (
          <Scores rows={decision.arms} chosen={String(props.decision.data["arm"] ?? "")} />
        )}
        {decision.difference !== null && decision.difference > 0.001 && (
          <p class="small muted inset">Computed again the probabilities differ by up to {format.share(decision.difference)} from those that were logged.</p>
        )}
      </Card>
    </div>
  );
}

function Features(props: { decision: Decision }) {
  const features = featuresOf(props.decision);
  if (features.length === 0) return <Empty title="Nothing in particular" />;
  const most = Math.max(...features.map((feature) => Math.abs(feature.value)), 1e-9);
  return (
    <ul class="features" data-testid="features">
      {features.map((feature) => (
        <li key={feature.name}>
          <span>{feature.name}</span>
          <svg viewBox="-50 0 100 8" preserveAspectRatio="none" aria-hidden="true">
            <rect class="whole" x="-50" width="100" height="8" />
            <rect class={feature.value < 0 ? "less" : "part"} x={Math.min(0, (50 * feature.value) / most)} width={(50 * Math.abs(feature.value)) / most} height="8" />
          </svg>
          <span class="number">{feature.value.toFixed(3).replace("-", "−")}</span>
        </li>
      ))}
    </ul>
  );
}

function Scores(props: { rows: ScoreRow[]; chosen: string }) {
  const rows = [...props.rows].sort((one, other) => Number(other.eligible) - Number(one.eligible) || other.mean - one.mean);
  return (
    <Table
      caption="Scores of the arms, the best first"
      rows={rows}
      id={(row) => row.arm}
      columns={[
        {
          name: "Arm",
          title: true,
          cell: (row) => (
            <span class="marks">
              {row.arm}
              {row.arm === props.chosen && <Badge tone="accent">chosen</Badge>}
              {!row.eligible && <Badge>no choice</Badge>}
            </span>
          ),
        },
        { name: "Worth", number: true, cell: (row) => row.value.toFixed(3) },
        { name: "Charged", number: true, cell: (row) => penalties(row) },
        { name: "Score", number: true, cell: (row) => <b>{row.mean.toFixed(3)} ± {row.deviation.toFixed(3)}</b> },
        { name: "Cost", number: true, cell: (row) => format.usd(row.predicted_cost_usd) },
        { name: "Explores", number: true, cell: (row) => format.share(row.given) },
        { name: "Chance", number: true, cell: (row) => format.share(row.probability) },
      ]}
    />
  );
}

function penalties(row: ScoreRow): string {
  const whole = row.penalties.reduce((sum, one) => sum + one, 0);
  return row.penalties.length > 1 ? `${whole.toFixed(3)} (${row.penalties.map((one) => one.toFixed(3)).join(" + ")})` : whole.toFixed(3);
}
