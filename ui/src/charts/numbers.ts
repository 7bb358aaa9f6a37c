/** Figures that charts write beside those of parts/format.ts. */
import * as format from "../parts/format.ts";

type Maybe = number | null | undefined;

const isKnown = (value: Maybe): value is number => typeof value === "number" && Number.isFinite(value);

/** Something per second; what is rarer than one in a hundred seconds is written per minute or hour. */
export function rate(value: Maybe): string {
  if (!isKnown(value)) return format.UNKNOWN;
  if (value === 0 || value >= 0.095) return `${format.figure(value, value < 10 ? 1 : 0)}/s`;
  return value * 60 >= 0.095 ? `${format.figure(value * 60, 1)}/min` : `${format.figure(value * 3600, 1)}/h`;
}

/** A quality or another figure of 0..1. */
export function score(value: Maybe): string {
  return isKnown(value) ? value.toFixed(3).replace("-", "−") : format.UNKNOWN;
}

/** Where a mean lies, both ends written by `write`. */
export function between(low: Maybe, high: Maybe, write: (value: Maybe) => string): string {
  return isKnown(low) && isKnown(high) ? `${write(low)} to ${write(high)}` : format.UNKNOWN;
}
