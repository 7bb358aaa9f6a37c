// What was tried, in order, with what each cost and why it ended.
import type { Decision } from "../../api/types.ts";
import { Badge, Card, Empty, format, Table } from "../../parts/index.ts";
import { attemptsOf } from "./decision.ts";

export function Attempts(props: { decision: Decision }) {
  const attempts = attemptsOf(props.decision);
  if (attempts.length === 0) {
    return (
      <Card title="Attempts">
        <Empty title="Nothing was sent upstream" />
      </Card>
    );
  }
  return (
    <Card title={attempts.length === 1 ? "One attempt" : `${attempts.length} attempts`} flush label="Attempts">
      <Table
        caption="Attempts in their order"
        rows={attempts}
        id={(row) => String(row.number)}
        columns={[
          { name: "Attempt", title: true, cell: (row) => `${row.number}. ${row.arm || row.upstream || "upstream"}` },
          { name: "Why", cell: (row) => row.why },
          { name: "Upstream", cell: (row) => row.upstream || format.UNKNOWN },
          {
            name: "Ended",
            cell: (row) => (
              <Badge tone={row.error === "" ? "good" : "bad"}>
                {row.error === "" ? "served it" : row.error}
                {row.status !== null ? ` ${row.status}` : ""}
              </Badge>
            ),
          },
          { name: "Took", number: true, cell: (row) => format.milliseconds(row.ms) },
          { name: "Tokens", number: true, cell: (row) => row.tokens || format.UNKNOWN },
          { name: "Cost", number: true, cell: (row) => format.usd(row.cost_usd) },
        ]}
      />
    </Card>
  );
}
