import { percent } from "./format.ts";

/** A bar for 0..100 with its number. Drawn as SVG, because the page allows no inline styles. */
export function Percent(props: { value: number | null; label?: string }) {
  const value = Math.max(0, Math.min(100, props.value ?? 0));
  return (
    <span class="percent">
      <svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
        <rect width={value} height="8" />
      </svg>
      <span class="number">
        {props.label !== undefined && <span class="unseen">{props.label} </span>}
        {percent(props.value)}
      </span>
    </span>
  );
}
