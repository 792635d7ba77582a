// The line above the lanes: whether their texts are the same.

import { compare } from "./compare.js";
import { lanes } from "./lanes.js";
import { served } from "./served.js";

const line = document.getElementById("verdict");

export function showVerdict({ isRunning }) {
  const begun = lanes.filter(({ record }) => record?.tokens.length);
  const found = compare(begun.map(sequence), { temperature: begun[0]?.temperature, rounds: served.rounds });
  line.hidden = !found;
  for (const lane of lanes) lane.text.markDifference(found?.marks[lane.name] ?? null);
  if (!found) return;
  line.dataset.kind = found.kind;
  set("b", found.sign);
  // While tokens come the whole sentence would change with each of them.
  const soFar = found.kind === "same" ? "identical so far" : "no longer identical";
  set("span", isRunning ? soFar : found.text);
}

function sequence({ name, record, state, promised }) {
  return { name, ids: record.tokens.map(({ id }) => id), ended: state === "done", promise: promised };
}

function set(selector, text) {
  const element = line.querySelector(selector);
  if (element.textContent !== text) element.textContent = text; // a live region speaks at every change
}
