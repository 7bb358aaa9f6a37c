// What the views of optimizations need besides the API's own types.
import type { Optimization, Status } from "../../api/types.ts";

/** In the order in which an optimization gets into them. */
export const STATUSES: readonly Status[] = [
  "collecting",
  "proposed",
  "running",
  "paused",
  "deployed",
  "rolled_back",
  "aborted",
  "superseded",
  "deleted",
];

export interface Parameter {
  name: string;
  type: string;
  description: string;
  default: unknown;
  required: boolean;
  minimum: number | null;
  maximum: number | null;
}

export interface Strategy {
  name: string;
  summary: string;
  parameters: Parameter[];
}

/** Control and candidate both have traffic. */
export function isSplitting(row: Pick<Optimization, "status">): boolean {
  return row.status === "running" || row.status === "paused";
}
