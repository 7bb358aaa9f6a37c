// One request: why it went where it went in sentences, the chances of all arms, attempts, what was seen of it, its event.
import { usePolled } from "../../app/context.ts";
import { href } from "../../app/router.ts";
import type { Decision } from "../../api/types.ts";
import { Badge, Card, Empty, format, Pairs, Shown } from "../../parts/index.ts";
import { Attempts } from "./Attempts.tsx";
import { Chances } from "./Chances.tsx";
import { Context } from "./Context.tsx";
import { number, outcomeTone, outcomeWords, text } from "./decision.ts";

// What was logged does not change; it is asked again only in case it was not there yet.
const INTERVAL_MS = 30_000;

export function Detail(props: { id: string }) {
  const asked = usePolled((client, signal) => client.decision(props.id, signal), [props.id], INTERVAL_MS);
  const { data, error } = asked;
  return (
    <>
      <div class="head">
        <div>
          <p class="small"><a href="#/requests">Requests</a> /</p>
          <h1>Why did this go there?</h1>
          <p class="mono small wrap">{props.id}</p>
        </div>
      </div>
      {data === null && error?.status === 404 ? (
        <Card>
          <Empty title="This request is not in the log">{error.message}</Empty>
          <p class="center"><button type="button" class="button" onClick={asked.again}>Look again</button></p>
        </Card>
      ) : (
        <Shown of={asked} what="the decision">{(decision) => <One decision={decision} />}</Shown>
      )}
    </>
  );
}

function One(props: { decision: Decision }) {
  const { decision } = props;
  return (
    <div class="stack" data-testid="decision">
      <Card label="Explanation">
        <div class="row facts">
          <Facts data={decision.data} time={decision.time} />
        </div>
        {decision.explanation.length > 0 ? (
          <ol class="sentences" data-testid="explanation">
            {decision.explanation.map((sentence, place) => <li key={place}>{sentence}</li>)}
          </ol>
        ) : (
          <Empty title="The event says too little to be explained" />
        )}
      </Card>
      <Chances decision={decision} />
      <Attempts decision={decision} />
      {decision.decision !== null && <Context decision={decision} />}
      <Numbers data={decision.data} />
      <Card label="Event">
        <details class="event">
          <summary>The logged event as JSON</summary>
          <pre class="code" tabIndex={0}>{JSON.stringify({ ...decision, explanation: undefined, decision: undefined }, null, 2)}</pre>
        </details>
      </Card>
    </div>
  );
}

function Facts(props: { data: Record<string, unknown>; time: string }) {
  const { data } = props;
  const outcome = text(data["outcome"]);
  const route = text(data["route"]);
  const arm = text(data["served_by"]) || text(data["arm"]);
  return (
    <>
      {outcome !== "" && <Badge tone={outcomeTone(outcome)}>{outcomeWords(outcome)}</Badge>}
      <span>{format.time(props.time)}</span>
      {route !== "" && <a href={href(["routes", route])}>{route}</a>}
      {arm !== "" && <b>{arm}</b>}
      {data["cached"] === true && <Badge tone="accent">from the cache</Badge>}
      {data["side"] === "candidate" && <Badge tone="accent">candidate</Badge>}
      {number(data["duration_ms"]) !== null && <span>{format.milliseconds(number(data["duration_ms"]))}</span>}
      {number(data["cost_usd"]) !== null && <span>{format.usd(number(data["cost_usd"]))}</span>}
    </>
  );
}

function Numbers(props: { data: Record<string, unknown> }) {
  const { data } = props;
  const of = (name: string): number | null => number(data[name]);
  const rows: [string, string | null][] = [
    ["Model", text(data["gen_ai.response.model"]) || text(data["model"])],
    ["Prompt", text(data["variant"])],
    ["Endpoint", text(data["endpoint"]) + (data["stream"] === true ? ", streamed" : "")],
    ["Took", known(of("duration_ms"), format.milliseconds)],
    ["First token", known(of("ttft_ms"), format.milliseconds)],
    ["Of that upstream", known(of("upstream_ms"), format.milliseconds)],
    ["Of that this product", known(of("overhead_ms"), format.milliseconds)],
    ["Input tokens", known(of("gen_ai.usage.input_tokens"), format.count)],
    ["Output tokens", known(of("gen_ai.usage.output_tokens"), format.count)],
    ["Cost", known(of("cost_usd"), format.usd)],
    ["Provider's id", text(data["gen_ai.response.id"])],
    ["Rollout", text(data["rollout"])],
    ["Policy", text(data["policy"])],
    ["Routing table", of("table_version") !== null ? `version ${of("table_version")}` : null],
  ];
  const shown = rows.filter((row): row is [string, string] => Boolean(row[1]));
  return (
    <Card title="In figures">
      {shown.length > 0 ? <div class="two"><Pairs of={shown.slice(0, Math.ceil(shown.length / 2))} /><Pairs of={shown.slice(Math.ceil(shown.length / 2))} /></div> : <Empty title="The event has no figures" />}
    </Card>
  );
}

function known(value: number | null, write: (value: number) => string): string | null {
  return value === null ? null : write(value);
}
