// The page's state in the fragment of its address, which no browser sends anywhere.

import * as composer from "./composer.js";
import { lanes, setPolicies } from "./lanes.js";
import { fromFragment, toFragment } from "./state.js";

const PAUSE = 150; // milliseconds; browsers limit how often an address may be changed

let written = null;
let timer = 0;

export function writeAddress() {
  clearTimeout(timer);
  written = toFragment({ ...composer.read(), policies: lanes.map(({ policy }) => policy) });
  history.replaceState(null, "", `#${written}`);
}

export function writeAddressSoon() {
  clearTimeout(timer);
  timer = setTimeout(writeAddress, PAUSE);
}

/** Sets the page to what its address says; returns what could not be read. */
export function readAddress() {
  const { state, problems } = fromFragment(location.hash);
  composer.fill(state);
  setPolicies(state.policies);
  return problems;
}

/** Whether somebody else than this page has changed the address. */
export function isForeign() {
  return location.hash.slice(1) !== written;
}
