// The configuration: what is in effect, the file as it is written, a place to check one, and reading the file again.
import "./config.css";
import { useState } from "preact/hooks";
import { useApp, usePolled } from "../../app/context.ts";
import { go, href } from "../../app/router.ts";
import { Card, format, Shown, Tabs } from "../../parts/index.ts";
import { Code } from "./Code.tsx";
import { Reload } from "./Reload.tsx";
import { Validate } from "./Validate.tsx";

const TABS = ["effective", "file", "validate"];
const INTERVAL_MS = 10_000;

export default function Config() {
  const { place } = useApp();
  const [reloads, setReloads] = useState(0);
  const tab = TABS.includes(place.query["tab"] ?? "") ? place.query["tab"]! : "effective";
  return (
    <>
      <div class="head">
        <div>
          <h1>Configuration</h1>
          <p>Secrets are never shown: where one stands, its place is named instead.</p>
        </div>
      </div>
      <div class="stack">
        <Reload done={() => setReloads((count) => count + 1)} />
        <Tabs
          label="Configuration"
          chosen={tab}
          choose={(id) => go(href(["config"], { tab: id === "effective" ? null : id }), true)}
          tabs={[
            { id: "effective", name: "In effect", show: () => <Text key={`effective ${reloads}`} source="effective" /> },
            { id: "file", name: "File", show: () => <Text key={`file ${reloads}`} source="file" /> },
            { id: "validate", name: "Validate", show: () => <Validate /> },
          ]}
        />
      </div>
    </>
  );
}

function Text(props: { source: "effective" | "file" }) {
  const shown = usePolled((client, signal) => client.configuration(props.source, signal), [props.source], INTERVAL_MS);
  const says = props.source === "effective" ? "The file, its defaults, and what deployed optimizations change." : "As it is written. It loads again.";
  return (
    <Card title={props.source === "effective" ? "In effect" : "File"} aside={shown.at > 0 ? `read ${format.since(shown.at / 1000)}` : undefined} label="Configuration">
      <p class="muted small below">{says}</p>
      <Shown of={shown} what="the configuration">{(text) => <Code text={text} label={`Configuration, ${props.source}`} />}</Shown>
    </Card>
  );
}
