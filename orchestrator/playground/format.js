// Numbers as text. Units stand beside every number that has one.

export const NONE = "–";

/** A JSON number of protobuf: 64-bit integers and infinities come as strings, zeros may be left out. */
export function number(value) {
  return value === undefined || value === null ? 0 : Number(value);
}

export function fixed(value, digits) {
  return Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : NONE;
}

export function percent(share) {
  return Number.isFinite(share) ? `${Math.round(share * 100)} %` : NONE;
}

/** A duration in milliseconds. */
export function duration(milliseconds) {
  if (!Number.isFinite(milliseconds)) return NONE;
  if (milliseconds < 10) return `${milliseconds.toFixed(2)} ms`;
  if (milliseconds < 100) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(2)} s`;
}

/** A logarithm of a probability, in nats, with the probability. */
export function logarithm(value) {
  const share = Math.exp(value) * 100;
  const shown = share >= 99.95 || share === 0 ? share.toFixed(0) : share.toPrecision(share < 1 ? 1 : 2);
  return `${fixed(value, 2)} nats (${Number(shown)} %)`;
}

export function count(value, one, many = `${one}s`) {
  return `${value} ${value === 1 ? one : many}`;
}

/** A message as a sentence: with a mark at its end. */
export function sentence(text) {
  return /[.?!…]$/.test(text) ? text : `${text}.`;
}

/** Text in quotes, with what cannot be seen written out. */
export function quoted(text) {
  return JSON.stringify(text);
}
