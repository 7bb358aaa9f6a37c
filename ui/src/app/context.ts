// What every view may use: the client, where the page is, the theme, and telling people something.
import { createContext } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";
import type { Client } from "../api/client.ts";
import { type Polled, Poller } from "../api/poller.ts";
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
  /** Grows when another key is in use: what was refused may work now. */
  keyed: number;
}

export const AppContext = createContext<App | null>(null);

export function useApp(): App {
  const app = useContext(AppContext);
  if (app === null) throw new Error("a view outside the shell");
  return app;
}

/**
 * Asks `ask` while the view is shown, from the start again when `on` changes (then the data of before is dropped).
 * Errors never throw: they are in the answer, next to the last data.
 */
export function usePolled<T>(
  ask: (client: Client, signal: AbortSignal) => Promise<T>,
  on: readonly unknown[] = [],
  interval?: number,
): Polled<T> & { again: () => void } {
  const { client, keyed, askForKey } = useApp();
  const [value, setValue] = useState<Polled<T>>({ data: null, error: null, at: 0 });
  const poller = useRef<Poller<T> | null>(null);
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    setValue({ data: null, error: null, at: 0 });
    const made = new Poller<T>(
      (signal) => latest.current(client, signal),
      (next) => {
        setValue(next);
        if (next.error?.kind === "unauthorized") askForKey();
      },
      interval,
    );
    poller.current = made;
    return () => made.stop();
  }, [client, keyed, interval, ...on]);
  return { ...value, again: () => poller.current?.now() };
}
