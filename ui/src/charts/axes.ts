/** What is written along the axes of charts. */

const DAY_S = 86_400;

/** Ticks of a time axis: the hour and minute, seconds when ticks are closer than a minute, days when they are far. */
export function times(ticks: readonly number[], step: number): string[] {
  let day = "";
  return ticks.map((at) => {
    const date = new Date(at * 1000);
    const own = date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
    if (step >= DAY_S) return own;
    const clock = date.toLocaleTimeString("en-GB", {
      hour: "2-digit",
      minute: "2-digit",
      ...(step < 60 ? { second: "2-digit" } : {}),
    });
    // A new day is named once, where it begins.
    const text = day !== "" && own !== day ? own : clock;
    day = own;
    return text;
  });
}

/** The width in CSS pixels that the longest of `texts` takes beside an axis. */
export function room(texts: readonly (string | null)[] | null, least = 28): number {
  const longest = (texts ?? []).reduce((most, text) => Math.max(most, text?.length ?? 0), 0);
  return Math.max(least, Math.ceil(longest * 6.6) + 12);
}

/** A range that shows `least`..`most` with some air; 0 stays in sight where it is near, or is asked for. */
export function airy(least: number, most: number, fromZero: boolean): [number, number] {
  if (!Number.isFinite(least) || !Number.isFinite(most)) return [0, 1];
  const low = fromZero ? Math.min(0, least) : least;
  const high = fromZero ? Math.max(0, most) : most;
  const span = high - low || Math.abs(high) || 1;
  if (low === 0 && high === 0) return [0, 1];
  return [low === 0 ? 0 : low - span * 0.06, high === 0 ? 0 : high + span * 0.06];
}

/** Ticks of an axis of ratios: 1, 2 and 5 of each power of ten, or fewer of them so that there are at most `fit`. */
export function ratios(least: number, most: number, fit: number): number[] {
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    const ticks: number[] = [];
    for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); power += 1)
      for (const step of steps) ticks.push(Number((step * 10 ** power).toPrecision(1)));
    const within = ticks.filter((tick) => tick >= least && tick <= most);
    if (within.length <= fit) return within;
    if (steps.length === 1) return within.filter((_, at) => at % Math.ceil(within.length / Math.max(1, fit)) === 0);
  }
  return [];
}

export interface Bounds {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
  readonly weight: number;
}

/** Whether what is believed spans so much that only ratios can be seen. */
export function spansRatios(all: readonly Bounds[]): boolean {
  const said = all.filter((one) => one.weight > 0);
  const low = Math.min(...said.map((one) => one.low));
  return low > 0 && Math.max(...said.map((one) => one.high)) / low > 8;
}

/**
 * The stretch in which posteriors are drawn: all intervals that data speaks for, with air on both sides. Those of a
 * bare prior are as wide as what is possible and would press all others together.
 */
export function interesting(all: readonly Bounds[], limits: readonly [number, number], isLog = false): [number, number] {
  const said = all.filter((one) => one.weight > 0);
  if (said.length === 0) return [limits[0], Number.isFinite(limits[1]) ? limits[1] : 1];
  const low = Math.min(...said.map((one) => one.low));
  const high = Math.max(...said.map((one) => one.high));
  if (isLog) return [low / 1.25, high * 1.25];
  const air = (high - low || Math.abs(high) || 1) * 0.25;
  return [Math.max(limits[0], low - air), Math.min(limits[1], high + air)];
}
