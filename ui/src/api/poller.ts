// Asks again and again while somebody looks: every `interval` after an answer, more and more rarely after failures,
// not at all while the page is hidden. One question is under way at a time, and `stop` ends it.
import { ApiError } from "./error.ts";

export const INTERVAL_MS = 2_000;
export const LONGEST_MS = 30_000;

export interface Polled<T> {
  data: T | null;
  error: ApiError | null;
  /** When `data` came, in ms of Unix time; 0 before. */
  at: number;
}

export interface Surroundings {
  now(): number;
  after(ms: number, run: () => void): number;
  forget(timer: number): void;
  isHidden(): boolean;
  onVisibility(run: () => void): () => void;
}

export const browser: Surroundings = {
  now: () => Date.now(),
  after: (ms, run) => window.setTimeout(run, ms),
  forget: (timer) => window.clearTimeout(timer),
  isHidden: () => document.hidden,
  onVisibility: (run) => {
    document.addEventListener("visibilitychange", run);
    return () => document.removeEventListener("visibilitychange", run);
  },
};

/** How long to wait after `failures` failures in a row. */
export function pause(failures: number, interval: number): number {
  return failures === 0 ? interval : Math.min(LONGEST_MS, interval * 2 ** failures);
}

export class Poller<T> {
  private value: Polled<T>;
  private failures = 0;
  private timer: number | null = null;
  private asking: AbortController | null = null;
  private stopped = false;
  private readonly unwatch: () => void;

  constructor(
    private readonly ask: (signal: AbortSignal) => Promise<T>,
    private readonly tell: (value: Polled<T>) => void,
    private readonly interval: number = INTERVAL_MS,
    private readonly world: Surroundings = browser,
    /** What is known already: a failure keeps it. */
    known: Polled<T> = { data: null, error: null, at: 0 },
  ) {
    this.value = known;
    this.unwatch = world.onVisibility(() => this.visibility());
    if (!world.isHidden()) this.now();
  }

  /** Ask at once, instead of whatever is under way. */
  now(): void {
    if (this.stopped) return;
    this.rest();
    const asking = new AbortController();
    this.asking = asking;
    void this.ask(asking.signal).then(
      (data) => this.settled(asking, data, null),
      (error: unknown) => this.settled(asking, null, error),
    );
  }

  stop(): void {
    this.stopped = true;
    this.unwatch();
    this.rest();
  }

  private settled(asking: AbortController, data: T | null, error: unknown): void {
    if (this.asking !== asking) return;
    this.asking = null;
    if (error === null) {
      this.failures = 0;
      this.value = { data: data as T, error: null, at: this.world.now() };
    } else {
      this.failures += 1;
      const known = error instanceof ApiError ? error : new ApiError("strange", String(error));
      this.value = { ...this.value, error: known };
    }
    this.tell(this.value);
    if (!this.world.isHidden()) this.timer = this.world.after(pause(this.failures, this.interval), () => this.now());
  }

  private visibility(): void {
    if (this.world.isHidden()) this.rest();
    else this.now();
  }

  private rest(): void {
    if (this.timer !== null) this.world.forget(this.timer);
    this.timer = null;
    const asking = this.asking;
    this.asking = null;
    asking?.abort();
  }
}
