// The probabilities of all arms as bars, and where the draw fell.
import type { Decision } from "../../api/types.ts";
import { Badge, Card, Empty, format } from "../../parts/index.ts";
import { type Bar, barsOf, drawOf, lacksVector, text } from "./decision.ts";

export function Chances(props: { decision: Decision }) {
  const { decision } = props;
  const bars = barsOf(decision);
  const draw = drawOf(decision);
  return (
    <Card title="Probabilities" aside={text(decision.data["policy"])}>
      {bars.length === 0 && <Empty title="Nothing was chosen">Without a decision no arm had a probability.</Empty>}
      {lacksVector(decision) && (
        <p class="muted small">The route has more than 32 arms; the event keeps the probability of the chosen one and names the others' list.</p>
      )}
      <ul class="chances" data-testid="chances">
        {bars.map((bar) => <Chance key={bar.arm} bar={bar} />)}
      </ul>
      {draw !== null && bars.some((bar) => bar.stretch !== null) && <Draw draw={draw} bars={bars} />}
    </Card>
  );
}

function Chance(props: { bar: Bar }) {
  const { bar } = props;
  const width = 100 * Math.max(0, Math.min(1, bar.probability ?? 0));
  return (
    <li class={bar.isChosen ? "chosen" : bar.filtered !== "" ? "out" : ""}>
      <span class="who">
        <span class="arm">{bar.arm}</span>
        {bar.isChosen && <Badge tone="accent">chosen</Badge>}
        {bar.isServer && <Badge tone="warn">answered</Badge>}
        {bar.isBaseline && <Badge>baseline</Badge>}
      </span>
      <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
        <rect class="whole" width="100" height="10" />
        <rect class="part" width={width} height="10" />
      </svg>
      <span class="number">{bar.filtered !== "" ? "no choice" : format.share(bar.probability)}</span>
      {bar.filtered !== "" && <span class="small muted why">It could not serve this: {format.words(bar.filtered)}.</span>}
    </li>
  );
}

/** [0, 1) with the stretch of every arm and a mark at the draw. */
function Draw(props: { draw: number; bars: Bar[] }) {
  const laid = props.bars.filter((bar) => bar.stretch !== null);
  const chosen = laid.find((bar) => bar.isChosen)?.stretch;
  const where = chosen ? `, in the stretch of the chosen arm from ${chosen[0].toFixed(4)} to ${chosen[1].toFixed(4)}` : "";
  const words = `The draw was ${props.draw.toFixed(4)}${where}.`;
  return (
    <div class="draw">
      <svg viewBox="0 0 1000 26" preserveAspectRatio="none" role="img" aria-label={words}>
        {laid.map((bar) => {
          const [from, to] = bar.stretch ?? [0, 0];
          return <rect key={bar.arm} class={bar.isChosen ? "chosen" : "other"} x={1000 * from + 1} y="6" width={Math.max(0, 1000 * (to - from) - 2)} height="14" />;
        })}
        <rect class="mark" x={Math.min(996, 1000 * props.draw - 2)} width="4" height="26" />
      </svg>
      <p class="small muted">{words}</p>
    </div>
  );
}
