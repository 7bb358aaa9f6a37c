// What is typed into the form of an optimization, as the values that a strategy takes. Pure.
import type { Parameter, Strategy } from "./model.ts";

export interface Reading {
  parameters: Record<string, unknown>;
  /** By the name of the parameter. */
  problems: Record<string, string>;
}

/** Empty fields are left out, so that the strategy's own defaults hold. */
export function readParameters(strategy: Strategy, typed: Readonly<Record<string, string>>): Reading {
  const reading: Reading = { parameters: {}, problems: {} };
  for (const parameter of strategy.parameters) {
    const text = (typed[parameter.name] ?? "").trim();
    if (text === "") {
      if (parameter.required) reading.problems[parameter.name] = "is required";
      continue;
    }
    const found = read(parameter, text);
    if ("problem" in found) reading.problems[parameter.name] = found.problem;
    else reading.parameters[parameter.name] = found.value;
  }
  return reading;
}

function read(parameter: Parameter, text: string): { value: unknown } | { problem: string } {
  switch (parameter.type) {
    case "number":
      return number(parameter, text);
    case "texts":
      return text.startsWith("[")
        ? json(text)
        : { value: text.split(",").map((word) => word.trim()).filter((word) => word !== "") };
    case "list":
      return text.startsWith("[") || text.startsWith("{")
        ? json(text)
        : { value: text.split(",").map((word) => word.trim()).filter((word) => word !== "") };
    case "table":
      return json(text);
    default:
      return { value: text };
  }
}

function number(parameter: Parameter, text: string): { value: unknown } | { problem: string } {
  // The server reads "40%" as 0.4; only what it can not read at all is told here.
  const plain = text.endsWith("%") ? Number(text.slice(0, -1)) / 100 : Number(text);
  if (!Number.isFinite(plain)) return { problem: "must be a number" };
  if (parameter.minimum !== null && plain < parameter.minimum) return { problem: `must be at least ${parameter.minimum}` };
  if (parameter.maximum !== null && plain > parameter.maximum) return { problem: `must be at most ${parameter.maximum}` };
  return { value: plain };
}

function json(text: string): { value: unknown } | { problem: string } {
  try {
    return { value: JSON.parse(text) as unknown };
  } catch {
    return { problem: "must be JSON" };
  }
}

/** What stands in an empty field. */
export function placeholder(parameter: Parameter): string {
  if (parameter.default !== null && parameter.default !== undefined) return String(parameter.default);
  switch (parameter.type) {
    case "texts":
      return "one, two";
    case "list":
      return '["one", {"name": "two"}]';
    case "table":
      return '{"key": "value"}';
    default:
      return "";
  }
}
