// Large answers that change slowly are asked for more rarely than a view's poller ticks.

import { ApiError } from "../../api/error.ts";

export class Seldom {
  private readonly kept = new Map<string, { at: number; value: unknown }>();

  constructor(private readonly now: () => number = () => Date.now()) {}

  /** The answer of `ask`, at most `ms` old; with another `name` it is another question. Failures are not kept. */
  async of<T>(name: string, ms: number, ask: () => Promise<T>): Promise<T> {
    const found = this.kept.get(name);
    if (found !== undefined && this.now() - found.at < ms) return found.value as T;
    const at = this.now();
    const value = await ask();
    this.kept.set(name, { at, value });
    return value;
  }

  /** Forget what begins with `name`: its question is not asked any more. */
  forget(name: string): void {
    for (const key of this.kept.keys()) if (key.startsWith(name)) this.kept.delete(key);
  }
}

/** How often something per second happened, from a counter that is looked at again and again. */
export class Meter {
  private seen: { at: number; total: number }[] = [];

  constructor(private readonly window: number = 30) {}

  /** `at` in seconds. Null before there are two looks; a counter that went down began anew. */
  rate(at: number, total: number): number | null {
    const last = this.seen.at(-1);
    if (last !== undefined && total < last.total) this.seen = [];
    if (last === undefined || at > last.at) this.seen.push({ at, total });
    while (this.seen.length > 2 && at - (this.seen[1]?.at ?? at) >= this.window) this.seen.shift();
    const [first] = this.seen;
    const newest = this.seen.at(-1);
    if (first === undefined || newest === undefined || newest.at <= first.at) return null;
    return (newest.total - first.total) / (newest.at - first.at);
  }
}

/** Null where this one question is refused; an answer that is away is everybody's business. */
export async function optional<T>(asked: Promise<T>): Promise<T | null> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof ApiError && error.kind === "refused") return null;
    throw error;
  }
}
