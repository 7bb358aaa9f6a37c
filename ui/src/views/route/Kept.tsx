// What the route has to keep and whether it can, and sudden changes of its arms. Nothing is shown where neither is.
import type { Alarm, Arm, Arms, Kept as KeptRow } from "../../api/types.ts";
import { Badge, Card, type Column, format, Table } from "../../parts/index.ts";
import { constraint, signal } from "../overview/model.ts";

export function Kept(props: { steering: Arms["steering"][string] | null; arms: readonly Arm[] }) {
  const { steering, arms } = props;
  const alarms = arms.flatMap((arm) => arm.alarms.map((alarm) => ({ ...alarm, arm: arm.arm }))).sort((a, b) => b.at - a.at);
  if ((steering === null || steering.kept.length === 0) && alarms.length === 0) return null;
  return (
    <div class="columns">
      {steering !== null && steering.kept.length > 0 && (
        <Card title="Constraints" aside="what the policy expects, and what recent requests did" flush label="Constraints">
          <Table columns={KEPT} rows={steering.kept} id={(one) => one.name} caption="Constraints of the route" />
        </Card>
      )}
      {alarms.length > 0 && (
        <Card title="Sudden changes" aside="what was known before counts less since" flush label="Sudden changes">
          <Table columns={ALARMS} rows={alarms} id={(one) => `${one.arm} ${one.signal} ${one.at}`} caption="Sudden changes of arms" />
        </Card>
      )}
    </div>
  );
}

const KEPT: Column<KeptRow>[] = [
  { name: "Constraint", title: true, cell: (one) => constraint(one).name },
  { name: "Target", number: true, cell: (one) => constraint(one).write(one.target) },
  { name: "Expected", number: true, cell: (one) => constraint(one).write(one.expected) },
  { name: "Actual", number: true, cell: (one) => constraint(one).write(one.actual) },
  { name: "Can be kept", cell: (one) => (one.feasible ? <Badge tone="good">yes</Badge> : <Badge tone="bad">not with the others</Badge>) },
];

const ALARMS: Column<Alarm & { arm: string }>[] = [
  { name: "Arm", title: true, cell: (one) => one.arm },
  { name: "Signal", cell: (one) => format.words(one.signal) },
  { name: "Before", number: true, cell: (one) => signal(one.signal)(one.before) },
  { name: "After", number: true, cell: (one) => signal(one.signal)(one.after) },
  { name: "Older counts", number: true, cell: (one) => format.share(one.keep) },
  { name: "When", cell: (one) => <span title={format.time(one.at)}>{format.since(one.at)}</span> },
];
