// Every part of the product with its state in words and what to do, then workers, limits, judges and the cluster.
import "./health.css";
import { useApp, usePolled } from "../../app/context.ts";
import type { Client } from "../../api/client.ts";
import type { Cluster, Health } from "../../api/types.ts";
import { Badge, Card, Empty, format, Shown, Table, toneOf } from "../../parts/index.ts";
import { ClusterCards } from "./Cluster.tsx";
import type { Judges, Limits } from "./model.ts";
import { JudgesCard, LimitsCard } from "./Spending.tsx";
import { type Part, partsOf, type Worker, workersOf } from "./parts.ts";

interface Known {
  health: Health;
  cluster: Cluster | null;
  limits: Limits | null;
  judges: Judges | null;
}

const INTERVAL_MS = 3_000;

async function everything(client: Client, signal: AbortSignal): Promise<Known> {
  // States are open to everybody; the rest asks for a key, and may be missing without the states being less true.
  const [health, cluster, limits, judges] = await Promise.all([
    client.health(signal),
    client.cluster(signal).catch(() => null),
    client.get<Limits>("/api/v1/limits", {}, signal).catch(() => null),
    client.get<Judges>("/api/v1/judges", {}, signal).catch(() => null),
  ]);
  return { health, cluster, limits, judges };
}

export default function HealthView() {
  const known = usePolled(everything, [], INTERVAL_MS);
  return (
    <>
      <div class="head">
        <div>
          <h1>Health</h1>
          <p>Requests are served by the workers alone; what is degraded here rarely stops them.</p>
        </div>
        {known.data !== null && <Whole health={known.data.health} />}
      </div>
      <Shown of={known} what="the states">{(data) => <All known={data} />}</Shown>
    </>
  );
}

function Whole(props: { health: Health }) {
  const { health } = props;
  const ill = Object.values(health.components).filter((state) => state === "degraded").length;
  return (
    <p class="row" data-testid="whole">
      <Badge tone={toneOf(health.status)}>{health.status === "healthy" ? "all is well" : ill === 1 ? "one part is degraded" : `${ill} parts are degraded`}</Badge>
      <span class="muted small">at {format.time(health.timestamp)}</span>
    </p>
  );
}

function All(props: { known: Known }) {
  const { askForKey } = useApp();
  const { health, cluster, limits, judges } = props.known;
  const isStranger = health.version === null || health.version === undefined;
  return (
    <div class="stack">
      <ul class="parts" data-testid="parts">
        {partsOf(health).map((part) => <PartCard key={part.name} part={part} />)}
      </ul>
      {isStranger && (
        <div class="banner" role="status">
          <span>Figures are shown with the admin key only; what you see are the states.</span>
          <button type="button" class="button small" onClick={askForKey}>Use an admin key</button>
        </div>
      )}
      {!isStranger && <Workers workers={workersOf(health)} />}
      {cluster?.enabled && <ClusterCards cluster={cluster} />}
      <div class="columns">
        {limits !== null && <LimitsCard limits={limits} />}
        {judges !== null && <JudgesCard judges={judges} />}
      </div>
    </div>
  );
}

function PartCard(props: { part: Part }) {
  const { part } = props;
  return (
    <li class={`part ${part.state}`} data-part={part.name} data-state={part.state}>
      <div class="row spread">
        <h2>{part.title}</h2>
        <Badge tone={toneOf(part.state)}>{part.state}</Badge>
      </div>
      {part.says !== "" && <p class="small">{part.says}</p>}
      {part.advice !== "" && <p class="small advice">{part.advice}</p>}
    </li>
  );
}

function Workers(props: { workers: Worker[] }) {
  if (props.workers.length === 0) {
    return (
      <Card title="Workers">
        <Empty title="No worker reports">Each tells how it is a few times a second; none has in the last six.</Empty>
      </Card>
    );
  }
  return (
    <Card title="Workers" flush label="Workers">
      <Table
        caption="Workers of this node"
        rows={props.workers}
        id={(worker) => worker.name}
        columns={[
          { name: "Worker", title: true, cell: (worker) => `Worker ${worker.name}` },
          { name: "Up for", number: true, cell: (worker) => format.seconds(worker.uptime_s) },
          { name: "In flight", number: true, cell: (worker) => format.count(worker.in_flight) },
          { name: "Connections", number: true, cell: (worker) => format.count(worker.connections) },
          { name: "Memory", number: true, cell: (worker) => format.bytes(worker.rss_bytes) },
          { name: "Loop lag", number: true, cell: (worker) => format.milliseconds(worker.loop_lag_ms) },
          {
            name: "Routing table",
            number: true,
            cell: (worker) => (
              <span>
                {format.figure(worker.table_version, 0)} {worker.isBehind && <Badge tone="warn">behind</Badge>}
              </span>
            ),
          },
        ]}
      />
    </Card>
  );
}
