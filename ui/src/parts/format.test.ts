import { expect, test } from "vitest";
import { bytes, count, milliseconds, percent, seconds, share, since, skew, time, unix, UNKNOWN, usd, words } from "./format.ts";

test.each([
  [null, UNKNOWN],
  [undefined, UNKNOWN],
  [Number.NaN, UNKNOWN],
  [0, "$0"],
  [0.000001234, "$0.00000123"],
  [0.0123, "$0.0123"],
  [0.999, "$0.999"],
  [1.5, "$1.50"],
  [1234.5, "$1,234.50"],
  [45_678.9, "$45,679"],
  [2_500_000, "$2.5M"],
  [-0.5, "−$0.500"],
])("usd %s", (value, text) => expect(usd(value)).toBe(text));

test.each([
  [0, "0 s"],
  [0.0004, "400 µs"],
  [0.0012, "1.2 ms"],
  [0.85, "850 ms"],
  [0.9999, "1 s"],
  [1.354, "1.35 s"],
  [12.4, "12 s"],
  [59.7, "1 min"],
  [125, "2 min 5 s"],
  [3600, "1 h"],
  [100_000, "1 d 4 h"],
])("seconds %s", (value, text) => expect(seconds(value)).toBe(text));

test("milliseconds are seconds", () => expect(milliseconds(1354)).toBe("1.35 s"));

test.each([
  [0, "0%"],
  [0.001, "<0.01%"],
  [0.25, "0.25%"],
  [1, "1%"],
  [5.25, "5.3%"],
  [33.3333, "33%"],
  [99.95, "100%"],
  [99.5, "99.5%"],
  [100, "100%"],
  [-12, "−12%"],
])("percent %s", (value, text) => expect(percent(value)).toBe(text));

test("a share is a percentage of one", () => expect(share(0.125)).toBe("13%"));
test("large counts are short", () => expect([count(12_345), count(1_234_567), count(null)]).toEqual(["12,345", "1.23M", UNKNOWN]));
test("bytes", () => expect([bytes(12), bytes(2048), bytes(5 * 2 ** 20)]).toEqual(["12 B", "2 KiB", "5 MiB"]));
test("words", () => expect(words("rolled_back")).toBe("rolled back"));

test("a clock that is off is known by how much", () => {
  expect(skew("2026-01-01T00:00:00.000Z", 1_767_225_780_000)).toBe(180);
  expect([skew("2026-01-01T00:00:00Z", 0), skew("nonsense", 1e12), skew(undefined, 1e12)]).toEqual([0, 0, 0]);
});

test("times", () => {
  const now = new Date(2026, 3, 5, 12, 0, 0).getTime();
  expect(time(now / 1000 - 60, now)).toBe("11:59:00");
  expect(time(now / 1000 - 86_400, now)).toBe("2026-04-04 12:00:00");
  expect(since(now / 1000 - 200, now)).toBe("3 min ago");
  expect(since(now / 1000 + 20, now)).toBe("in 20 s");
  expect(since(null, now)).toBe(UNKNOWN);
  expect(unix("2026-01-01T00:00:00Z")).toBe(1_767_225_600);
  expect(unix("nonsense")).toBeNull();
});
