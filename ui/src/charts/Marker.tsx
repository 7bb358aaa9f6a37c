/** An arm's mark: its tag on its colour, hatched like its area; and without a tag a short piece of its line. */
import { type Look, wantsDarkText } from "./palette.ts";

export function Marker(props: { look: Look }) {
  const { tag, colour, dash, hatch } = props.look;
  if (tag === "") {
    return (
      <svg class="marker" width="18" height="18" viewBox="0 0 18 18" aria-hidden="true">
        <path d="M1 9H17" stroke={colour} stroke-width="3" stroke-dasharray={dash.join(" ")} />
      </svg>
    );
  }
  const text = wantsDarkText(colour) ? "#000" : "#fff";
  return (
    <svg class="marker" width="18" height="18" viewBox="0 0 18 18" aria-hidden="true">
      <rect width="18" height="18" rx="4" fill={colour} />
      {hatch > 0 && <path d="M2 15.5H16" stroke={text} stroke-width="2" stroke-dasharray={dash.join(" ")} />}
      <text x="9" y={hatch > 0 ? 12 : 13} text-anchor="middle" font-size={tag.length > 1 ? 9 : 11} font-weight="700" fill={text}>{tag}</text>
    </svg>
  );
}
