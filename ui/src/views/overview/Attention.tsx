// What asks for somebody: the worst first, each with the way to more. Nothing to do is said in one quiet line.
import { useState } from "preact/hooks";

import { href } from "../../app/router.ts";
import { Dot } from "../../parts/index.ts";
import type { Alert } from "./model.ts";

const SHOWN = 4;

export function Attention(props: { alerts: readonly Alert[]; known: boolean }) {
  const [all, setAll] = useState(false);
  const { alerts, known } = props;
  if (alerts.length === 0) {
    return (
      <p class="attention none small" data-testid="attention">
        <Dot tone={known ? "good" : "calm"} />
        {known
          ? "Nothing asks for attention: every part is healthy, no rollout failed or waits, all constraints can be kept, no arm changed suddenly."
          : "What asks for attention is not known yet."}
      </p>
    );
  }
  const shown = all ? alerts : alerts.slice(0, SHOWN);
  return (
    <section class="attention" aria-label="Asks for attention" data-testid="attention">
      <ul>
        {shown.map((alert) => (
          <li key={alert.id} class={alert.tone}>
            <Dot tone={alert.tone} />
            <div>
              <a href={href(alert.to)}>{alert.title}</a>
              <span class="why">{alert.text}</span>
            </div>
          </li>
        ))}
      </ul>
      {alerts.length > SHOWN && (
        <button type="button" class="button quiet small" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? "Show fewer" : `Show all ${alerts.length}`}
        </button>
      )}
    </section>
  );
}
