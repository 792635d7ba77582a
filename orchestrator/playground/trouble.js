// What went wrong, said where it belongs: beside a field, in its lane, or above all where the service is not there.

import { askForKey } from "./access.js";
import { load, models } from "./api.js";
import * as composer from "./composer.js";
import { refuse, withoutPath } from "./fields.js";
import { sentence } from "./format.js";
import { lanes } from "./lanes.js";
import { served } from "./served.js";

const place = document.getElementById("banner");

export function banner(text) {
  place.querySelector("p").textContent = text;
  place.hidden = !text;
}

/** Asks what is served; says what to do where nobody answers. */
export async function lookUp() {
  try {
    served.show(await models(), await load());
    banner("");
  } catch (error) {
    if (error.code === "invalid_api_key") askForKey(sentence(error.message));
    else banner(whatToDo(error));
  }
}

/** Shows the errors of all lanes after a run. state: what was asked for. */
export function showErrors(state) {
  let first = null;
  for (const lane of lanes.filter(({ error }) => error)) {
    const { code, param, message } = lane.error;
    if (code === "unreachable" || code === "target_unavailable") banner(whatToDo(lane.error));
    if (code === "invalid_api_key") askForKey(sentence(message));
    if (!param) continue;
    const shared = composer.inputOf(param, state);
    const text = withoutPath(message, param);
    if (shared) refuse(shared, text);
    const input = shared ?? lane.editor.refuse(param, text);
    if (input) lane.pointAt(input);
    first ??= input;
  }
  first?.focus();
}

function whatToDo(error) {
  const { code } = error;
  const message = sentence(error.message);
  if (code === "unreachable") {
    return `${message} Start the services (“tandem up”) or see whether the orchestrator still runs, then try again.`;
  }
  if (code === "target_unavailable") {
    return `${message} See whether the target runs where the orchestrator looks for it (--target), then try again.`;
  }
  return message;
}
