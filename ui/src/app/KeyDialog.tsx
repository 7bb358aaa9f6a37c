import { useState } from "preact/hooks";
import { Client } from "../api/client.ts";
import { ApiError } from "../api/error.ts";
import { Dialog } from "../parts/Dialog.tsx";
import { adminKey, setAdminKey } from "./keys.ts";

// Also said of what no header can carry: it was not asked about, and can not be one.
const WRONG = "This is not an admin key of this product.";

/** Takes the admin key, tries it, and keeps it for this tab. */
export function KeyDialog(props: { close: () => void; changed: () => void }) {
  const [key, setKey] = useState("");
  const [failed, setFailed] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const had = adminKey() !== null;
  const use = async (event: Event) => {
    event.preventDefault();
    const given = key.trim();
    if (!given || busy) return;
    setBusy(true);
    setFailed(null);
    if (!/^[\x21-\x7e]+$/.test(given)) {
      setFailed(WRONG);
      setBusy(false);
      return;
    }
    try {
      await new Client(() => given).routes();
    } catch (error) {
      // 503 means that the key was good enough to be told that there is no table yet.
      if (!(error instanceof ApiError) || error.kind === "unauthorized" || error.status === 0) {
        setFailed(error instanceof ApiError && error.kind === "unauthorized" ? WRONG : String(error instanceof Error ? error.message : error));
        setBusy(false);
        return;
      }
    }
    setAdminKey(given);
    props.changed();
    props.close();
  };
  const forget = () => {
    setAdminKey(null);
    props.changed();
    props.close();
  };
  return (
    <Dialog title="Admin key" close={props.close}>
      <form class="stack" onSubmit={(event) => void use(event)}>
        <p class="muted">
          It is the one configured as <code>admin.key</code>, or the one in <code>secrets/admin.key</code> of the state directory. It stays in this tab
          and is forgotten when the tab closes. From the machine itself no key is needed.
        </p>
        <label class="field">
          <span>Key</span>
          <input type="password" autocomplete="off" spellcheck={false} value={key} autofocus onInput={(event) => setKey(event.currentTarget.value)} />
        </label>
        {failed !== null && <p class="banner bad" role="alert">{failed}</p>}
        <div class="actions">
          {had && <button type="button" class="button quiet" onClick={forget}>Forget the key</button>}
          <button type="button" class="button" onClick={props.close}>Cancel</button>
          <button type="submit" class="button primary" disabled={busy || key.trim() === ""}>{busy ? "Trying…" : "Use this key"}</button>
        </div>
      </form>
    </Dialog>
  );
}
