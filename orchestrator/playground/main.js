// Puts the page together. `race.js` is one run, `lane.js` one lane of it, `record.js` what a lane has received;
// `timeline.js`, `candidates.js` and `tokens.js` show that. `api.js` is all that speaks to the service.

import { watchKey } from "./access.js";
import { isForeign, readAddress, writeAddress, writeAddressSoon } from "./address.js";
import * as composer from "./composer.js";
import { detailsShown, hideDetails } from "./details.js";
import { lanes, watchLanes } from "./lanes.js";
import { cancel, isRunning, race, setRunning } from "./race.js";
import { served } from "./served.js";
import { say } from "./speech.js";
import { banner, lookUp, showErrors } from "./trouble.js";
import { showVerdict } from "./verdict.js";

const $ = (id) => document.getElementById(id);

async function run() {
  if (isRunning()) return;
  writeAddress();
  banner("");
  const state = composer.read();
  const ended = race();
  served.watch();
  if (await ended) showErrors(state);
}

function showPolicies() {
  const temperature = Number(composer.read().temperature);
  for (const lane of lanes) lane.showPolicy(temperature);
}

function changed() {
  showPolicies();
  showVerdict({ isRunning: isRunning() }); // a lane may have gone
  writeAddressSoon();
}

async function start() {
  const problems = readAddress();
  showPolicies();
  if (!served.isKnown) await lookUp();
  if (problems.length) banner(`The link could not be read in full: ${problems.join("; ")}.`);
}

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
for (const keys of document.querySelectorAll("[data-run-keys]")) keys.textContent = isMac ? "⌘ Enter" : "Ctrl Enter";

composer.watch(changed);
watchLanes(changed);
watchKey(lookUp);
setRunning(null);
start();

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("cancel").addEventListener("click", cancel);
$("retry").addEventListener("click", lookUp);
$("link").hidden = !navigator.clipboard; // there is none where the page did not come over a safe connection
$("link").addEventListener("click", async () => {
  writeAddress();
  await navigator.clipboard.writeText(location.href);
  say("The link is copied.");
  $("link").textContent = "Copied";
  setTimeout(() => ($("link").textContent = "Copy link"), 1500);
});
addEventListener("hashchange", () => isForeign() && !isRunning() && start());
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape") {
    if (detailsShown()) hideDetails();
    else cancel();
  }
});
