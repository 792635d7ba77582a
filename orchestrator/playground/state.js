// What the page is set to, and the same as the fragment of its address.

import { ACCEPT_RULES, OPTIONS, STOP_RULES, made, optionsOf } from "./policies.js";

export const MOST_LANES = 3;

const CHOICES = { mode: ["chat", "text"], order: ["together", "turn"] };

/** Everything is kept as it was typed. */
export const DEFAULTS = Object.freeze({
  mode: "chat",
  prompt: "Explain how rain forms.",
  system: "",
  temperature: "0.5",
  top_p: "",
  max_tokens: "80",
  seed: "7",
  order: "together",
});

export const DEFAULT_POLICIES = [{ off: true }, made("adasd", "coupled"), made("adasd", "adasd")];

/** state: the fields of DEFAULTS and `policies`. */
export function toFragment(state) {
  const fields = new URLSearchParams();
  for (const [name, usual] of Object.entries(DEFAULTS)) if (state[name] !== usual) fields.set(name, state[name]);
  for (const policy of state.policies) fields.append("lane", policyText(policy));
  return fields.toString();
}

/** The state that a fragment holds, and what could not be read of it. */
export function fromFragment(fragment) {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = { ...DEFAULTS, policies: [] };
  const problems = [];
  for (const [name, value] of fields) {
    if (name === "lane") continue;
    if (!Object.hasOwn(DEFAULTS, name)) problems.push(`there is no setting ${JSON.stringify(name)}`);
    else if (CHOICES[name]?.includes(value) === false) problems.push(`${name} is one of ${CHOICES[name].join(", ")}`);
    else state[name] = value;
  }
  const lanes = fields.getAll("lane");
  if (lanes.length > MOST_LANES) problems.push(`there are at most ${MOST_LANES} lanes`);
  for (const text of lanes.slice(0, MOST_LANES)) {
    try {
      state.policies.push(readPolicy(text));
    } catch (error) {
      problems.push(error.message);
    }
  }
  if (!state.policies.length) state.policies = DEFAULT_POLICIES;
  return { state, problems };
}

/** As `off`, or `adasd jsd threshold=0.3`: the stop rule, the accept rule, options. */
function policyText(policy) {
  if (policy.off) return "off";
  const set = optionsOf(policy).filter(({ name }) => policy.options[name]);
  return [policy.stop, policy.accept, ...set.map(({ name }) => `${name}=${policy.options[name]}`)].join(" ");
}

function readPolicy(text) {
  if (text === "off") return { off: true };
  const [stop, accept = "", ...rest] = text.split(" ");
  if (!Object.hasOwn(STOP_RULES, stop)) throw new Error(`there is no stop rule ${JSON.stringify(stop)}`);
  if (!Object.hasOwn(ACCEPT_RULES, accept)) throw new Error(`there is no accept rule ${JSON.stringify(accept)}`);
  const policy = made(stop, accept);
  const known = optionsOf(policy).map(({ name }) => name);
  for (const part of rest) {
    const [name, value] = part.split("=", 2);
    if (!known.includes(name)) throw new Error(`${stop} and ${accept} have no option ${JSON.stringify(name)}`);
    if (value) policy.options[name] = OPTIONS[name].kind === "flag" ? "yes" : value;
  }
  return policy;
}
