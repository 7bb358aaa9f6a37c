/**
 * What is done to rows of numbers before they are drawn. A hole (null) is a time without an answer to the question;
 * it stays a hole and never becomes a zero.
 */

export type Points = readonly (number | null)[];

/** Shares of each row in the sum per bucket; holes where the sum is 0. */
export function shares(rows: readonly Points[]): (number | null)[][] {
  const totals = totalled(rows);
  return rows.map((row) => row.map((value, at) => ((totals[at] ?? 0) > 0 ? (value ?? 0) / (totals[at] ?? 1) : null)));
}

/** The sum of all rows per bucket; holes count as nothing. */
export function totalled(rows: readonly Points[]): number[] {
  const length = rows.reduce((most, row) => Math.max(most, row.length), 0);
  return Array.from({ length }, (_, at) => rows.reduce((sum, row) => sum + (row[at] ?? 0), 0));
}

/** The upper edge of each row when they are laid on each other, the first at the bottom; holes stay holes. */
export function stacked(rows: readonly Points[]): (number | null)[][] {
  const below: number[] = [];
  return rows.map((row) =>
    row.map((value, at) => {
      if (value === null) return null;
      const edge = (below[at] ?? 0) + value;
      below[at] = edge;
      return edge;
    }),
  );
}

/** The running sum; a hole adds nothing. */
export function accumulated(row: Points): number[] {
  let sum = 0;
  return row.map((value) => (sum += value ?? 0));
}

/** `over` / `under` per bucket; holes where `under` is 0 or unknown. */
export function divided(over: Points, under: Points): (number | null)[] {
  return over.map((value, at) => {
    const by = under[at] ?? 0;
    return value === null || by === 0 ? null : value / by;
  });
}

/** At most `most` sums of equally many neighbours; a last group may be smaller. Holes count as nothing. */
export function thinned(row: Points, most: number): number[] {
  const group = Math.max(1, Math.ceil(row.length / Math.max(1, most)));
  const sums: number[] = [];
  row.forEach((value, at) => {
    const into = Math.floor(at / group);
    sums[into] = (sums[into] ?? 0) + (value ?? 0);
  });
  return sums;
}

export interface Line {
  readonly x: readonly number[];
  readonly y: readonly number[];
}

/**
 * Curves over one common axis: the sorted union of all their x, each curve interpolated between its own points and
 * 0 outside of them, for a density that has ended is no hole.
 */
export function joined(curves: readonly Line[]): { x: number[]; rows: number[][] } {
  const x = [...new Set(curves.flatMap((curve) => [...curve.x]))].sort((a, b) => a - b);
  return { x, rows: curves.map((curve) => along(curve, x)) };
}

function along(curve: Line, x: readonly number[]): number[] {
  let next = 0;
  return x.map((at) => {
    while (next < curve.x.length && (curve.x[next] ?? Infinity) < at) next += 1;
    const right = curve.x[next];
    if (right === at) return curve.y[next] ?? 0;
    const left = curve.x[next - 1];
    if (left === undefined || right === undefined) return 0;
    const part = (at - left) / (right - left);
    return (curve.y[next - 1] ?? 0) * (1 - part) + (curve.y[next] ?? 0) * part;
  });
}

/** Curves of very different height on one scale: each as a share of its own peak. */
export function peaked(row: readonly number[]): number[] {
  const peak = row.reduce((most, value) => Math.max(most, value), 0);
  return row.map((value) => (peak > 0 ? value / peak : 0));
}

/** The least and most known value over all rows; null when none is known. */
export function extent(rows: readonly Points[]): [number, number] | null {
  let least = Infinity;
  let most = -Infinity;
  for (const row of rows)
    for (const value of row)
      if (value !== null && Number.isFinite(value)) {
        least = Math.min(least, value);
        most = Math.max(most, value);
      }
  return least <= most ? [least, most] : null;
}

/** Whether any bucket holds more than nothing. */
export function isEmpty(rows: readonly Points[]): boolean {
  return rows.every((row) => row.every((value) => value === null || value === 0));
}

/** Places whose neighbours are both holes: a line through them has no length, so they are drawn as points. */
export function isolated(row: Points): number[] {
  const known = (at: number): boolean => (row[at] ?? null) !== null;
  return row.flatMap((_, at) => (known(at) && !known(at - 1) && !known(at + 1) ? [at] : []));
}

/** Sums of `by` neighbours each; the last group may be smaller. A group of holes stays a hole. */
export function grouped(row: Points, by: number): (number | null)[] {
  const sums: (number | null)[] = [];
  row.forEach((value, at) => {
    const into = Math.floor(at / by);
    const sum = sums[into] ?? null;
    sums[into] = value === null ? sum : (sum ?? 0) + value;
  });
  return sums;
}

/**
 * How many buckets to put together so that at most a fifth of them, from the first to the last with traffic, is
 * empty: shares of single requests say nothing. Powers of two, so that the picture does not jump with every answer.
 */
export function grouping(totals: Points, fewest = 12): number {
  let by = 1;
  while (totals.length / (by * 2) >= fewest) {
    const sums = grouped(totals, by);
    const first = sums.findIndex((sum) => (sum ?? 0) > 0);
    if (first < 0) return 1;
    const last = sums.findLastIndex((sum) => (sum ?? 0) > 0);
    const within = sums.slice(first, last + 1);
    if (within.filter((sum) => (sum ?? 0) === 0).length * 5 <= within.length) return by;
    by *= 2;
  }
  return by;
}

/** Where to begin to draw: one bucket before the first with traffic, at the start when none has any. */
export function beginning(totals: Points): number {
  return Math.max(0, totals.findIndex((total) => (total ?? 0) > 0) - 1);
}
