// Requests: `#/requests` shows the newest, `#/requests/ID` why one of them went where it went.
import "./requests.css";
import { useApp } from "../../app/context.ts";
import { Detail } from "./Detail.tsx";
import { List } from "./List.tsx";

export default function Requests() {
  const id = useApp().place.path[1];
  return id === undefined ? <List /> : <Detail key={id} id={id} />;
}
