// Light or dark: what the system says, unless somebody chose here.

export type Theme = "light" | "dark";
const KEY = "llm-optimizer-theme";
const wishes = () => window.matchMedia("(prefers-color-scheme: dark)");

export function chosen(): Theme | null {
  const kept = kept_();
  return kept === "light" || kept === "dark" ? kept : null;
}

export const current = (): Theme => chosen() ?? (wishes().matches ? "dark" : "light");

export function apply(): Theme {
  const theme = current();
  document.documentElement.dataset["theme"] = theme;
  return theme;
}

/** The other theme; a choice that is what the system says anyway is not kept. */
export function toggle(): Theme {
  const next: Theme = current() === "dark" ? "light" : "dark";
  try {
    if ((next === "dark") === wishes().matches) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
  } catch {
    // Storage may be forbidden; then the choice lasts as long as the page.
    document.documentElement.dataset["theme"] = next;
    return next;
  }
  return apply();
}

export function follow(changed: (theme: Theme) => void): () => void {
  const media = wishes();
  const run = () => changed(apply());
  media.addEventListener("change", run);
  return () => media.removeEventListener("change", run);
}

function kept_(): string | null {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}
