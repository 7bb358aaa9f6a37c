// What is shown when there is nothing to show, and when what is shown is old.
import type { ComponentChildren } from "preact";
import type { ApiError } from "../api/error.ts";
import type { Polled } from "../api/poller.ts";
import type { Missing } from "../api/types.ts";
import { since } from "./format.ts";

export function Empty(props: { title: string; children?: ComponentChildren }) {
  return (
    <div class="state">
      <strong>{props.title}</strong>
      {props.children !== undefined && <p>{props.children}</p>}
    </div>
  );
}

export function Loading(props: { what?: string }) {
  return (
    <div class="state" role="status">
      <span class="ring turning" aria-hidden="true" />
      <span>Loading {props.what ?? ""}…</span>
    </div>
  );
}

const HEADS: Readonly<Record<ApiError["kind"], string>> = {
  disconnected: "No answer",
  unauthorized: "An admin key is needed",
  refused: "The product refused",
  strange: "The answer makes no sense",
};

export function Failed(props: { error: ApiError; again?: () => void }) {
  return (
    <div class="state" role="alert">
      <strong>{HEADS[props.error.kind]}</strong>
      <p>{props.error.message}</p>
      {props.again && <button type="button" class="button" onClick={props.again}>Try again</button>}
    </div>
  );
}

/** Old data under a line that says so. */
export function Stale(props: { at: number; error: ApiError; children: ComponentChildren }) {
  return (
    <div>
      <div class="banner" role="status">
        <span>{props.error.message} Shown is what was known {since(props.at / 1000)}.</span>
      </div>
      <div class="stale">{props.children}</div>
    </div>
  );
}

/**
 * The four states of polled data in one place: loading, error, old, and there. `children` gets the data.
 * Emptiness is the view's own: only it knows what nothing means.
 */
export function Shown<T>(props: { of: Polled<T> & { again: () => void }; what?: string; children: (data: T) => ComponentChildren }) {
  const { data, error, at, again } = props.of;
  if (data === null) return error === null ? <Loading what={props.what ?? ""} /> : <Failed error={error} again={again} />;
  if (error === null) return <>{props.children(data)}</>;
  return <Stale at={at} error={error}>{props.children(data)}</Stale>;
}

/** In a cluster: whom nobody could ask. */
export function Incomplete(props: { missing: Missing[] | null | undefined }) {
  if (!props.missing?.length) return null;
  return (
    <div class="banner" role="status">
      <span>
        Not complete: {props.missing.map((one) => `${one.node ?? `shards ${one.shards.join(", ")}`} (${one.reason})`).join("; ")}
      </span>
    </div>
  );
}
