// The form for a new optimization, made from what the strategies say they take.
import type { ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";
import { useApp, usePolled } from "../../app/context.ts";
import { go, href } from "../../app/router.ts";
import { ApiError, isRecord } from "../../api/error.ts";
import type { Optimization, TableRoute } from "../../api/types.ts";
import { Card, Empty, format, Shown } from "../../parts/index.ts";
import type { Parameter, Strategy } from "./model.ts";
import { placeholder, readParameters } from "./parameters.ts";

interface Known {
  strategies: Strategy[];
  routes: TableRoute[];
}

export function Create() {
  const known = usePolled<Known>(async (client, signal) => {
    const [{ strategies }, table] = await Promise.all([
      client.get<{ strategies: Strategy[] }>("/api/v1/strategies", {}, signal),
      client.routes(signal),
    ]);
    return { strategies, routes: table.routes };
  }, [], 60_000);
  return (
    <div class="stack">
      <div class="head flat">
        <div>
          <p class="small"><a href="#/rollouts">Rollouts</a> /</p>
          <h1>New optimization</h1>
          <p>A strategy looks at a route and proposes a change. Nothing reaches traffic before it is deployed.</p>
        </div>
      </div>
      <Shown of={known} what="the strategies">
        {(data) => (data.routes.length === 0 ? <Empty title="There is no route">An optimization improves a route; the configuration has none.</Empty> : <Form known={data} />)}
      </Shown>
    </div>
  );
}

function Form(props: { known: Known }) {
  const { client, place, tell, askForKey } = useApp();
  const { strategies, routes } = props.known;
  const [name, setName] = useState("");
  const [route, setRoute] = useState(place.query["route"] ?? routes[0]?.name ?? "");
  const [chosen, setChosen] = useState(place.query["strategy"] ?? strategies[0]?.name ?? "");
  const [typed, setTyped] = useState<Record<string, string>>({});
  const [deploys, setDeploys] = useState(false);
  const [problems, setProblems] = useState<Record<string, string>>({});
  const [busy, setBusy] = useState(false);
  const strategy = strategies.find((one) => one.name === chosen);
  const make = async (event: Event) => {
    event.preventDefault();
    if (strategy === undefined || busy) return;
    const reading = readParameters(strategy, typed);
    const found = { ...reading.problems, ...(name.trim() === "" ? { name: "is required" } : {}) };
    setProblems(found);
    if (Object.keys(found).length > 0) return;
    setBusy(true);
    try {
      const body = { name: name.trim(), strategy: chosen, route, parameters: reading.parameters, deploy: deploys };
      const made = await client.change<Optimization>("POST", "/api/v1/optimize", { body });
      tell(`${made.name}: ${format.words(made.status)}`, "good");
      go(href(["rollouts", made.id]));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.kind === "unauthorized") askForKey();
      setProblems(told(error));
      setBusy(false);
    }
  };
  return (
    <Card>
      <form class="stack form" onSubmit={(event) => void make(event)} noValidate>
        <Field name="Name" problem={problems["name"]}>
          {(names) => <input {...names} value={name} maxLength={200} placeholder="what people will call it" onInput={(event) => setName(event.currentTarget.value)} />}
        </Field>
        <Field name="Route" problem={problems["route"]} note={armsOf(routes.find((one) => one.name === route))}>
          {(names) => (
            <select {...names} value={route} onChange={(event) => setRoute(event.currentTarget.value)}>
              {routes.map((one) => <option key={one.name} value={one.name}>{one.name}</option>)}
            </select>
          )}
        </Field>
        <Field name="Strategy" problem={problems["strategy"]} note={strategy?.summary}>
          {(names) => (
            <select {...names} value={chosen} onChange={(event) => { setChosen(event.currentTarget.value); setTyped({}); setProblems({}); }}>
              {strategies.map((one) => <option key={one.name} value={one.name}>{format.words(one.name)}</option>)}
            </select>
          )}
        </Field>
        {strategy?.parameters.map((parameter) => (
          <Field key={`${chosen}.${parameter.name}`} name={title(parameter)} problem={problems[parameter.name]} note={parameter.description}>
            {(names) => <Input names={names} parameter={parameter} value={typed[parameter.name] ?? ""} change={(text) => setTyped({ ...typed, [parameter.name]: text })} />}
          </Field>
        ))}
        <label class="row check">
          <input type="checkbox" checked={deploys} onChange={(event) => setDeploys(event.currentTarget.checked)} />
          <span>Deploy it as soon as there is a proposal</span>
        </label>
        {problems[""] !== undefined && <p class="banner bad" role="alert">{problems[""]}</p>}
        <div class="actions">
          <button type="submit" class="button primary" disabled={busy}>{busy ? "Working…" : "Ask the strategy"}</button>
          <a class="button" href="#/rollouts">Cancel</a>
        </div>
      </form>
    </Card>
  );
}

interface Names {
  id: string;
  "aria-describedby": string;
  "aria-invalid": boolean;
}

/** A named input; its note and its problem describe it without being part of its name. */
function Field(props: { name: string; problem?: string | undefined; note?: string | undefined; children: (names: Names) => ComponentChildren }) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{props.name}</label>
      {props.children({ id, "aria-describedby": `${id}-more`, "aria-invalid": props.problem !== undefined })}
      <div id={`${id}-more`} class="small muted">
        {props.problem !== undefined && <p class="why" role="alert">{props.problem}</p>}
        {props.note !== undefined && <p>{props.note}</p>}
      </div>
    </div>
  );
}

function Input(props: { names: Names; parameter: Parameter; value: string; change: (text: string) => void }) {
  const { names, parameter, value, change } = props;
  const hint = placeholder(parameter);
  if (parameter.type === "table" || parameter.type === "list") {
    return <textarea {...names} rows={2} spellcheck={false} value={value} placeholder={hint} onInput={(event) => change(event.currentTarget.value)} />;
  }
  return <input {...names} inputMode={parameter.type === "number" ? "decimal" : "text"} value={value} placeholder={hint} onInput={(event) => change(event.currentTarget.value)} />;
}

function title(parameter: Parameter): string {
  const name = format.words(parameter.name);
  return name[0]!.toUpperCase() + name.slice(1) + (parameter.required ? "" : " (may be left out)");
}

/** What may be typed where arms are asked for. */
function armsOf(route: TableRoute | undefined): string | undefined {
  if (route === undefined) return undefined;
  return `Its arms: ${route.control.arms.map((arm) => (arm.id === route.control.baseline ? `${arm.id} (baseline)` : arm.id)).join(", ")}`;
}

/** The product's problems by the field that they are about; "" has what belongs to none. */
function told(error: ApiError): Record<string, string> {
  const rows = error.details["problems"];
  const found: Record<string, string> = {};
  for (const row of Array.isArray(rows) ? rows.filter(isRecord) : []) {
    const path = String(row["path"] ?? "").replace(/^parameters\.?/, "").split(/[.[]/)[0] ?? "";
    const text = [row["message"], row["suggestion"]].filter((part) => typeof part === "string" && part !== "").join(" ");
    found[path] = found[path] === undefined ? text : `${found[path]} ${text}`;
  }
  return Object.keys(found).length > 0 ? found : { "": error.message };
}
