// What happened to an optimization, the newest first: who, why, and what the guards had measured then.
import { href } from "../../app/router.ts";
import type { ApiError } from "../../api/error.ts";
import type { AuditRow } from "../../api/types.ts";
import { Badge, Card, Empty, format, type Tone, toneOf } from "../../parts/index.ts";
import { figure, guard } from "./guards.ts";
import { type Moment, reasonWords, story } from "./history.ts";
import { percent } from "./verbs.ts";

const TONES: Readonly<Record<string, Tone>> = {
  deploy: "accent",
  advance: "accent",
  promote: "accent",
  resume: "accent",
  complete: "good",
  pause: "warn",
  rollback: "bad",
  abort: "bad",
  withhold: "warn",
  supersede: "warn",
};

const TAKING = new Set(["rollback", "abort", "supersede", "withhold"]);

export function History(props: { rows: AuditRow[]; isWhole: boolean; error: ApiError | null; target: string }) {
  const moments = story(props.rows).reverse();
  return (
    <Card title="History" aside={<a href={href(["audit"], { target: props.target })}>in the audit</a>} label="History">
      {props.error !== null && <p class="banner" role="status">{props.error.message}</p>}
      {moments.length === 0 && props.error === null && <Empty title="Nothing is written down yet" />}
      <ol class="story" data-testid="history">
        {moments.map((moment) => <Step key={moment.id} moment={moment} />)}
      </ol>
      {!props.isWhole && <p class="small muted">Older steps are in the audit.</p>}
    </Card>
  );
}

function Step(props: { moment: Moment }) {
  const { moment } = props;
  const measured = Object.entries(moment.guards);
  // Before traffic ever moved, its share says nothing; when it was taken away, that is what matters.
  const tells = (moment.percentage ?? 0) > 0 || TAKING.has(moment.verb);
  const share = tells && moment.percentage !== null ? `${percent(moment.percentage)} of the traffic` : "";
  return (
    <li class={TONES[moment.verb] ?? "calm"} data-verb={moment.verb}>
      <div class="row spread">
        <strong>{moment.title}</strong>
        <time class="small muted" title={format.time(moment.at)}>{format.time(moment.at)}</time>
      </div>
      <p class="small muted">
        {[`by ${moment.actor}`, moment.to !== moment.from ? `now ${format.words(moment.to)}` : "", share].filter(Boolean).join(" · ")}
      </p>
      {(moment.explanation !== "" || moment.reason !== "") && <p class="small">{moment.explanation || `Because ${reasonWords(moment.reason)}.`}</p>}
      {measured.length > 0 && (
        <details>
          <summary class="small">What the guards had measured</summary>
          <ul class="measured small">
            {measured.map(([name, verdict]) => {
              const one = guard(name, verdict, NO_PLAN);
              return (
                <li key={name}>
                  <Badge tone={toneOf(verdict.verdict)}>{one.title}</Badge> {figure(verdict.candidate, one.unit)}
                  {name !== "sample_ratio" && <> against {figure(verdict.control, one.unit)}</>}
                  <span class="muted"> in {format.count(verdict.candidate_samples)} values</span>
                </li>
              );
            })}
          </ul>
        </details>
      )}
    </li>
  );
}

// The audit keeps verdicts without the plan that they were found under.
const NO_PLAN = {
  stages: [],
  checks: { enabled: true, interval_s: 0, error_rate: null, latency_p95_ms: null, cost_per_request_usd: null, quality_ratio: null, non_inferiority_margin: null },
  approval: false,
};
