// A list that grows at its top while somebody reads it: newer rows come first, older pages stay below, none twice. Pure.

export interface Page<Row> {
  rows: Row[];
  /** Where the page after the last row begins; null when there is none. */
  next: string | null;
}

export const MOST_SHOWN = 500;

/** What is shown after the newest page came. Without an overlap the old rows would leave a hole, so they go. */
export function withNewest<Row extends { id: string }>(shown: Page<Row>, page: Page<Row>): Page<Row> {
  const fresh = new Set(page.rows.map((row) => row.id));
  const older = shown.rows.filter((row) => !fresh.has(row.id));
  const overlaps = older.length < shown.rows.length;
  if (!overlaps) return page;
  const rows = [...page.rows, ...older].slice(0, MOST_SHOWN);
  const isCut = page.rows.length + older.length > MOST_SHOWN;
  return { rows, next: isCut ? (rows[rows.length - 1]?.id ?? null) : shown.next };
}

export function withOlder<Row extends { id: string }>(shown: Page<Row>, page: Page<Row>): Page<Row> {
  const known = new Set(shown.rows.map((row) => row.id));
  return { rows: [...shown.rows, ...page.rows.filter((row) => !known.has(row.id))], next: page.next };
}
