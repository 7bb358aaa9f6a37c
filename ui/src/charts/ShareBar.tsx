/** Shares of a whole as one bar, each part with its tag where it fits, and all of it in words for those who listen. */
import { share } from "../parts/format.ts";
import { type Look, wantsDarkText } from "./palette.ts";

export interface Part {
  readonly name: string;
  readonly look: Look;
  /** 0..1. */
  readonly share: number;
}

const WIDTH = 300;
const HEIGHT = 20;

export function ShareBar(props: { parts: readonly Part[]; label: string }) {
  const shown = props.parts.filter((part) => part.share > 0);
  const said = [...shown].sort((a, b) => b.share - a.share).map((part) => `${part.name} ${share(part.share)}`);
  let from = 0;
  return (
    <svg class="share-bar" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`${props.label}: ${said.join(", ") || "no traffic"}`}>
      <title>{said.slice(0, 8).join("\n")}</title>
      {shown.map((part) => {
        const [x, width] = [from, part.share * WIDTH];
        from += width;
        return <Piece key={part.name} part={part} x={x} width={width} />;
      })}
    </svg>
  );
}

function Piece(props: { part: Part; x: number; width: number }) {
  const { part, x, width } = props;
  const ink = wantsDarkText(part.look.colour) ? "#000" : "#fff";
  return (
    <g>
      <rect x={x} width={Math.max(0.5, width - 1)} height={HEIGHT} fill={part.look.colour} />
      {part.look.hatch > 0 && <path d={`M${x} ${HEIGHT / 2}h${width}`} stroke={ink} stroke-opacity="0.4" stroke-width="3" stroke-dasharray="3 3" />}
      {width > 22 && <text x={x + width / 2} y="14" text-anchor="middle" font-size="11" font-weight="650" fill={ink}>{part.look.tag}</text>}
    </g>
  );
}
