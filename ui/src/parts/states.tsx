// What is shown when there is nothing to show, and when what is shown is old.
import type { ComponentChildren } from "preact";
import type { ApiError } from "../api/error.ts";
import type { Polled } from "../api/poller.ts";
import type { Missing } from "../api/types.ts";
import { time } from "./format.ts";

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

/**
 * Data, and where `error` is not null a line that says how old it is. The tree around the data is the same in both
 * cases: an open dialog or a half-filled form must outlive a failed poll.
 */
export function Stale(props: { at: number; error: ApiError | null; children: ComponentChildren }) {
  return (
    <div class="shown">
      {props.error === null ? null : (
        <div class="banner" role="status">
          <span>{props.error.message} Shown is what was known at {time(props.at / 1000)}.</span>
        </div>
      )}
      <div class={props.error === null ? "shown" : "stale"}>{props.children}</div>
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
  return <Stale at={at} error={error}>{props.children(data)}</Stale>;
}

/** Whom nobody could ask for any of several answers, each once. */
export function missingOf(...answers: ({ incomplete?: Missing[] | null } | null)[]): Missing[] {
  const rows = answers.flatMap((answer) => answer?.incomplete ?? []);
  return [...new Map(rows.map((row) => [JSON.stringify(row), row])).values()];
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
