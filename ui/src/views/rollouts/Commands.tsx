// The buttons of an optimization. Which of them work, the product says; each says what will happen before it does.
import { useState } from "preact/hooks";
import { useApp } from "../../app/context.ts";
import { go } from "../../app/router.ts";
import { ApiError } from "../../api/error.ts";
import type { Optimization } from "../../api/types.ts";
import { Confirm, format } from "../../parts/index.ts";
import { isSplitting } from "./model.ts";
import { type Button, BUTTONS, hint, isAllowed, label, order, refusal, request } from "./verbs.ts";

interface Asked {
  button: Button;
  /** As it was shown when the button was pressed: the answer is about this revision or it is refused. */
  row: Optimization;
}

export function Commands(props: { row: Optimization; isOld: boolean; again: () => void; askForKey: () => void }) {
  const { row, isOld, again } = props;
  const { client, tell } = useApp();
  const [asked, setAsked] = useState<Asked | null>(null);
  const act = async (reason: string | undefined) => {
    if (asked === null) return;
    const { verb, body } = request(asked.button, reason ?? "");
    try {
      const changed = await client.verb(asked.row.id, verb, asked.row.revision, body);
      tell(`${changed.name}: ${format.words(changed.status)}`, "good");
      if (verb === "delete") go("#/rollouts");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.kind === "unauthorized") props.askForKey();
      throw new Error(refusal(error.status, error.message));
    } finally {
      again();
    }
  };
  if (row.status === "deleted") return null;
  return (
    <div class="actions" role="group" aria-label="Commands">
      {BUTTONS.filter((button) => isAllowed(row, button) || isUsual(row, button)).map((button) => (
        <button
          key={button}
          type="button"
          class={button === "deploy" || button === "resume" ? "button primary" : button === "rollback" && row.candidate_percentage > 0 ? "button danger" : "button"}
          disabled={!isAllowed(row, button) || isOld}
          title={isOld ? "What is shown is old: wait until the product answers." : hint(row, button)}
          onClick={() => setAsked({ button, row })}
        >
          {label(row, button)}
        </button>
      ))}
      {asked !== null && <Ask asked={asked} act={act} close={() => setAsked(null)} />}
    </div>
  );
}

function Ask(props: { asked: Asked; act: (reason: string | undefined) => Promise<void>; close: () => void }) {
  const { button, row } = props.asked;
  const what = order(row, button);
  return (
    <Confirm title={what.title} verb={what.label} danger={what.isGrave} reason act={props.act} close={props.close}>
      <ul class="says">
        {what.says.map((sentence) => <li key={sentence}>{sentence}</li>)}
      </ul>
      <p class="small muted">It is {format.words(row.status)} at revision {row.revision}. If that has changed meanwhile, nothing is done.</p>
    </Confirm>
  );
}

/** Shown even while it does not work, so that buttons do not jump about during a rollout. */
function isUsual(row: Optimization, button: Button): boolean {
  return isSplitting(row) && (button === "promote" || button === "pause" || button === "resume" || button === "rollback");
}
