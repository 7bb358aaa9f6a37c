import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { useApp } from "../app/context.ts";

/**
 * A modal dialog. The browser's own <dialog> keeps the focus inside (what lies behind is inert), closes with Escape and
 * gives the focus back; this adds that Tab does not leave for the browser's own controls. `left` is called when the
 * browser has closed it without asking.
 */
export function Dialog(props: { title: string; close: () => void; left?: () => void; wide?: boolean; children: ComponentChildren }) {
  const box = useRef<HTMLDialogElement>(null);
  const title = useId();
  useEffect(() => {
    const before = document.activeElement;
    box.current?.showModal();
    return () => {
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={box}
      class={props.wide ? "dialog wide" : "dialog"}
      aria-labelledby={title}
      onCancel={(event) => {
        event.preventDefault();
        props.close();
      }}
      // Browsers close it at a second Escape whatever is said at the first.
      onClose={() => (props.left ?? props.close)()}
      onKeyDown={(event) => event.key === "Tab" && box.current !== null && wrap(event, box.current)}
    >
      <div class="inside">
        <h2 id={title}>{props.title}</h2>
        {props.children}
      </div>
    </dialog>
  );
}

/**
 * Asks before something is done. `act` may fail: then the reason is shown here and nothing is lost. With `reason`
 * the person may say why; it goes into the audit. `word` must be typed where a slip would be dear. What was sent can't
 * be called back, so nothing pretends to while it is under way; whoever leaves all the same is told how it ended.
 */
export function Confirm(props: {
  title: string;
  verb: string;
  danger?: boolean;
  reason?: boolean;
  word?: string;
  act: (reason: string | undefined) => Promise<void>;
  close: () => void;
  children?: ComponentChildren;
}) {
  const [why, setWhy] = useState("");
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const [failed, setFailed] = useState<string | null>(null);
  const { tell } = useApp();
  const isLeft = useRef(false);
  useEffect(() => () => {
    isLeft.current = true;
  }, []);
  const run = async (event: Event) => {
    event.preventDefault();
    if (busy || (props.word !== undefined && typed !== props.word)) return;
    setBusy(true);
    setFailed(null);
    try {
      await props.act(why.trim() || undefined);
      if (!isLeft.current) props.close();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (isLeft.current) tell(`${props.title}. ${message}`, "bad");
      setFailed(message);
      setBusy(false);
    }
  };
  return (
    <Dialog title={props.title} close={() => !busy && props.close()} left={props.close}>
      <form class="stack" onSubmit={(event) => void run(event)}>
        {props.children}
        {props.reason && (
          <label class="field">
            <span>Reason (for the audit, may be left out)</span>
            <input value={why} maxLength={1000} onInput={(event) => setWhy(event.currentTarget.value)} />
          </label>
        )}
        {props.word !== undefined && (
          <label class="field">
            <span>Type <strong>{props.word}</strong> to go on</span>
            <input value={typed} autocomplete="off" onInput={(event) => setTyped(event.currentTarget.value)} />
          </label>
        )}
        {failed !== null && <p class="banner bad" role="alert">{failed}</p>}
        <div class="actions">
          <button type="button" class="button" disabled={busy} onClick={props.close}>Cancel</button>
          <button type="submit" class={props.danger ? "button danger" : "button primary"} disabled={busy || (props.word !== undefined && typed !== props.word)}>
            {busy ? "Working…" : props.verb}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function wrap(event: KeyboardEvent, box: HTMLElement): void {
  const able = [...box.querySelectorAll<HTMLElement>("a[href], button, input, select, textarea, [tabindex='0']")].filter(
    (element) => !element.hasAttribute("disabled") && element.offsetParent !== null,
  );
  const [first, last] = [able[0], able.at(-1)];
  if (first === undefined || last === undefined) return;
  if (event.shiftKey && document.activeElement === first) {
    event.preventDefault();
    last.focus();
  } else if (!event.shiftKey && document.activeElement === last) {
    event.preventDefault();
    first.focus();
  }
}
