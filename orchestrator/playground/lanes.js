// The lanes of the page: one to three, named A, B and C.

import { Lane } from "./lane.js";
import { made } from "./policies.js";
import { MOST_LANES } from "./state.js";

const NAMES = "ABC";
const tracks = document.getElementById("tracks");
const adder = document.getElementById("add");

export const lanes = [];

let changed = () => {};
let isLocked = false;

/** callback: called whenever a policy or the number of lanes was changed. */
export function watchLanes(callback) {
  changed = callback;
}

export function setPolicies(policies) {
  for (const lane of lanes.splice(0)) lane.element.remove();
  policies.forEach(add);
  show();
}

/** Lanes cannot come and go while they run. */
export function lockLanes(locked) {
  isLocked = locked;
  show();
}

adder.addEventListener("click", () => {
  if (isLocked || lanes.length >= MOST_LANES) return;
  add(made("adasd", "exact"));
  show();
  changed();
  lanes.at(-1).find(".policy select").focus();
});

function add(policy) {
  const lane = new Lane(NAMES[lanes.length], policy, { changed: () => changed(), removed: remove });
  lanes.push(lane);
  tracks.append(lane.element);
}

function remove(lane) {
  if (isLocked || lanes.length < 2) return;
  lanes.splice(lanes.indexOf(lane), 1);
  lane.element.remove();
  lanes.forEach((each, index) => each.rename(NAMES[index]));
  show();
  changed();
  adder.focus();
}

function show() {
  tracks.dataset.count = lanes.length;
  // Not `disabled`: that would take the focus away from who has just pressed it.
  adder.setAttribute("aria-disabled", String(isLocked || lanes.length >= MOST_LANES));
  for (const lane of lanes) {
    lane.find(".remove").hidden = lanes.length < 2;
    lane.find(".remove").setAttribute("aria-disabled", String(isLocked));
  }
}
