import type { ComponentChildren } from "preact";
import { useId, useRef } from "preact/hooks";

export interface Tab {
  id: string;
  name: string;
  show: () => ComponentChildren;
}

/** Tabs with the keys of the ARIA pattern: arrows, Home and End move, Tab goes on into the panel. */
export function Tabs(props: { label: string; tabs: Tab[]; chosen: string; choose: (id: string) => void }) {
  const base = useId();
  const bar = useRef<HTMLDivElement>(null);
  const at = Math.max(0, props.tabs.findIndex((tab) => tab.id === props.chosen));
  const go = (place: number) => {
    const next = (place + props.tabs.length) % props.tabs.length;
    props.choose(props.tabs[next]?.id ?? "");
    bar.current?.querySelectorAll("button")[next]?.focus();
  };
  const key = (event: KeyboardEvent) => {
    const place = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: props.tabs.length - 1 }[event.key];
    if (place === undefined) return;
    event.preventDefault();
    go(place);
  };
  return (
    <div>
      <div class="tabs" role="tablist" aria-label={props.label} ref={bar} onKeyDown={key}>
        {props.tabs.map((tab, place) => (
          <button
            key={tab.id}
            type="button"
            role="tab"
            id={`${base}-${tab.id}`}
            aria-selected={place === at}
            aria-controls={`${base}-panel`}
            tabIndex={place === at ? 0 : -1}
            onClick={() => props.choose(tab.id)}
          >
            {tab.name}
          </button>
        ))}
      </div>
      <div role="tabpanel" id={`${base}-panel`} aria-labelledby={`${base}-${props.tabs[at]?.id ?? ""}`}>
        {props.tabs[at]?.show()}
      </div>
    </div>
  );
}
