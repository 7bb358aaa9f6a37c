import { describe, expect, it } from "vitest";
import { linesOf, selectionOf } from "./lines.ts";

describe("lines", () => {
  it("end as the text ends them, and the last break begins none", () => {
    expect(linesOf("a\r\nb\n\nc\n")).toEqual(["a", "b", "", "c"]);
  });

  it("can be selected by number", () => {
    const text = "ab\r\nc\n";
    expect([1, 2, 3].map((number) => selectionOf(text, number))).toEqual([[0, 2], [4, 5], [6, 6]]);
    expect(selectionOf(text, 4)).toBeNull();
    expect(selectionOf(text, 0)).toBeNull();
  });
});
