import { expect, test } from "vitest";
import { href, parse } from "./router.ts";

test.each([
  ["", { path: [], query: {} }],
  ["#/", { path: [], query: {} }],
  ["#/routes/a%2Fb?tab=arms", { path: ["routes", "a/b"], query: { tab: "arms" } }],
  ["#/requests?arm=a%3Fb&route=x", { path: ["requests"], query: { arm: "a?b", route: "x" } }],
  ["#/%E0%A4%A", { path: ["%E0%A4%A"], query: {} }],
])("parse %s", (hash, place) => expect(parse(hash)).toEqual(place));

test.each(["plain", "with space", "a/b?c#d", "ü%20", "<b>"])("what is in an address comes out of it: %s", (name) => {
  expect(parse(href(["routes", name], { arm: name, none: null }))).toEqual({ path: ["routes", name], query: { arm: name } });
});
