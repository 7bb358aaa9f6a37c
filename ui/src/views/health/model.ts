// What judges and limits answer, as far as this view looks at it.
import type { Gathered } from "../../api/types.ts";

/** One limit in its present window; `granted` includes `used`. */
export interface Limit {
  subject: string;
  measure: string;
  window: string;
  starts_at: number;
  resets_at: number;
  limit: number;
  granted: number;
  used: number;
}

export interface Limits {
  limits: Limit[];
}

export interface Judge {
  route: string;
  name: string;
  model: string;
  version: string;
  rate: number;
  answers: boolean;
  problem: string | null;
  spent_today_usd: number;
  usd_per_day: number;
  cost_usd: number;
  arms: { arm: string; ratings: number; mean: number; low: number; high: number }[];
}

export interface Judges extends Gathered {
  judges: Judge[];
  waiting: number;
}
