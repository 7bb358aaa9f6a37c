import { describe, expect, it } from "vitest";

import { COLOURS, faded, look, tag, wantsDarkText, type Theme } from "./palette.ts";

type Triple = [number, number, number];

/** Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB. */
const EYES: Record<string, readonly Triple[]> = {
  normal: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  protan: [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
  deutan: [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
  tritan: [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
};
const BACKGROUND: Record<Theme, string> = { light: "#ffffff", dark: "#162025" };

function linear(colour: string): Triple {
  const part = (from: number): number => {
    const share = parseInt(colour.slice(from, from + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  };
  return [part(1), part(3), part(5)];
}

function seen(colour: string, eye: readonly Triple[]): Triple {
  const rgb = linear(colour);
  const row = (weights: Triple): number =>
    Math.min(1, Math.max(0, weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2]));
  const [r, g, b] = eye.map(row) as Triple;
  const f = (t: number): number => (t > 0.008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116);
  const x = f((0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505);
  const y = f(0.2126 * r + 0.7152 * g + 0.0722 * b);
  const z = f((0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089);
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

function luminance(colour: string): number {
  const [r, g, b] = linear(colour);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

describe.each(["light", "dark"] as const)("colours of the %s theme", (theme) => {
  it.each(Object.keys(EYES))("stay apart for %s eyes", (name) => {
    const seenAll = COLOURS[theme].map((colour) => seen(colour, EYES[name] ?? []));
    for (const [i, one] of seenAll.entries())
      for (const [j, other] of seenAll.slice(0, i).entries()) {
        const distance = Math.hypot(one[0] - other[0], one[1] - other[1], one[2] - other[2]);
        expect(distance, `${COLOURS[theme][i]} and ${COLOURS[theme][j]}`).toBeGreaterThan(16);
      }
  });

  it("are seen against the page", () => {
    const behind = luminance(BACKGROUND[theme]) + 0.05;
    for (const colour of COLOURS[theme]) {
      const own = luminance(colour) + 0.05;
      expect(Math.max(own, behind) / Math.min(own, behind), colour).toBeGreaterThan(3);
    }
  });
});

describe("look", () => {
  it("never gives two of twenty arms the same marks", () => {
    const looks = Array.from({ length: 20 }, (_, place) => look(place, "light"));
    expect(new Set(looks.map((one) => `${one.colour} ${one.dash.join()} ${one.hatch}`)).size).toBe(20);
    expect(new Set(looks.map((one) => one.tag)).size).toBe(20);
  });

  it("names places like columns of a sheet", () => {
    expect([0, 1, 25, 26, 27, 51, 52].map(tag)).toEqual(["A", "B", "Z", "AA", "AB", "AZ", "BA"]);
  });

  it("fades and chooses the text on a colour", () => {
    expect(faded("#0f5199", 0.5)).toBe("rgba(15, 81, 153, 0.5)");
    expect(wantsDarkText("#f6e546")).toBe(true);
    expect(wantsDarkText("#0f5199")).toBe(false);
  });
});
