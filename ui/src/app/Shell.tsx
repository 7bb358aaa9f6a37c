// The frame around the views: navigation, theme, key, and whether the product answers.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Client } from "../api/client.ts";
import { ApiError } from "../api/error.ts";
import { Poller, type Polled } from "../api/poller.ts";
import type { Health } from "../api/types.ts";
import { Dot } from "../parts/Badge.tsx";
import * as format from "../parts/format.ts";
import { Empty } from "../parts/states.tsx";
import { AppContext, type App } from "./context.ts";
import { Guarded } from "./Guarded.tsx";
import icon from "./icon.svg";
import { KeyDialog } from "./KeyDialog.tsx";
import { adminKey } from "./keys.ts";
import { parse, type Place } from "./router.ts";
import * as themes from "./theme.ts";
import { Toasts, type Toast } from "./Toasts.tsx";
import { VIEWS, viewOf } from "./views.ts";

const TOAST_MS = 6_000;
// More than an answer takes to come.
const CLOCK_S = 30;
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

export function Shell() {
  const place = usePlace();
  const [theme, setTheme] = useState(themes.current);
  const [dialog, setDialog] = useState(false);
  const [keyed, setKeyed] = useState(0);
  const { toasts, tell, drop } = useToasts();
  const asked = useRef(-1);
  const client = useMemo(() => new Client(adminKey), []);
  const health = useHealth(client);
  useEffect(() => themes.follow(setTheme), []);

  const app: App = {
    client,
    place,
    theme,
    tell,
    keyed,
    askForKey: () => setDialog(true),
    missKey: () => {
      // Once by itself; whoever closed the dialog finds the button.
      if (asked.current === keyed) return;
      asked.current = keyed;
      setDialog(true);
    },
  };
  const view = viewOf(place);
  useEffect(() => {
    document.title = `${view?.name ?? "Not found"} · LLM Auto Optimizer`;
  }, [view]);
  const ahead = format.skew(health.data?.timestamp, health.at);
  const away = health.error !== null && health.error.kind !== "unauthorized";
  return (
    <AppContext.Provider value={app}>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to the content</a>
      <div class="shell">
        <div class="side">
          <a class="brand" href="#/"><img src={icon} alt="" /><span>LLM Auto Optimizer</span></a>
          <nav class="nav" aria-label="Views">
            {VIEWS.filter((one) => one.shown).map((one) => (
              <a key={one.name} href={`#/${one.at}`} aria-current={view === one || view?.under === one.at ? "page" : undefined}>{one.name}</a>
            ))}
          </nav>
          <div class="side-foot">
            <LinkState of={health} />
            <button type="button" class="button small" aria-label={adminKey() === null ? "Admin key" : "Admin key: set"} onClick={() => setDialog(true)}><span class="roomy">Admin key{adminKey() === null ? "" : ": set"}</span><span class="tight">Key{adminKey() === null ? "" : ": set"}</span></button>
            <button type="button" class="button small" aria-label={`Use the ${theme === "dark" ? "light" : "dark"} theme`} onClick={() => setTheme(themes.toggle())}>
              {theme === "dark" ? "Light" : "Dark"}
            </button>
          </div>
        </div>
        <main class="main" id="main" tabIndex={-1}>
          {away && (
            <div class="banner bad" role="alert" data-testid="disconnected">
              <span><strong>Disconnected.</strong> {health.error?.message} The page tries again by itself.</span>
              <button type="button" class="button small" onClick={health.again}>Try now</button>
            </div>
          )}
          {Math.abs(ahead) >= CLOCK_S && (
            <div class="banner" role="status">
              <span>The clock of this machine is {format.seconds(Math.abs(ahead))} {ahead > 0 ? "ahead of" : "behind"} the product's. Ages such as “3 min ago” are wrong by as much; times are the product's.</span>
            </div>
          )}
          {view === null ? <Empty title="There is no such view">The address names nothing on this page. <a href="#/">Go to the overview</a></Empty> : <Guarded key={place.path.join("/")}><view.show key={view.at} /></Guarded>}
          <p class="zone small muted">Times are shown in this machine's time zone, {ZONE}; the log and the API write UTC.</p>
        </main>
      </div>
      <Toasts toasts={toasts} drop={drop} />
      {dialog && <KeyDialog close={() => setDialog(false)} changed={() => setKeyed((now) => now + 1)} />}
    </AppContext.Provider>
  );
}

function LinkState(props: { of: Polled<Health> }) {
  const { data, error } = props.of;
  const [tone, text] =
    error?.kind === "unauthorized" ? (["calm", "key needed"] as const) : error !== null ? (["bad", "disconnected"] as const) : data === null ? (["calm", "connecting"] as const) : data.status === "healthy" ? (["good", "healthy"] as const) : (["warn", "degraded"] as const);
  return (
    <a class="link-state" href="#/health" title={error?.kind === "unauthorized" ? "Its state is told with the admin key only" : `The product is ${text}`} data-testid="link-state"><Dot tone={tone} /><span class="words">{text}</span></a>
  );
}

function usePlace(): Place {
  const [place, setPlace] = useState(() => parse(location.hash));
  useEffect(() => {
    const changed = () => setPlace(parse(location.hash));
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return place;
}

function useHealth(client: Client): Polled<Health> & { again: () => void } {
  const [value, setValue] = useState<Polled<Health>>({ data: null, error: null, at: 0 });
  const poller = useRef<Poller<Health> | null>(null);
  useEffect(() => {
    const made = new Poller<Health>((signal) => client.health(signal), (next) => setValue(reached(next)), 5_000);
    poller.current = made;
    return () => made.stop();
  }, [client]);
  return { ...value, again: () => poller.current?.now() };
}

// Whoever may not see the states has reached the product all the same.
function reached(value: Polled<Health>): Polled<Health> {
  if (value.error === null || value.error.kind === "disconnected") return value;
  return value.error.kind === "unauthorized" ? value : { ...value, error: new ApiError("disconnected", value.error.message) };
}

function useToasts() {
  const [toasts, setToasts] = useState<Toast[]>([]);
  const last = useRef(0);
  const drop = (id: number) => setToasts((now) => now.filter((toast) => toast.id !== id));
  const tell = (text: string, tone: "good" | "bad" = "good") => {
    const id = (last.current += 1);
    setToasts((now) => [...now.slice(-3), { id, text, tone }]);
    window.setTimeout(() => drop(id), TOAST_MS);
  };
  return { toasts, tell, drop };
}
