// Records whose names come from outside: a route may be called `constructor`, which every object seems to have.

/** What `record` itself has under `name`; null where it has nothing. */
export function own<T>(record: Readonly<Record<string, T>> | null | undefined, name: string): T | null {
  return record && Object.hasOwn(record, name) ? (record[name] ?? null) : null;
}
