import type { ComponentChildren } from "preact";

/** A titled box. `flush` lets a table reach its edges. */
export function Card(props: { title?: ComponentChildren; aside?: ComponentChildren; flush?: boolean; label?: string; children?: ComponentChildren }) {
  return (
    <section class={props.flush ? "card flush" : "card"} aria-label={props.label}>
      {(props.title !== undefined || props.aside !== undefined) && (
        <header>
          <h2>{props.title}</h2>
          {props.aside !== undefined && <div class="small muted">{props.aside}</div>}
        </header>
      )}
      {props.children}
    </section>
  );
}

/** One big number with its name, and a line below. */
export function Figure(props: { name: string; value: ComponentChildren; note?: ComponentChildren; tone?: "good" | "bad" | undefined }) {
  return (
    <div class="card">
      <dl class="figure">
        <dt>{props.name}</dt>
        <dd class={props.tone ?? ""}>{props.value}</dd>
        {props.note !== undefined && <dd>{props.note}</dd>}
      </dl>
    </div>
  );
}

/** Names and values below each other. */
export function Pairs(props: { of: [string, ComponentChildren][] }) {
  return (
    <dl class="pairs">
      {props.of.map(([name, value]) => [<dt key={`${name}:`}>{name}</dt>, <dd key={name}>{value}</dd>])}
    </dl>
  );
}
