// Limits and how much of each is used, and the judges with their budgets.
import { href } from "../../app/router.ts";
import { Badge, Card, Empty, format, Incomplete, Percent, Table } from "../../parts/index.ts";
import type { Judge, Judges, Limit, Limits } from "./model.ts";

export function LimitsCard(props: { limits: Limits }) {
  const rows = [...props.limits.limits].sort((one, other) => share(other) - share(one));
  return (
    <Card title="Limits" flush={rows.length > 0} label="Limits">
      {rows.length === 0 ? (
        <Empty title="No limit is in use">Routes and client keys may have some: requests or tokens a minute, USD a day or month.</Empty>
      ) : (
        <Table
          caption="Limits in their present windows, the fullest first"
          rows={rows}
          id={(row) => `${row.subject} ${row.measure} ${row.window}`}
          columns={[
            { name: "Of", title: true, cell: (row) => row.subject.replace(":", " ") },
            { name: "Limit", cell: (row) => `${amount(row.limit, row.measure)}${row.measure === "usd" ? "" : ` ${format.words(row.measure)}`} per ${row.window}` },
            { name: "Used", number: true, cell: (row) => amount(row.used, row.measure) },
            { name: "Share", cell: (row) => <Percent value={100 * share(row)} label="Used" /> },
            { name: "Resets", number: true, cell: (row) => format.since(row.resets_at) },
          ]}
        />
      )}
    </Card>
  );
}

export function JudgesCard(props: { judges: Judges }) {
  const { judges, waiting } = props.judges;
  return (
    <Card title="Judges" aside={waiting > 0 ? `${format.count(waiting)} samples wait` : undefined} flush={judges.length > 0} label="Judges">
      <Incomplete missing={props.judges.incomplete} />
      {judges.length === 0 ? (
        <Empty title="No route has a judge">A judge rates a sample of the answers where users give no feedback.</Empty>
      ) : (
        <Table
          caption="Judges of routes"
          rows={judges}
          id={(row) => row.route}
          columns={[
            { name: "Route", title: true, cell: (row) => <a href={href(["routes", row.route])}>{row.route}</a> },
            { name: "State", cell: (row) => <JudgeState of={row} /> },
            { name: "Model", cell: (row) => row.model },
            { name: "Sampled", number: true, cell: (row) => format.share(row.rate) },
            { name: "Ratings", number: true, cell: (row) => format.count(row.arms.reduce((sum, arm) => sum + arm.ratings, 0)) },
            { name: "Spent today", number: true, cell: (row) => `${format.usd(row.spent_today_usd)} of ${format.usd(row.usd_per_day)}` },
          ]}
        />
      )}
    </Card>
  );
}

function JudgeState(props: { of: Judge }) {
  const { of } = props;
  return of.answers ? <Badge tone="good">answers</Badge> : <Badge tone="bad">{of.problem ? format.words(of.problem) : "does not answer"}</Badge>;
}

function share(row: Limit): number {
  return row.limit > 0 ? row.used / row.limit : 1;
}

function amount(value: number, measure: string): string {
  return measure === "usd" ? format.usd(value) : format.count(value);
}
