// The route in figures.
import type { Figures, Saving, TableRoute } from "../../api/types.ts";
import { href } from "../../app/router.ts";
import { score } from "../../charts/numbers.ts";
import { Figure, format } from "../../parts/index.ts";
import { baselineOf, claim, spent } from "../overview/model.ts";

export function Summing(props: { route: TableRoute; figures: (Figures & { quality_score: number | null }) | null; saving: Saving | null }) {
  const { route, figures, saving } = props;
  const said = claim(saving, `sending everything to ${baselineOf(route)}`);
  return (
    <>
      <section class="card route-saved" aria-label="Saved" data-testid="saved">
        <p class="route-saved-value">
          <span class="small muted">{said.head}</span>
          <strong class={said.tone ?? ""}>{said.value}</strong>
        </p>
        <div>
          <p>{said.sentence}</p>
          <p class="small muted">{said.note}</p>
        </div>
      </section>
      <div class="figures">
        <Figure name="Requests" value={format.count(figures?.requests ?? 0)} note={`${format.count(figures?.tokens ?? 0)} tokens`} />
        <Figure name="Cost" value={spent(figures)} note={figures?.cost_unknown_requests ? `${format.count(figures.cost_unknown_requests)} without a known price` : "of all attempts, failed ones too"} />
        <Figure
          name="Error rate, last 5 min"
          value={figures?.requests ? format.share(figures.error_rate_5m) : format.UNKNOWN}
          tone={(figures?.error_rate_5m ?? 0) >= 0.05 ? "bad" : undefined}
          note={`${format.count(figures?.failed ?? 0)} failed in all, after retries and fallbacks`}
        />
        <Figure
          name="Latency, p95"
          value={format.seconds(figures?.latency_p95_s)}
          note={figures?.latency_p95_s == null ? "nothing is completed yet" : `p50 ${format.seconds(figures.latency_p50_s)}, both upper bounds`}
        />
        <Figure name="Quality served" value={score(figures?.quality_score)} note={figures?.quality_score == null ? "no ratings yet" : "mean of what ratings say"} />
        <Rollout route={route} />
      </div>
    </>
  );
}

function Rollout(props: { route: TableRoute }) {
  const { rollout } = props.route;
  if (rollout === null) return <Figure name="Rollout" value="None" note="all traffic follows the route's own policy" />;
  const stage = rollout.stage === null || rollout.stage === undefined ? "" : `, stage ${rollout.stage + 1}${rollout.stages ? ` of ${rollout.stages}` : ""}`;
  return (
    <Figure
      name={`Rollout ${format.words(rollout.status ?? "running")}${stage}`}
      value={format.percent(rollout.percentage)}
      note={<a href={href(["rollouts", rollout.optimization ?? rollout.id])}>{rollout.name ?? "Show it"}</a>}
    />
  );
}
