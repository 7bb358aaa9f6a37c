import { expect, test } from "vitest";
import { ApiError } from "./error.ts";
import { LONGEST_MS, pause, type Polled, Poller, type Surroundings } from "./poller.ts";

class World implements Surroundings {
  at = 1_000;
  hidden = false;
  timers = new Map<number, { at: number; run: () => void }>();
  private watchers = new Set<() => void>();
  private last = 0;

  now = () => this.at;
  isHidden = () => this.hidden;
  after(ms: number, run: () => void): number {
    this.timers.set((this.last += 1), { at: this.at + ms, run });
    return this.last;
  }
  forget(timer: number): void {
    this.timers.delete(timer);
  }
  onVisibility(run: () => void): () => void {
    this.watchers.add(run);
    return () => this.watchers.delete(run);
  }
  hide(hidden: boolean): void {
    this.hidden = hidden;
    for (const watcher of this.watchers) watcher();
  }
  /** Lets the next timer ring; how long it took. */
  ring(): number {
    const [id, timer] = [...this.timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
    if (id === undefined || timer === undefined) throw new Error("no timer");
    this.timers.delete(id);
    const waited = timer.at - this.at;
    this.at = timer.at;
    timer.run();
    return waited;
  }
}

const settle = () => new Promise<void>((done) => setTimeout(done));

function polling(answers: (number | ApiError)[]) {
  const world = new World();
  const told: Polled<number>[] = [];
  const signals: AbortSignal[] = [];
  const poller = new Poller<number>(
    (signal) => {
      signals.push(signal);
      const next = answers.shift();
      if (next === undefined) return new Promise(() => undefined);
      return next instanceof ApiError ? Promise.reject(next) : Promise.resolve(next);
    },
    (value) => told.push(value),
    2_000,
    world,
  );
  return { world, told, signals, poller };
}

const gone = () => new ApiError("disconnected", "gone");

test("asks again after each answer", async () => {
  const { world, told } = polling([1, 2]);
  await settle();
  expect(world.ring()).toBe(2_000);
  await settle();
  expect(told.map((one) => one.data)).toEqual([1, 2]);
});

test("asks more and more rarely while nobody answers, and keeps what it knew", async () => {
  const { world, told } = polling([1, ...Array.from({ length: 6 }, gone), 2, 3]);
  const waits: number[] = [];
  for (let turn = 0; turn < 8; turn += 1) {
    await settle();
    waits.push(world.ring());
  }
  expect(waits).toEqual([2_000, 4_000, 8_000, 16_000, LONGEST_MS, LONGEST_MS, LONGEST_MS, 2_000]);
  expect(told[4]).toMatchObject({ data: 1, at: 1_000, error: { kind: "disconnected" } });
  expect(told[7]).toMatchObject({ data: 2, error: null });
});

test("is silent while hidden, and asks at once when seen again", async () => {
  const { world, told, signals } = polling([1]);
  await settle();
  world.hide(true);
  expect(world.timers.size).toBe(0);
  world.hide(false);
  expect(signals).toHaveLength(2);
  world.hide(true);
  expect(signals[1]?.aborted).toBe(true);
  await settle();
  expect(told).toHaveLength(1);
});

test("leaves nothing behind when stopped", async () => {
  const { world, told, signals, poller } = polling([]);
  poller.stop();
  expect(signals[0]?.aborted).toBe(true);
  poller.now();
  world.hide(false);
  await settle();
  expect([signals.length, told.length, world.timers.size]).toEqual([1, 0, 0]);
});

test("an answer that comes too late is not told", async () => {
  const { told, signals, poller } = polling([1, 2]);
  poller.now();
  await settle();
  expect(signals[0]?.aborted).toBe(true);
  expect(told.map((one) => one.data)).toEqual([2]);
});

test("a pause grows up to its bound", () => {
  expect([0, 1, 2, 10].map((failures) => pause(failures, 2_000))).toEqual([2_000, 4_000, 8_000, LONGEST_MS]);
});
