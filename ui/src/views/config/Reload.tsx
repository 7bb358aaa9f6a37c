// Reading the file again, and what came of it.
import { useState } from "preact/hooks";
import { useApp, usePolled } from "../../app/context.ts";
import { ApiError, isRecord } from "../../api/error.ts";
import type { Health, Problem, Reloaded } from "../../api/types.ts";
import { Card, Confirm, Pairs, State } from "../../parts/index.ts";
import { Problems } from "./Problems.tsx";

type Outcome = { done: Reloaded } | { refused: string; problems: Problem[] };

export function Reload(props: { done: () => void }) {
  const { client, askForKey } = useApp();
  const health = usePolled((asked, signal) => asked.health(signal), [], 5_000);
  const [asking, setAsking] = useState(false);
  const [outcome, setOutcome] = useState<Outcome | null>(null);
  const act = async () => {
    try {
      setOutcome({ done: await client.reload() });
      props.done();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.kind === "unauthorized") askForKey();
      if (error.status !== 422) throw error;
      setOutcome({ refused: error.message, problems: problemsOf(error) });
    } finally {
      health.again();
    }
  };
  return (
    <Card title="In use" aside={<button type="button" class="button small" onClick={() => setAsking(true)}>Reload the file</button>} label="Reload">
      <InUse health={health.data} />
      {outcome !== null && <Told outcome={outcome} />}
      {asking && (
        <Confirm title="Reload the configuration" verb="Reload" act={act} close={() => setAsking(false)}>
          <p>
            The file is read and checked. If it is valid it is used at once, and requests that are under way end under the old one. If it is not, nothing changes and every
            problem is shown here.
          </p>
          <p class="muted small">Rollouts whose values the file changes end as superseded.</p>
        </Confirm>
      )}
    </Card>
  );
}

function InUse(props: { health: Health | null }) {
  const configuration = props.health?.configuration;
  if (props.health === null || !isRecord(configuration)) return <p class="muted">What is in use is not known yet.</p>;
  const notes = Array.isArray(configuration["notes"]) ? configuration["notes"].map(String) : [];
  const isWell = configuration["last_reload_successful"] !== false;
  return (
    <>
      <Pairs
        of={[
          ["Last reload", isWell ? <State key="good" word="success" /> : <span key="bad"><State word="failed" /> The file is refused; the configuration before it is in use.</span>],
          ["Generation", String(configuration["generation"] ?? "")],
          ["Hash", <code key="hash">{String(configuration["hash"] ?? "")}</code>],
        ]}
      />
      {notes.length > 0 && (
        <details>
          <summary>{notes.length === 1 ? "One note" : `${notes.length} notes`} on the file</summary>
          <ul class="notes">{notes.map((note) => <li key={note}>{note}</li>)}</ul>
        </details>
      )}
    </>
  );
}

function Told(props: { outcome: Outcome }) {
  const { outcome } = props;
  if ("refused" in outcome) {
    return (
      <div class="told" role="alert" data-testid="reload-refused">
        <p class="banner bad">{outcome.refused}</p>
        <Problems of={outcome.problems} />
      </div>
    );
  }
  const { done } = outcome;
  return (
    <div class="told" role="status" data-testid="reload-done">
      <p class="banner good">
        {done.result === "applied" ? `The file is in use: generation ${done.generation}, routing table ${done.table_version}.` : "The file is the same as before; nothing has changed."}
      </p>
      {done.needs_restart.length > 0 && <p>These keys need a restart of the process: {done.needs_restart.map((key) => <code key={key}>{key} </code>)}</p>}
      {done.superseded.length > 0 && (
        <p>Ended by the change: {done.superseded.map((id) => <a key={id} href={`#/rollouts/${encodeURIComponent(id)}`}>{id} </a>)}</p>
      )}
      {done.notes.length > 0 && <ul class="notes">{done.notes.map((note) => <li key={note}>{note}</li>)}</ul>}
    </div>
  );
}

function problemsOf(error: ApiError): Problem[] {
  const rows = error.details["problems"];
  if (!Array.isArray(rows)) return [];
  return rows.filter(isRecord).map((row) => ({
    path: String(row["path"] ?? ""),
    message: String(row["message"] ?? ""),
    suggestion: typeof row["suggestion"] === "string" ? row["suggestion"] : null,
    line: typeof row["line"] === "number" ? row["line"] : null,
  }));
}
