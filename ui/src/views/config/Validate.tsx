// Checks a configuration without using it.
import { useRef, useState } from "preact/hooks";
import { useApp } from "../../app/context.ts";
import { ApiError } from "../../api/error.ts";
import type { Validated } from "../../api/types.ts";
import { Card } from "../../parts/index.ts";
import { selectionOf } from "./lines.ts";
import { Problems } from "./Problems.tsx";

export function Validate() {
  const { client, askForKey } = useApp();
  const field = useRef<HTMLTextAreaElement>(null);
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [found, setFound] = useState<Validated | null>(null);
  const [failed, setFailed] = useState<string | null>(null);
  const run = async (ask: () => Promise<void>) => {
    if (busy) return;
    setBusy(true);
    setFailed(null);
    try {
      await ask();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.kind === "unauthorized") askForKey();
      setFailed(error.message);
    } finally {
      setBusy(false);
    }
  };
  const check = () =>
    run(async () => {
      const answer = await client.validate(text);
      // What was found holds for what was asked about, not for what was typed meanwhile.
      if (field.current?.value === text) setFound(answer);
    });
  const fill = () =>
    run(async () => {
      setText(await client.configuration("file"));
      setFound(null);
    });
  const point = (line: number) => {
    const place = selectionOf(text, line);
    if (place === null || field.current === null) return;
    field.current.focus();
    field.current.setSelectionRange(...place);
    // Browsers scroll to a selection only when somebody types.
    const height = parseFloat(getComputedStyle(field.current).lineHeight) || 18;
    field.current.scrollTop = Math.max(0, (line - 4) * height);
  };
  return (
    <Card title="Validate" label="Validate">
      <div class="stack">
        <label class="field">
          <span>A configuration as YAML. It is checked, and not used.</span>
          <textarea
            ref={field}
            rows={16}
            spellcheck={false}
            wrap="off"
            value={text}
            placeholder={"upstreams:\n  openai: {api_key: \"${OPENAI_API_KEY}\"}\n…"}
            onInput={(event) => {
              setText(event.currentTarget.value);
              setFound(null);
            }}
          />
        </label>
        <div class="actions">
          <button type="button" class="button primary" disabled={busy || text.trim() === ""} onClick={() => void check()}>{busy ? "Working…" : "Validate"}</button>
          <button type="button" class="button" disabled={busy} onClick={() => void fill()}>Begin with the present file</button>
        </div>
        {failed !== null && <p class="banner bad" role="alert">{failed}</p>}
        {found !== null && <Outcome found={found} point={point} />}
      </div>
    </Card>
  );
}

function Outcome(props: { found: Validated; point: (line: number) => void }) {
  const { found } = props;
  if (!found.valid) {
    return (
      <div role="alert">
        <p class="banner bad">{found.problems.length === 1 ? "There is one problem." : `There are ${found.problems.length} problems.`}</p>
        <Problems of={found.problems} point={props.point} />
      </div>
    );
  }
  const routes = found.routes ?? [];
  return (
    <div role="status">
      <p class="banner good" data-testid="valid">It is valid.{routes.length > 0 && <> Routes: {routes.join(", ")}.</>}</p>
      {found.notes.length > 0 && (
        <ul class="notes">
          {found.notes.map((note) => <li key={note}>{note}</li>)}
        </ul>
      )}
    </div>
  );
}
