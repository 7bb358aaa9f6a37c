// The admin key: for as long as this tab is open, and never anywhere else.

const KEY = "llm-optimizer-admin-key";
let kept: string | null = null;

export function adminKey(): string | null {
  try {
    return sessionStorage.getItem(KEY) ?? kept;
  } catch {
    return kept;
  }
}

export function setAdminKey(key: string | null): void {
  kept = key;
  try {
    if (key === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, key);
  } catch {
    // Storage may be forbidden; then a reload asks again.
  }
}
