// Numbers, durations and times as people read them. Pure functions; null and undefined become a dash.

const THIN = "\u202f"; // narrow no-break space, between thousands
const NBSP = "\u00a0"; // between a number and its unit
export const NONE = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** 1234567 → "1 234 567" */
export function integer(value) {
  return known(value) ? String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN) : NONE;
}

/** A rate or a share: one decimal below ten, none above. */
export function decimal(value) {
  if (!known(value)) return NONE;
  return value > 0 && value < 9.95 ? value.toFixed(1) : integer(value);
}

export const perSecond = (value) => (known(value) ? `${decimal(value)}${NBSP}/s` : NONE);

export const percent = (value) => (known(value) ? `${decimal(value)}${NBSP}%` : NONE);

/** Short enough for an axis: 1500 → "1.5 k" */
export function compact(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))}${NBSP}${unit}`;
  }
  return String(Number(value.toPrecision(3)));
}

export function bytes(value) {
  if (!known(value)) return NONE;
  for (const [size, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= size) return `${(value / size).toFixed(value >= 100 * size ? 0 : 1)}${NBSP}${unit}`;
  }
  return `${value}${NBSP}B`;
}

/** The two largest units: "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h" */
export function duration(ms) {
  if (!known(ms)) return NONE;
  const s = Math.max(0, Math.floor(ms / 1000));
  const part = (count, unit) => (count ? ` ${count}${NBSP}${unit}` : "");
  if (s < 60) return `${s}${NBSP}s`;
  if (s < 3600) return `${Math.floor(s / 60)}${NBSP}min${part(s % 60, "s")}`;
  if (s < 86400) return `${Math.floor(s / 3600)}${NBSP}h${part(Math.floor((s % 3600) / 60), "min")}`;
  return `${Math.floor(s / 86400)}${NBSP}d${part(Math.floor((s % 86400) / 3600), "h")}`;
}

const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minuteFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const dayFormat = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

export const clockTime = (ms) => clockFormat.format(ms);
export const minuteTime = (ms) => minuteFormat.format(ms);

/** With the day in front when it is not today's. */
export function eventTime(ms, nowMs) {
  const sameDay = new Date(ms).toDateString() === new Date(nowMs).toDateString();
  return sameDay ? clockTime(ms) : `${dayFormat.format(ms)} ${clockTime(ms)}`;
}

export const utc = (ms) => `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;

/** Keeps numbers and their units on one line. */
export const unbroken = (words) => words.replace(/(\d) (?=(?:ms|s)\b)/g, `$1${NBSP}`);
