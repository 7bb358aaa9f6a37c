// Over time: who answered, how fast, how often it failed.
import { useMemo, useState } from "preact/hooks";

import type { History, TableRoute } from "../../api/types.ts";
import { useApp } from "../../app/context.ts";
import { ChartCard } from "../../charts/ChartCard.tsx";
import { look } from "../../charts/palette.ts";
import { candidate, errors, LATENCIES, type Latency, latency, type Looks, ratings, traffic } from "./plots.ts";

const QUIET = "No request came in this time.";

export function Traffic(props: { route: TableRoute; history: History | null; looks: Looks; span: string }) {
  const { route, history, looks, span } = props;
  const plain = usePlain(0);
  const shares = useMemo(() => (history === null ? null : traffic(history, looks)), [history, looks]);
  const rollout = useMemo(() => (history === null ? null : candidate(history, plain)), [history, plain]);
  return (
    <>
      <ChartCard title="Who answers" means={`Each arm's share of the requests ${span}. Where the picture is empty there were no requests.`} plot={shares} empty={QUIET} height={260} />
      {(route.rollout !== null || rollout !== null) && (
        <ChartCard title="The rollout's candidate" means={`Share of the traffic that the candidate got ${span}.`} plot={rollout} empty={QUIET} height={140} keyless />
      )}
    </>
  );
}

export function Service(props: { history: History | null; looks: Looks; drawn: ReadonlySet<string>; span: string }) {
  const { history, looks, drawn, span } = props;
  const [which, setWhich] = useState<Latency>("latency_p95_s");
  const plain = usePlain(1);
  const slow = useMemo(() => (history === null ? null : latency(history, which, looks, drawn)), [history, which, looks, drawn]);
  const failed = useMemo(() => (history === null ? null : errors(history, plain)), [history, plain]);
  const good = useMemo(() => (history === null ? null : ratings(history, looks, drawn)), [history, looks, drawn]);
  const choice = (
    <label class="row">
      <span class="unseen">Which latency</span>
      <select value={which} onChange={(event) => setWhich(event.currentTarget.value as Latency)}>
        {Object.entries(LATENCIES).map(([id, name]) => <option key={id} value={id}>{name}</option>)}
      </select>
    </label>
  );
  return (
    <div class="columns even">
      <ChartCard title="Latency over time" aside={choice} means={`Of completed requests per arm ${span}, exact within 6 %.`} plot={slow} empty="No request was completed in this time." />
      <ChartCard title="Error rate over time" means={`Share of the route's requests that failed at their upstream after all retries and fallbacks, ${span}.`} plot={failed} empty={QUIET} keyless />
      <div class="wide">
        <ChartCard title="Ratings over time" means={`Mean of the ratings that arrived per arm ${span}.`} plot={good} empty="No rating arrived in this time. Ratings come by feedback, a judge or checks of the answer." />
      </div>
    </div>
  );
}

function usePlain(place: number) {
  const { theme } = useApp();
  return useMemo(() => ({ ...look(place, theme), tag: "" }), [place, theme]);
}
