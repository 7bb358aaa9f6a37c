import { useState } from "preact/hooks";
import { Empty } from "../../parts/index.ts";
import { linesOf } from "./lines.ts";

/** Text with line numbers, which are not copied with it. */
export function Code(props: { text: string; label: string }) {
  const [copied, setCopied] = useState("");
  const lines = linesOf(props.text);
  if (lines.length === 0) return <Empty title="It is empty">Defaults are in use.</Empty>;
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(props.text);
      setCopied("Copied");
    } catch {
      // Browsers give the clipboard to https and localhost only.
      setCopied("Not allowed here");
    }
  };
  return (
    <div class="listing">
      <div class="row spread">
        <span class="small muted">{lines.length} lines</span>
        <button type="button" class="button small" onClick={() => void copy()}>{copied || "Copy"}</button>
      </div>
      <div class="code numbered" tabIndex={0} role="region" aria-label={props.label}>
        <pre class="numbers" aria-hidden="true">{lines.map((_, index) => index + 1).join("\n")}</pre>
        <pre class="lines" data-testid="yaml">{props.text}</pre>
      </div>
    </div>
  );
}
