// The prompt and the settings that all lanes share.

import { tokenize } from "./api.js";
import { count } from "./format.js";
import { forgive, refuse, typedProblem } from "./fields.js";

const TYPED = ["prompt", "system", "temperature", "top_p", "max_tokens", "seed"];
const NUMBERS = { temperature: "number", top_p: "number", max_tokens: "integer" };
const input = Object.fromEntries(TYPED.map((name) => [name, document.getElementById(name)]));
const form = document.getElementById("composer");
const counted = document.getElementById("counted");

/** Fields of the request by the inputs that they come from. */
const PATHS = {
  max_tokens: "max_tokens",
  "sampling.temperature": "temperature",
  "sampling.top_p": "top_p",
  "sampling.seed": "seed",
};

export function fill(state) {
  for (const name of TYPED) input[name].value = state[name];
  form.elements.mode.value = state.mode;
  form.elements.order.value = state.order;
  showMode();
  countTokens();
}

export function read() {
  const typed = Object.fromEntries(TYPED.map((name) => [name, input[name].value.replaceAll("\r\n", "\n")]));
  for (const name of TYPED.slice(2)) typed[name] = typed[name].trim();
  return { ...typed, mode: form.elements.mode.value, order: form.elements.order.value };
}

/** Calls `changed` whenever something was. */
export function watch(changed) {
  form.addEventListener("input", () => {
    showMode();
    countTokens();
    changed();
  });
}

/** Refuses what cannot be put into a request at all; returns the first such input, or null. */
export function check() {
  for (const name of TYPED) forgive(input[name]);
  const typed = read();
  const problems = Object.entries(NUMBERS).map(([name, kind]) => [name, typedProblem(typed[name], kind)]);
  if (typed.seed && !/^\d{1,20}$/.test(typed.seed)) problems.push(["seed", "must be a whole number, 0 or more"]);
  const found = problems.filter(([, problem]) => problem);
  for (const [name, problem] of found) refuse(input[name], problem);
  return found.length ? input[found[0][0]] : null;
}

/** The part of the request that all lanes share. seed: as text; it may be larger than a JavaScript number. */
export function toRequest(state, seed) {
  const request = { ...toPrompt(state), sampling: { seed }, audit: true };
  if (state.temperature) request.sampling.temperature = Number(state.temperature);
  if (state.top_p) request.sampling.top_p = Number(state.top_p);
  if (state.max_tokens) request.max_tokens = Number(state.max_tokens);
  return request;
}

/** The input that the service's path of a field means, or null for one that is not here. */
export function inputOf(path, state) {
  if (PATHS[path]) return input[PATHS[path]];
  if (state.system && state.mode === "chat" && path.startsWith("chat.messages[0]")) return input.system;
  return /^(prompt|text|chat)\b/.test(path) ? input.prompt : null;
}

function toPrompt({ mode, prompt, system }) {
  if (mode === "text") return { text: prompt };
  const messages = [{ role: "user", content: prompt }];
  if (system) messages.unshift({ role: "system", content: system });
  return { chat: { messages } };
}

function showMode() {
  document.getElementById("system-field").hidden = form.elements.mode.value !== "chat";
}

let counting = null;

/** Says how long the prompt is in tokens, once typing pauses. */
function countTokens() {
  counting?.abort();
  counting = new AbortController();
  const { signal } = counting;
  const timer = setTimeout(async () => {
    const state = read();
    counted.textContent = "";
    if (!state.prompt) return;
    try {
      const answer = await tokenize(toPrompt(state), signal);
      const of = answer.context_length ? ` of ${answer.context_length}` : "";
      counted.textContent = `${count(answer.token_ids?.length ?? 0, "token")}${of}`;
    } catch {
      // A courtesy only: what is wrong is said when the prompt is run.
    }
  }, 300);
  signal.addEventListener("abort", () => clearTimeout(timer));
}
