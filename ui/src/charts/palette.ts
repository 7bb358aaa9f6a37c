/**
 * The look of arms: one colour each, and never the colour alone.
 *
 * An arm keeps its place in the route, and with it its colour, its tag (A, B, ... as columns of a sheet are named) and,
 * from the ninth on, a second marking: a dashed line, a hatched area. The colours of a theme stay apart for people
 * without red, green or blue cones; palette.test.ts measures it.
 */

export type Theme = "light" | "dark";

export interface Look {
  readonly tag: string;
  readonly colour: string;
  /** Lengths of stroke and gap of the arm's line in CSS pixels; empty is a solid line. */
  readonly dash: readonly number[];
  /** 0 is a plain area; 1, 2, ... are hatched ever more densely. */
  readonly hatch: number;
}

export const COLOURS: Readonly<Record<Theme, readonly string[]>> = {
  light: ["#0f5199", "#d36a19", "#01864c", "#ba6d9c", "#774d02", "#6718c3", "#3092f0", "#5b4e5b"],
  dark: ["#6190d9", "#ea8225", "#0dcf70", "#eeacb6", "#f6e546", "#8d73ff", "#aef5fa", "#a685a9"],
};

const DASHES: readonly (readonly number[])[] = [[], [7, 4], [2, 3], [10, 3, 2, 3]];
const LETTERS = 26;

/** The look of the arm at `place` (from 0) of its route. */
export function look(place: number, theme: Theme): Look {
  const colours = COLOURS[theme];
  const round = Math.floor(place / colours.length);
  return {
    tag: tag(place),
    colour: colours[place % colours.length] ?? "#808080",
    dash: DASHES[round % DASHES.length] ?? [],
    hatch: round,
  };
}

/** A, B, ... Z, AA, AB, ... for 0, 1, ... */
export function tag(place: number): string {
  const last = String.fromCharCode(65 + (place % LETTERS));
  return place < LETTERS ? last : tag(Math.floor(place / LETTERS) - 1) + last;
}

/** `colour` (#rrggbb) with an opacity of 0..1. */
export function faded(colour: string, opacity: number): string {
  const part = (from: number): number => parseInt(colour.slice(from, from + 2), 16);
  return `rgba(${part(1)}, ${part(3)}, ${part(5)}, ${opacity})`;
}

/** Whether text on `colour` is better black than white. */
export function wantsDarkText(colour: string): boolean {
  const light = (from: number): number => {
    const share = parseInt(colour.slice(from, from + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  };
  const luminance = 0.2126 * light(1) + 0.7152 * light(3) + 0.0722 * light(5);
  // Where black and white have the same contrast: (l + 0.05)^2 = 1.05 * 0.05.
  return luminance > Math.sqrt(1.05 * 0.05) - 0.05;
}
