// Over time: what was spent, what the baseline would have cost, and what that saved.
import { useMemo } from "preact/hooks";

import type { History, Saving } from "../../api/types.ts";
import { useApp } from "../../app/context.ts";
import { ChartCard } from "../../charts/ChartCard.tsx";
import { look } from "../../charts/palette.ts";
import { format } from "../../parts/index.ts";
import { marginOf, saved, spend } from "./plots.ts";

export function Money(props: { history: History | null; saving: Saving | null; baseline: string; span: string }) {
  const { history, saving, baseline, span } = props;
  const { theme } = useApp();
  const [blue, orange, green] = useMemo(() => [0, 1, 2].map((place) => ({ ...look(place, theme), tag: "" })), [theme]);
  const spent = useMemo(() => (history && blue && orange ? spend(history, [blue, orange]) : null), [history, blue, orange]);
  const won = useMemo(() => (history && green ? saved(history, saving, green) : null), [history, saving, green]);
  const blind = saving?.unknown ?? 0;
  return (
    <div class="columns even">
      <ChartCard
        title="Spent against the baseline"
        means={`Adding up ${span}; the baseline's line is what ${baseline} costs on average.${blind ? ` ${format.count(blind)} requests that could not be compared are counted as costing the same on both.` : ""}`}
        plot={spent}
        empty="No request came in this time."
      />
      <ChartCard
        title="Saved"
        means={`Adding up ${span}. ${marginOf(saving) === null ? "How sure it is can not be said yet." : "The dotted lines are the 95 % interval of the whole saving, in proportion to what the baseline would have cost."}`}
        plot={won}
        empty="No request in this time could be compared with its baseline."
      />
    </div>
  );
}
