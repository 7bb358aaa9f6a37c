// One optimization: where it stands and why, what may be done, its stages, guards, proposal and history.
import { useRef } from "preact/hooks";
import { useApp, usePolled } from "../../app/context.ts";
import { href } from "../../app/router.ts";
import { ApiError } from "../../api/error.ts";
import type { AuditRow, Optimization } from "../../api/types.ts";
import { Badge, Card, format, Shown, State, toneOf } from "../../parts/index.ts";
import { Commands } from "./Commands.tsx";
import { Guards } from "./Guards.tsx";
import { History } from "./History.tsx";
import { reasonWords } from "./history.ts";
import { isSplitting } from "./model.ts";
import { ProposalCard } from "./Proposal.tsx";
import { Split } from "./Split.tsx";
import { Stages } from "./Stages.tsx";
import { percent } from "./verbs.ts";

const HISTORY = 100;

interface Past {
  rows: AuditRow[];
  isWhole: boolean;
  error: ApiError | null;
}

interface Seen {
  row: Optimization;
  past: Past;
}

export function Detail(props: { id: string }) {
  const { id } = props;
  const past = useRef<Past>({ rows: [], isWhole: true, error: null });
  const seen = usePolled<Seen>(async (client, signal) => {
    const row = await client.optimization(id, signal);
    const newest = past.current.rows[0]?.id;
    if (past.current.error !== null || newest !== `${id}:${row.revision}`) {
      try {
        const page = await client.audit({ target: id, limit: HISTORY }, signal);
        past.current = { rows: page.audit, isWhole: page.next === null, error: null };
      } catch (error) {
        // The rollout itself is known without the database; only its history is not.
        if (!(error instanceof ApiError)) throw error;
        past.current = { ...past.current, error };
      }
    }
    return { row, past: past.current };
  }, [id]);
  return (
    <Shown of={seen} what="the optimization">
      {({ row, past: known }) => <One row={row} past={known} isOld={seen.error !== null} again={seen.again} />}
    </Shown>
  );
}

function One(props: { row: Optimization; past: Past; isOld: boolean; again: () => void }) {
  const { row, past } = props;
  const { askForKey } = useApp();
  const hasRollout = row.rollout !== null && row.status !== "collecting" && row.status !== "proposed";
  return (
    <div class="stack" data-testid="optimization" data-status={row.status} data-revision={row.revision}>
      <div class="head flat">
        <div>
          <p class="small"><a href="#/rollouts">Rollouts</a> /</p>
          <h1 class="named">{row.name} <State word={row.status} /></h1>
          <p>
            {format.words(row.strategy)} on <a href={href(["routes", row.route])}>{row.route}</a>, made {format.since(row.created_at)}{" "}
            {row.origin === "loop" ? "by the optimizer" : "by a person"}
            {row.attempts > 1 && <> · <Badge>attempt {row.attempts}</Badge></>}
          </p>
        </div>
      </div>
      <Standing row={row} />
      <Commands row={row} isOld={props.isOld} again={props.again} askForKey={askForKey} />
      {hasRollout && <Stages row={row} />}
      {hasRollout && <Guards row={row} />}
      <div class="columns">
        <ProposalCard row={row} />
        <History rows={past.rows} isWhole={past.isWhole} error={past.error} target={row.id} />
      </div>
    </div>
  );
}

/** Why it is as it is, and who gets what. */
function Standing(props: { row: Optimization }) {
  const { row } = props;
  const reason = row.reason !== "" ? sentence(reasonWords(row.reason)) : "";
  const explanation = sentence(row.explanation);
  return (
    <Card label="Traffic">
      <div class={`traffic ${toneOf(row.status)}`}>
        <div>
          <p class="big" data-testid="share">{percent(row.candidate_percentage)}</p>
          <p class="muted small">of the requests for {row.route} get the candidate</p>
        </div>
        <div class="grow">
          <Split percentage={row.candidate_percentage} tone={row.status === "rolled_back" || row.status === "aborted" ? "bad" : "plain"} />
          {isSplitting(row) && <p class="small muted">The rest gets control, and both are compared.</p>}
          {(reason !== "" || explanation !== "") && <p data-testid="why">{row.status === "running" ? `Last step: ${explanation || reason}` : explanation || reason}</p>}
          {row.auto_deploy && !isSplitting(row) && row.status !== "deployed" && <p>It is to be deployed as soon as that is possible.</p>}
        </div>
      </div>
    </Card>
  );
}

function sentence(text: string): string {
  const trimmed = text.trim();
  if (trimmed === "") return "";
  const begun = trimmed[0]!.toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
