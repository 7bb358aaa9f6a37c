// What a row of the audit says in one line. Pure.
import { reasonWords } from "../rollouts/history.ts";

/** The sentence that was written down, or else what the facts say. */
export function detailWords(detail: Readonly<Record<string, unknown>>): string {
  const explanation = text(detail["explanation"]);
  if (explanation !== "") return explanation;
  const moved = [change(detail), share(detail), reason(detail)].filter((one) => one !== "");
  if (moved.length > 0) return moved.join(", ");
  return text(detail["result"]) || text(detail["name"]) || "show";
}

function change(detail: Readonly<Record<string, unknown>>): string {
  const [from, to] = [text(detail["from"]), text(detail["to"])].map((status) => status.replaceAll("_", " "));
  if (to === "" || to === undefined) return "";
  return from === "" || from === to ? to : `${from} → ${to}`;
}

function share(detail: Readonly<Record<string, unknown>>): string {
  const percentage = detail["percentage"];
  return typeof percentage === "number" && percentage > 0 ? `${Number(percentage.toPrecision(4))}% of the traffic` : "";
}

function reason(detail: Readonly<Record<string, unknown>>): string {
  const word = text(detail["reason"]);
  return word === "" ? "" : reasonWords(word);
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}
