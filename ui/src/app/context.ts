// What every view may use: the client, where the page is, the theme, and telling people something.
import { createContext } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";
import type { Client } from "../api/client.ts";
import { type Polled, Poller } from "../api/poller.ts";
import { adminKey } from "./keys.ts";
import type { Place } from "./router.ts";
import type { Theme } from "./theme.ts";

export interface App {
  client: Client;
  place: Place;
  theme: Theme;
  /** A short message in the corner. */
  tell: (text: string, tone?: "good" | "bad") => void;
  /** Open the dialog for the admin key. */
  askForKey: () => void;
  /** Open it because an answer was refused: once for each key, so that whoever closed it is left alone. */
  missKey: () => void;
  /** Grows when another key is in use: what was refused may work now. */
  keyed: number;
}

export const AppContext = createContext<App | null>(null);

export function useApp(): App {
  const app = useContext(AppContext);
  if (app === null) throw new Error("a view outside the shell");
  return app;
}

const NOTHING: Polled<never> = { data: null, error: null, at: 0 };

/**
 * Asks `ask` while the view is shown, from the start again when `on` changes (then the data of before is dropped).
 * Errors never throw: they are in the answer, next to the last data.
 */
export function usePolled<T>(
  ask: (client: Client, signal: AbortSignal) => Promise<T>,
  on: readonly unknown[] = [],
  interval?: number,
): Polled<T> & { again: () => void } {
  const { client, keyed, missKey } = useApp();
  const [value, setValue] = useState<Polled<T>>(NOTHING);
  const poller = useRef<Poller<T> | null>(null);
  const latest = useRef(ask);
  latest.current = ask;
  const last = useRef(NOTHING as Polled<T>);
  const seen = useRef<readonly unknown[]>([]);
  useEffect(() => {
    // A new key is no new question: what is open above the data (a dialog, a form) stays. Without a key nothing does.
    const isSame = adminKey() !== null && seen.current.length === on.length && on.every((one, at) => one === seen.current[at]);
    seen.current = on;
    const start: Polled<T> = isSame && last.current.data !== null ? last.current : NOTHING;
    last.current = start;
    setValue(start);
    const made = new Poller<T>(
      (signal) => latest.current(client, signal),
      (next) => {
        last.current = next;
        setValue(next);
        if (next.error?.kind === "unauthorized") missKey();
      },
      interval,
      undefined,
      start,
    );
    poller.current = made;
    return () => made.stop();
  }, [client, keyed, interval, ...on]);
  return { ...value, again: () => poller.current?.now() };
}
