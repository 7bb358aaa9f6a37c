// The nodes, shards and engines of a cluster.
import type { Cluster, ClusterNode, ClusterShard } from "../../api/types.ts";
import { Badge, Card, Empty, format, Incomplete, Table } from "../../parts/index.ts";

const MOST_SHARDS = 64;

export function ClusterCards(props: { cluster: Cluster }) {
  const { cluster } = props;
  const nodes = cluster.nodes ?? [];
  const shards = cluster.shards ?? [];
  return (
    <>
      <Incomplete missing={cluster.incomplete} />
      <Engines cluster={cluster} />
      <Card title="Nodes" aside={`${nodes.length} heard of`} flush={nodes.length > 0} label="Nodes">
        {nodes.length === 0 ? <Empty title="No node was heard of">Nodes tell each other that they are there through Redis.</Empty> : <Nodes nodes={nodes} newest={cluster.nodes?.find((one) => one.is_this)?.config_hash ?? null} />}
      </Card>
      <Card title="Shards" aside={shardsAside(cluster)} flush={shards.length > 0} label="Shards">
        {shards.length === 0 ? <Empty title="How many shards there are is not known yet" /> : <Shards shards={shards} />}
      </Card>
    </>
  );
}

function Engines(props: { cluster: Cluster }) {
  const engines = Object.entries(props.cluster.engines ?? {});
  if (engines.length === 0) return null;
  return (
    <Card title="Engines" aside="as this node finds them" flush label="Engines">
      <Table
        caption="Engines of the cluster"
        rows={engines}
        id={([name]) => name}
        columns={[
          { name: "Engine", title: true, cell: ([name]) => name },
          { name: "State", cell: ([, engine]) => <Badge tone={engine.up === null ? "calm" : engine.up ? "good" : "bad"}>{engine.up === null ? "not asked yet" : engine.up ? "up" : "down"}</Badge> },
          { name: "Since", number: true, cell: ([, engine]) => (engine.since > 0 ? format.since(engine.since) : format.UNKNOWN) },
          { name: "Failed calls", number: true, cell: ([, engine]) => format.count(engine.errors) },
          { name: "Said last", cell: ([, engine]) => <span class="small wrap">{engine.error || format.UNKNOWN}</span> },
        ]}
      />
    </Card>
  );
}

function Nodes(props: { nodes: ClusterNode[]; newest: string | null }) {
  return (
    <Table
      caption="Nodes"
      rows={props.nodes}
      id={(node) => node.node}
      columns={[
        {
          name: "Node",
          title: true,
          cell: (node) => (
            <span class="row">
              <code>{node.node}</code>
              {node.is_this && <Badge tone="accent">this one</Badge>}
            </span>
          ),
        },
        { name: "State", cell: (node) => <NodeState node={node} newest={props.newest} /> },
        { name: "Address", cell: (node) => <span class="mono small wrap">{node.address}</span> },
        { name: "Version", cell: (node) => node.program },
        { name: "Learns shards", cell: (node) => <span class="small">{node.owns.length > 0 ? node.owns.join(", ") : "none"}</span> },
        { name: "Heard of", number: true, cell: (node) => `${format.seconds(node.age_s)} ago` },
        { name: "Clock", number: true, cell: (node) => (node.clock_skew_s === null ? format.UNKNOWN : `${node.clock_skew_s >= 0 ? "+" : ""}${format.seconds(node.clock_skew_s)}`) },
      ]}
    />
  );
}

function NodeState(props: { node: ClusterNode; newest: string | null }) {
  const { node } = props;
  if (!node.answers) return <Badge tone="bad">{node.reason ?? "does not answer"}</Badge>;
  const said: string[] = [];
  if (node.engines_down?.length) said.push(`without ${node.engines_down.join(", ")}`);
  if (node.late.length > 0) said.push(`old tables of shards ${node.late.join(", ")}`);
  if (props.newest !== null && node.config_hash !== props.newest) said.push("another configuration");
  return said.length === 0 ? <Badge tone="good">well</Badge> : <Badge tone="warn">{said.join("; ")}</Badge>;
}

function Shards(props: { shards: ClusterShard[] }) {
  // What is not well comes first, so that it is seen among hundreds.
  const rows = [...props.shards].sort((one, other) => Number(one.owner !== null) - Number(other.owner !== null) || one.shard - other.shard);
  return (
    <>
      <Table
        caption="Shards and who learns them"
        rows={rows.slice(0, MOST_SHARDS)}
        id={(shard) => String(shard.shard)}
        columns={[
          { name: "Shard", title: true, cell: (shard) => `Shard ${shard.shard}` },
          { name: "Owner", cell: (shard) => (shard.owner !== null ? <code>{shard.owner}</code> : <Badge tone="bad">nobody</Badge>) },
          { name: "Guarded", cell: (shard) => (shard.is_guarding === null ? format.UNKNOWN : shard.is_guarding ? "yes" : <Badge tone="warn">no</Badge>) },
          { name: "Behind", number: true, cell: (shard) => (shard.lag === null ? format.UNKNOWN : `${format.count(shard.lag)} records`) },
          { name: "Snapshot", number: true, cell: (shard) => (shard.snapshot_age_s === null ? format.UNKNOWN : `${format.seconds(shard.snapshot_age_s)} ago`) },
          { name: "Why", cell: (shard) => <span class="small">{shard.reason ?? ""}</span> },
        ]}
      />
      {rows.length > MOST_SHARDS && <p class="small muted inset">{rows.length - MOST_SHARDS} more shards are well.</p>}
    </>
  );
}

function shardsAside(cluster: Cluster): string {
  const late = cluster.tables_unacknowledged_s ?? 0;
  const partitions = cluster.partitions ?? null;
  return [partitions !== null ? `${partitions} partitions` : "", late >= 1 ? `a table is not acknowledged for ${format.seconds(late)}` : ""].filter(Boolean).join(", ");
}
