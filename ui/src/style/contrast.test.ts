import { expect, test } from "vitest";
import tokens from "./tokens.css?raw";

const THEMES = [":root {", ':root[data-theme="dark"] {'].map((head) => {
  const block = tokens.slice(tokens.indexOf(head) + head.length).split("}")[0] ?? "";
  return Object.fromEntries([...block.matchAll(/--([\w-]+): (#[0-9a-f]{6});/g)].map((found) => [found[1] ?? "", found[2] ?? ""]));
});

function luminance(colour: string): number {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(one: string, other: string): number {
  const [low = 0, high = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const TEXTS: [string, string[]][] = [
  ["text", ["ground", "card", "raised"]],
  ["muted", ["ground", "card", "raised"]],
  ["accent", ["ground", "card", "accent-soft"]],
  ["on-accent", ["accent"]],
  ["on-bad", ["bad"]],
  ["good", ["card", "good-soft"]],
  ["warn", ["card", "warn-soft"]],
  ["bad", ["card", "bad-soft", "ground"]],
  ["calm", ["card", "calm-soft"]],
];

test.each(THEMES.map((theme, at) => [at === 0 ? "light" : "dark", theme] as const))("text can be read: %s", (_name, theme) => {
  for (const [text, grounds] of TEXTS) {
    for (const ground of grounds) expect(contrast(theme[text] ?? "", theme[ground] ?? ""), `${text} on ${ground}`).toBeGreaterThanOrEqual(4.5);
  }
});

test.each(THEMES.map((theme, at) => [at === 0 ? "light" : "dark", theme] as const))("lines and edges of controls are seen: %s", (_name, theme) => {
  const lines = ["line-strong", ...Array.from({ length: 8 }, (_, at) => `series-${at}`)];
  for (const line of lines) expect(contrast(theme[line] ?? "", theme["card"] ?? ""), line).toBeGreaterThanOrEqual(3);
});
