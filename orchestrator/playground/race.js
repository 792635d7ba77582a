// One run: every lane gets the same request, but for its policy.

import * as composer from "./composer.js";
import { lanes, lockLanes } from "./lanes.js";
import { say } from "./speech.js";
import { showVerdict } from "./verdict.js";

// Milliseconds between two looks at figures and charts: the page may share its processor with the models.
const PAUSE = 80;

let running = null; // the AbortController of the run under way

export function isRunning() {
  return running !== null;
}

export function cancel() {
  running?.abort();
}

/** Runs all lanes to their ends. Returns false where something typed cannot be sent; it has the focus then. */
export async function race() {
  const state = composer.read();
  const wrong = [composer.check(), ...lanes.map((lane) => lane.editor.check())].find(Boolean);
  if (wrong) {
    wrong.focus();
    return false;
  }
  const abort = new AbortController();
  const { signal } = abort;
  setRunning(abort);
  say("Running.");
  const inTurn = state.order === "turn";
  const request = composer.toRequest(state, state.seed || drawSeed());
  lanes.forEach((lane, index) => {
    const waits = inTurn && index > 0;
    lane.prepare(waits ? "Waits for its turn." : "", Number(state.temperature));
  });
  requestAnimationFrame(tick);
  if (inTurn) {
    for (const lane of lanes) await (signal.aborted ? lane.skip() : lane.run(request, signal));
  } else {
    await Promise.all(lanes.map((lane) => lane.run(request, signal)));
  }
  setRunning(null);
  update();
  const ends = lanes.map((lane) => `Lane ${lane.name} ${lane.state}, ${lane.record?.tokens.length ?? 0} tokens.`);
  say(ends.join(" "));
  return true;
}

export function setRunning(abort) {
  running = abort;
  document.getElementById("run").setAttribute("aria-disabled", String(isRunning()));
  document.getElementById("cancel").setAttribute("aria-disabled", String(!isRunning()));
  lockLanes(isRunning());
}

/** One seed for all lanes, so that they can be compared. */
function drawSeed() {
  return (crypto.getRandomValues(new BigUint64Array(1))[0] >> 1n).toString();
}

function tick() {
  if (!running) return;
  update();
  setTimeout(() => requestAnimationFrame(tick), PAUSE);
}

function update() {
  const now = performance.now();
  const reach = Math.max(...lanes.map((lane) => lane.reach(now)));
  const most = running ? roomFor(reach) : Math.max(reach, 100);
  for (const lane of lanes) {
    if (lane.isUnderWay) lane.update(now);
    lane.timeline.show({ most });
  }
  showVerdict({ isRunning: isRunning() });
}

/** While it grows, the axis changes rarely, in steps. Milliseconds. */
function roomFor(reach) {
  let room = 1000;
  while (room < reach) room *= 1.5;
  return room;
}
