// Text by lines, for showing line numbers and for pointing at one. Pure.

export function linesOf(text: string): string[] {
  const lines = text.split(/\r\n|\r|\n/);
  if (lines[lines.length - 1] === "") lines.pop();
  return lines;
}

/** The part of `text` that is line `number` (from 1), as a selection of a text field; null if there is no such line. */
export function selectionOf(text: string, number: number): [number, number] | null {
  const ends = [...text.matchAll(/\r\n|\r|\n/g)];
  if (number < 1 || number > ends.length + 1) return null;
  const before = ends[number - 2];
  const from = before === undefined ? 0 : before.index + before[0].length;
  return [from, ends[number - 1]?.index ?? text.length];
}
