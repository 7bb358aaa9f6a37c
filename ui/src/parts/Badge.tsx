import type { ComponentChildren } from "preact";
import { words } from "./format.ts";

export type Tone = "good" | "warn" | "bad" | "accent" | "calm";

const TONES: Readonly<Record<string, Tone>> = {
  collecting: "calm",
  proposed: "accent",
  running: "accent",
  paused: "warn",
  deployed: "good",
  rolled_back: "bad",
  aborted: "calm",
  superseded: "calm",
  deleted: "calm",
  pass: "good",
  fail: "bad",
  insufficient: "calm",
  healthy: "good",
  degraded: "bad",
  unreachable: "bad",
  off: "calm",
  completed: "good",
  success: "good",
  failed: "bad",
  error: "bad",
};

/** The colour of a word of the product: a status, a verdict, a component's state, an outcome. */
export const toneOf = (word: string): Tone => TONES[word] ?? "calm";

export function Badge(props: { tone?: Tone; children: ComponentChildren }) {
  return <span class={`badge ${props.tone ?? "calm"}`}>{props.children}</span>;
}

/** A word of the product in its colour; the word itself is always there too. */
export function State(props: { word: string }) {
  return <Badge tone={toneOf(props.word)}>{words(props.word)}</Badge>;
}

export function Dot(props: { tone: Tone }) {
  return <span class={`dot ${props.tone}`} aria-hidden="true" />;
}
