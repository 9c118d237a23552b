// Decimals and times as people read them. Prices and quantities come as decimal strings; they are shown as such, and turned
// into numbers only for drawing.

/** How many decimals a step such as "0.25" has. */
export function decimalsOf(step) {
  const point = step ? step.indexOf(".") : -1;
  return point < 0 ? 0 : step.length - point - 1;
}

/** A decimal string with a fixed number of decimals (never fewer than it has) and grouped thousands. */
export function decimal(text, decimals = 0) {
  if (text === undefined || text === null || text === "") return "–";
  const negative = text.startsWith("-");
  const [whole, fraction = ""] = (negative ? text.slice(1) : text).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, "\u2009");
  const padded = fraction.padEnd(decimals, "0");
  return (negative ? "−" : "") + grouped + (padded ? "." + padded : "");
}

/** A number with grouped thousands. */
export function count(value) {
  return decimal(String(Math.round(value)));
}

/** A large number in few characters. */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return (value / 1e9).toFixed(size >= 1e10 ? 1 : 2) + " B";
  if (size >= 1e6) return (value / 1e6).toFixed(size >= 1e7 ? 1 : 2) + " M";
  if (size >= 1e5) return (value / 1e3).toFixed(0) + " k";
  return count(value);
}

const NS_PER_MS = 1_000_000n;

/** Nanoseconds (string or BigInt) as milliseconds since 1970. */
export function toMs(ns) {
  return Number(BigInt(ns) / NS_PER_MS);
}

/** Milliseconds since 1970 as nanoseconds, at the end of that millisecond. */
export function endOfMs(ms) {
  return (BigInt(Math.round(ms)) * NS_PER_MS + 999_999n).toString();
}

const two = (value) => String(value).padStart(2, "0");

/** "14:03:07.250", UTC like everything on the tape. */
export function clock(ms, fraction = true) {
  const date = new Date(ms);
  const text = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}:${two(date.getUTCSeconds())}`;
  return fraction ? `${text}.${String(date.getUTCMilliseconds()).padStart(3, "0")}` : text;
}

/** "2023-12-25". */
export function day(ms) {
  return new Date(ms).toISOString().slice(0, 10);
}

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** Sets an element's text, touching the document only when it differs. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
