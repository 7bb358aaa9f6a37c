// The stages of the plan in their order, and how far the present one is.
import type { Optimization } from "../../api/types.ts";
import { Badge, Card, format, type Tone } from "../../parts/index.ts";
import { isSplitting } from "./model.ts";
import { Meter } from "./Split.tsx";
import { type StageState, type Step, stepsOf } from "./stages.ts";
import { percent } from "./verbs.ts";

const WORDS: Record<StageState, string> = { passed: "passed", now: "now", held: "held", failed: "ended here", ahead: "to come" };
const TONES: Record<StageState, Tone> = { passed: "good", now: "accent", held: "warn", failed: "bad", ahead: "calm" };

export function Stages(props: { row: Optimization }) {
  const { row } = props;
  const needs = needsWords(row);
  return (
    <Card title="Stages" aside={row.rollout !== null ? `began ${format.time(row.rollout.started_at)}` : undefined}>
      <ol class="stages">
        {stepsOf(row, Date.now() / 1000).map((step) => (
          <li key={step.number} class={`stage ${step.state}`} aria-current={step.state === "now" || step.state === "held" ? "step" : undefined}>
            <div class="row spread">
              <span class="share">{percent(step.percentage)}</span>
              <Badge tone={TONES[step.state]}>{WORDS[step.state]}</Badge>
            </div>
            <Progress step={step} />
          </li>
        ))}
      </ol>
      {needs.length > 0 && <p class="needs" data-testid="needs">{needs.join(" ")}</p>}
    </Card>
  );
}

function Progress(props: { step: Step }) {
  const { step } = props;
  const least = step.duration_s > 0 ? `at least ${format.seconds(step.duration_s)}` : "";
  const wanted = step.min_samples > 0 ? `${format.count(step.min_samples)} samples` : "";
  if (step.time === null && step.samples === null) {
    const plan = [least, wanted].filter(Boolean).join(", ");
    return <p class="small muted">{plan !== "" ? plan : step.percentage >= 100 ? "all traffic, for good" : "no minimum"}</p>;
  }
  return (
    <div class="progress small">
      {step.time !== null && step.duration_s > 0 && (
        <div>
          <span>Time <b>{format.seconds(Math.min(step.time.done_s, step.duration_s))}</b> of {format.seconds(step.duration_s)}</span>
          <Meter share={step.time.share} label="Time of the stage" />
        </div>
      )}
      {step.samples !== null && (
        <div>
          <span>
            Samples <b data-testid="samples">{format.count(step.samples.done)}</b>
            {step.min_samples > 0 ? ` of ${format.count(step.min_samples)}` : ""}
          </span>
          {step.min_samples > 0 && <Meter share={step.samples.share} label="Outcomes of the candidate against the minimum" />}
        </div>
      )}
    </div>
  );
}

/** What the present stage waits for, in sentences. */
function needsWords(row: Optimization): string[] {
  const needs = row.measured.needs;
  if (!isSplitting(row) || needs === null) return [];
  if (needs.waits_for === "person") return ["It waits for a person: resume, promote or roll back."];
  const said: string[] = [];
  const wants = [
    needs.samples ? `${format.count(needs.samples)} more outcomes of the candidate` : "",
    needs.time_s >= 1 ? `${format.seconds(needs.time_s)} more` : "",
  ].filter(Boolean);
  if (wants.length > 0) said.push(`This stage needs ${wants.join(" and ")}.`);
  else if (needs.explanation !== "") said.push(`${needs.explanation[0]!.toUpperCase()}${needs.explanation.slice(1)}.`);
  if (needs.expected_s !== null && needs.expected_s >= 1) said.push(`At the present traffic that is about ${format.seconds(needs.expected_s)}.`);
  else if (needs.samples && needs.expected_s === null) said.push("There is no traffic now.");
  if (needs.pauses_in_s !== null && (needs.samples || needs.waits_for === "margin")) {
    said.push(`Without them it pauses in ${format.seconds(needs.pauses_in_s)}.`);
  }
  return said;
}
