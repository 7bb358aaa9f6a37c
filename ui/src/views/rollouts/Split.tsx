/** How traffic is divided, as one bar. Drawn as SVG, because the page allows no inline styles. */
export function Split(props: { percentage: number; tone: "plain" | "bad" }) {
  const share = Math.max(0, Math.min(100, props.percentage));
  // A share that is not nothing must not look like nothing.
  const drawn = share > 0 ? Math.max(share, 0.8) : 0;
  return (
    <svg class={`split ${props.tone}`} viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label={`The candidate has ${share} percent of the traffic`}>
      <rect class="control" width="100" height="10" />
      <rect class="candidate" width={drawn} height="10" />
    </svg>
  );
}

/** How much of something is there, 0..1. */
export function Meter(props: { share: number; tone?: "good" | "warn" | "bad" | "calm" | undefined; label: string }) {
  const width = 100 * Math.max(0, Math.min(1, props.share));
  return (
    <svg class={`meter ${props.tone ?? ""}`} viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label={props.label}>
      <rect class="whole" width="100" height="8" />
      <rect class="part" width={width} height="8" />
    </svg>
  );
}
