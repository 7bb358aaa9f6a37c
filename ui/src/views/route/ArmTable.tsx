// Every arm with what is known of it. The boxes choose which arms have lines and curves of their own.
import type { Arm, Estimate, TableRoute } from "../../api/types.ts";
import { Marker } from "../../charts/Marker.tsx";
import { between, score } from "../../charts/numbers.ts";
import { Badge, Card, type Column, Empty, format, Percent, Table } from "../../parts/index.ts";
import { trafficOf } from "../overview/model.ts";
import { type Looks, usual } from "./plots.ts";

export function ArmTable(props: {
  route: TableRoute;
  arms: readonly Arm[];
  looks: Looks;
  drawn: ReadonlySet<string>;
  draw: (arms: ReadonlySet<string> | null) => void;
}) {
  const { route, arms, looks, drawn, draw } = props;
  if (arms.length === 0) return <Card title="Arms"><Empty title="Nothing is known of the arms yet" /></Card>;
  const traffic = trafficOf(route);
  const flip = (arm: string) => {
    const next = new Set(drawn);
    if (!next.delete(arm)) next.add(arm);
    draw(next);
  };
  const columns: Column<Arm>[] = [
    {
      name: "Arm",
      title: true,
      cell: (arm) => (
        <label class="arm">
          <input type="checkbox" checked={drawn.has(arm.arm)} onChange={() => flip(arm.arm)} aria-label={`Draw ${arm.arm}`} />
          <Marker look={looks(arm.arm)} />
          <span class="arm-name">
            <span><span>{arm.arm}</span> {arm.arm === route.control.baseline && <Badge>baseline</Badge>}</span>{" "}
            <span class="small muted">{arm.model}{arm.variant === "default" ? "" : `, prompt ${arm.variant}`}</span>
          </span>
        </label>
      ),
    },
    { name: "Traffic now", cell: (arm) => <Percent value={100 * (traffic.get(arm.arm) ?? 0)} label={`${arm.arm} gets`} /> },
    { name: "Tries", number: true, cell: (arm) => format.figure(arm.pulls, 0) },
    { name: "Quality", number: true, cell: (arm) => <Belief of={arm.quality} write={score} /> },
    { name: "Cost", number: true, cell: (arm) => <Belief of={arm.cost_usd} write={format.usd} /> },
    { name: "Latency", number: true, cell: (arm) => <Belief of={arm.latency_s} write={format.seconds} /> },
    { name: "Success", number: true, cell: (arm) => <Belief of={arm.success} write={format.share} /> },
  ];
  return (
    <Card title={`Arms (${arms.length})`} aside={<Choice arms={arms} route={route} drawn={drawn} draw={draw} />} flush label="Arms">
      <Table columns={columns} rows={[...arms]} id={(arm) => arm.arm} caption="Arms of the route: traffic, and means with 95 % intervals" />
    </Card>
  );
}

function Choice(props: { arms: readonly Arm[]; route: TableRoute; drawn: ReadonlySet<string>; draw: (arms: ReadonlySet<string> | null) => void }) {
  const { arms, drawn, draw } = props;
  const few = usual(arms, props.route.control.baseline).size < arms.length;
  return (
    <span class="row">
      {drawn.size} drawn below
      {drawn.size < arms.length && <button type="button" class="button quiet small" onClick={() => draw(new Set(arms.map((arm) => arm.arm)))}>Draw all</button>}
      {few && drawn.size === arms.length && <button type="button" class="button quiet small" onClick={() => draw(null)}>Draw the likeliest</button>}
    </span>
  );
}

function Belief(props: { of: Estimate | null; write: (value: number | null | undefined) => string }) {
  const { of, write } = props;
  if (of === null || of.weight <= 0) return <span class="muted" title="Not observed yet">{format.UNKNOWN}</span>;
  return (
    <span class="two-lines">
      <span>{write(of.mean)}</span>{" "}
      <span class="small muted">{between(of.low, of.high, write)}</span>
    </span>
  );
}
