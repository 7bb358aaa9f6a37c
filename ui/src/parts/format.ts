// How figures are written. Null is a dash: what is not known is not shown as 0.

export const UNKNOWN = "–";
type Maybe = number | null | undefined;

const finite = (value: Maybe): value is number => typeof value === "number" && Number.isFinite(value);

/** USD: two digits after the point where that says enough, else three that count. */
export function usd(value: Maybe): string {
  if (!finite(value)) return UNKNOWN;
  const sign = value < 0 ? "−" : "";
  const size = Math.abs(value);
  if (size === 0) return "$0";
  if (size >= 1_000_000) return `${sign}$${trimmed(size / 1_000_000, 2)}M`;
  if (size >= 10_000) return `${sign}$${Math.round(size).toLocaleString("en-US")}`;
  if (size >= 1) return `${sign}$${size.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  if (size < 1e-9) return `${sign}<$0.000000001`;
  return `${sign}$${size.toFixed(Math.min(12, 2 - Math.floor(Math.log10(size))))}`;
}

/** Seconds, written in the unit that fits: 850 µs, 12 ms, 1.35 s, 2 min 5 s, 3 h 20 min, 4 d 2 h. */
export function seconds(value: Maybe): string {
  if (!finite(value)) return UNKNOWN;
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size === 0) return "0 s";
  if (size < 0.001) return `${sign}${Math.round(size * 1e6)} µs`;
  if (size < 0.9995) return `${sign}${trimmed(size * 1000, size < 0.01 ? 1 : 0)} ms`;
  if (size < 10) return `${sign}${trimmed(size, 2)} s`;
  if (size < 59.5) return `${sign}${Math.round(size)} s`;
  const whole = Math.round(size);
  if (whole < 3600) return sign + two(Math.floor(whole / 60), "min", whole % 60, "s");
  if (whole < 86_400) return sign + two(Math.floor(whole / 3600), "h", Math.round((whole % 3600) / 60), "min");
  return sign + two(Math.floor(whole / 86_400), "d", Math.round((whole % 86_400) / 3600), "h");
}

export const milliseconds = (value: Maybe): string => seconds(finite(value) ? value / 1000 : null);

/** A percentage of 0..100. */
export function percent(value: Maybe): string {
  if (!finite(value)) return UNKNOWN;
  const size = Math.abs(value);
  const digits = size === 0 || size >= 10 ? 0 : size >= 0.995 ? 1 : 2;
  const text = trimmed(size, size < 100 && size > 99 ? 1 : digits);
  if (size !== 0 && Number(text) === 0) return "<0.01%";
  return `${value < 0 ? "−" : ""}${text}%`;
}

/** A share of 0..1 as a percentage. */
export const share = (value: Maybe): string => percent(finite(value) ? value * 100 : null);

/** A plain number with at most `digits` after the point; whole numbers with thousands apart. */
export function figure(value: Maybe, digits = 2): string {
  if (!finite(value)) return UNKNOWN;
  return value.toLocaleString("en-US", { maximumFractionDigits: digits }).replace("-", "−");
}

export function count(value: Maybe): string {
  if (!finite(value)) return UNKNOWN;
  if (Math.abs(value) >= 1e9) return `${trimmed(value / 1e9, 2)}B`;
  if (Math.abs(value) >= 1e6) return `${trimmed(value / 1e6, 2)}M`;
  return figure(value, 0);
}

export function bytes(value: Maybe): string {
  if (!finite(value)) return UNKNOWN;
  if (value < 1024) return `${value} B`;
  const power = Math.min(4, Math.floor(Math.log2(value) / 10));
  return `${trimmed(value / 1024 ** power, 1)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** `at` in Unix seconds, or the ISO text of an event, as Unix seconds. */
export function unix(at: number | string | null | undefined): number | null {
  if (typeof at === "string") {
    const ms = Date.parse(at);
    return Number.isNaN(ms) ? null : ms / 1000;
  }
  return finite(at) ? at : null;
}

/** The time of day, with the date when it is not today's. */
export function time(at: number | string | null | undefined, now: number = Date.now()): string {
  const when = unix(at);
  if (when === null) return UNKNOWN;
  const date = new Date(when * 1000);
  const clock = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  return new Date(now).toDateString() === date.toDateString() ? clock : `${day(date)} ${clock}`;
}

/** How far this machine's clock is ahead of the product's in seconds: `told` is what it said, `at` when it came in ms. */
export function skew(told: string | undefined, at: number): number {
  const when = unix(told);
  return when === null || at === 0 ? 0 : at / 1000 - when;
}

/** `3 min ago`, `in 20 s`. */
export function since(at: number | string | null | undefined, now: number = Date.now()): string {
  const when = unix(at);
  if (when === null) return UNKNOWN;
  const distance = now / 1000 - when;
  const size = Math.abs(distance);
  if (size < 2) return "now";
  const text = size < 60 ? `${Math.round(size)} s` : size < 3600 ? `${Math.round(size / 60)} min` : size < 86_400 ? `${Math.round(size / 3600)} h` : `${Math.round(size / 86_400)} d`;
  return distance > 0 ? `${text} ago` : `in ${text}`;
}

/** `first`, `second`, ... words of the product as people write them: `rolled_back` -> `rolled back`. */
export const words = (text: string): string => text.replaceAll("_", " ");

const pad = (value: number): string => String(value).padStart(2, "0");
const day = (date: Date): string => `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
const trimmed = (value: number, digits: number): string => (digits === 0 ? value.toFixed(0) : value.toFixed(digits).replace(/\.?0+$/, ""));
const two = (big: number, unit: string, small: number, part: string): string => (small === 0 ? `${big} ${unit}` : `${big} ${unit} ${small} ${part}`);
