// Optimizations: `#/rollouts` lists them, `#/rollouts/new` asks for one, `#/rollouts/ID` shows one.
import "./rollouts.css";
import { useApp } from "../../app/context.ts";
import { Create } from "./Create.tsx";
import { Detail } from "./Detail.tsx";
import { List } from "./List.tsx";

export const NEW = "new";

export default function Rollouts() {
  const item = useApp().place.path[1];
  if (item === undefined) return <List />;
  return item === NEW ? <Create /> : <Detail key={item} id={item} />;
}
