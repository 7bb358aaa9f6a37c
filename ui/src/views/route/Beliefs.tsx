// What is believed of the arms: a curve per arm and signal, and the same in numbers.
import { useMemo } from "preact/hooks";

import type { Densities, Density, Signal } from "../../api/types.ts";
import { ChartCard } from "../../charts/ChartCard.tsx";
import { Marker } from "../../charts/Marker.tsx";
import { between } from "../../charts/numbers.ts";
import { format } from "../../parts/index.ts";
import { belief, known, type Looks, SIGNALS } from "./plots.ts";

const ORDER: readonly Signal[] = ["quality", "cost_usd", "latency_s", "success"];

export function Beliefs(props: { densities: Densities | null; looks: Looks; drawn: ReadonlySet<string> }) {
  return (
    <div class="columns even">
      {ORDER.map((signal) => <Belief key={signal} signal={signal} {...props} />)}
    </div>
  );
}

function Belief(props: { signal: Signal; densities: Densities | null; looks: Looks; drawn: ReadonlySet<string> }) {
  const { signal, densities, looks, drawn } = props;
  const { name, means, write } = SIGNALS[signal];
  const plot = useMemo(() => belief(densities, signal, looks, drawn), [densities, signal, looks, drawn]);
  const arms = known(densities, signal);
  return (
    <ChartCard
      title={`${name}: what is believed`}
      means={`${means} Narrow curves are sure; the shade is where the mean lies with 95 %. Each curve is as high as its own peak.`}
      plot={plot}
      empty={arms.length === 0 ? `Nobody has observed the ${name.toLowerCase()} of these arms yet.` : "Of the arms that are drawn only the prior speaks."}
      height={170}
      keyless
    >
      {arms.length > 0 && (
        <div class="beliefs" tabIndex={0} role="region" aria-label={`${name} of each arm`}>
          <table class="table">
            <thead>
              <tr>
                <th scope="col">Arm</th>
                <th scope="col" class="number">Mean</th>
                <th scope="col" class="number">95 % interval</th>
                <th scope="col" class="number seen">Seen</th>
              </tr>
            </thead>
            <tbody>{arms.map((arm) => <Row key={arm.arm} of={arm} looks={looks} write={write} />)}</tbody>
          </table>
        </div>
      )}
    </ChartCard>
  );
}

function Row(props: { of: Density; looks: Looks; write: (value: number | null | undefined) => string }) {
  const { of, looks, write } = props;
  const isKnown = of.weight > 0;
  return (
    <tr>
      <th scope="row"><span class="arm"><Marker look={looks(of.arm)} />{of.arm}</span></th>
      <td class="number">{isKnown ? write(of.mean) : format.UNKNOWN}</td>
      <td class="number range">{isKnown ? between(of.low, of.high, write) : "only the prior"}</td>
      <td class="number seen">{format.figure(of.weight, of.weight < 100 ? 1 : 0)}</td>
    </tr>
  );
}
