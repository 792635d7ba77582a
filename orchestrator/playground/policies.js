// The policies of policy.proto: rules, their options, and how a request names them.
//
// A policy is { off: true } or { stop, accept, options }: names of fields in StopPolicy and AcceptPolicy, and the
// options that are set, as they were typed. Ranges are the service's to check.

/** longest: most candidates of a block where `max_tokens` is unset. */
export const STOP_RULES = {
  adasd: rule("AdaSD", "after a token with more entropy than rejected ones had on average", ["cold_max_tokens"]),
  fixed: rule("Fixed length", "after a fixed number of candidates", [], { longest: 5 }),
  adaedl: rule("AdaEDL", "where an entropy bound on acceptance falls below λ", ["initial_lambda", "gamma"]),
  confidence: rule("Confidence", "after a token less likely than a fitted threshold", ["initial_threshold"]),
  entropy: rule("Entropy ceiling", "after a token with more entropy than a ceiling", ["max_entropy"], { longest: 40 }),
  goodput: rule("Goodput", "where the next candidate is not worth its time", []),
  draft_verify: rule("Draft & Verify", "below a steered probability", ["initial_min_probability"], { longest: 12 }),
  joint_confidence: rule("Joint confidence", "once some token of the block may well fail", ["max_failure"]),
  bandit: rule("Bandit", "by the rule that has yielded most, each tried in turn", []),
  tiers: rule("Tiers", "after 1, 3 or 7, by what was accepted of late", [], { longest: 7 }),
};

/** promise: of the text, at a temperature above 0; see `promise`. */
export const ACCEPT_RULES = {
  exact: rule("Exact", "block verification; a match at temperature 0", [], { promise: "law" }),
  ratio: rule("Ratio", "the ratio test; a match at temperature 0", [], { promise: "law" }),
  block: rule("Block", "block verification; a match at temperature 0", [], { promise: "law" }),
  coupled: rule("Coupled", "equal draws from shared noise; a seed gives one text", [], { promise: "text" }),
  jsd: rule("JS distance", "also what is nearer than a fixed distance", ["threshold", "lossy_budget"]),
  adasd: rule("AdaSD v1", "also what is nearer than an adapted distance", ["strict", "lossy_budget", "min_samples"]),
  adasd_kde: rule("AdaSD v2", "also by two density estimates of distances", ["lossy_budget", "min_samples"]),
  fly: rule("FLy", "also a mismatch that the target goes along with", ["min_entropy", "window", "lossy_budget"]),
  consultant: rule("Consultant", "also what was likely enough of late", ["max_surprisal", "weight", "lossy_budget"]),
  typical: rule("Typical", "also what an uncertain target finds likely enough", ["epsilon", "delta", "lossy_budget"]),
  tolerance: rule("Tolerance", "also what failed by little of chance", ["tolerance", "lossy_budget"]),
};

function rule(label, says, options, { longest = 20, promise = "none" } = {}) {
  return { label, says, options, longest, promise };
}

/** unset: what an empty input stands for. */
export const OPTIONS = {
  max_tokens: { label: "Most candidates", kind: "integer" },
  cold_max_tokens: { label: "Before a rejection", kind: "integer", unset: "5" },
  initial_lambda: { label: "λ at the start", kind: "number", unset: "0.5" },
  gamma: { label: "γ", kind: "number", unset: "0.2" },
  initial_threshold: { label: "Threshold at the start", kind: "number", unset: "0.4" },
  max_entropy: { label: "Ceiling, nats", kind: "number", unset: "0.6" },
  initial_min_probability: { label: "Probability at the start", kind: "number", unset: "0.8" },
  max_failure: { label: "Chance of a failure", kind: "number", unset: "0.3" },
  threshold: { label: "Threshold, 0 to 1", kind: "number", unset: "needed" },
  lossy_budget: { label: "Lossy budget, TV", kind: "number", unset: "no limit" },
  min_samples: { label: "Samples to begin", kind: "integer", unset: "5" },
  min_entropy: { label: "Gate, nats", kind: "number", unset: "0.3" },
  window: { label: "Matches behind it", kind: "integer", unset: "5" },
  max_surprisal: { label: "Surprisal, nats", kind: "number", unset: "2" },
  weight: { label: "Weight of the newest", kind: "number", unset: "0.8" },
  epsilon: { label: "ε", kind: "number", unset: "0.09" },
  delta: { label: "δ", kind: "number", unset: "0.3" },
  tolerance: { label: "Tolerance, 0 to 1", kind: "number", unset: "0.3" },
  strict: { label: "Strict: distance alone", kind: "flag" },
};

export const PRESETS = [
  { name: "Off: target alone", policy: { off: true } },
  { name: "Lossless", policy: made("adasd", "exact") },
  { name: "Coupled", policy: made("adasd", "coupled") },
  { name: "AdaSD v1", policy: made("adasd", "adasd") },
  { name: "AdaSD v2", policy: made("adasd", "adasd_kde") },
  { name: "Goodput", policy: made("goodput", "exact") },
  { name: "Fixed length 5", policy: made("fixed", "exact", { max_tokens: "5" }) },
  { name: "Fixed length 5, coupled", policy: made("fixed", "coupled", { max_tokens: "5" }) },
];

export function made(stop, accept, options = {}) {
  return { stop, accept, options };
}

/** Options of the two rules of a policy, each with the path that the service names it by. */
export function optionsOf(policy) {
  if (policy.off) return [];
  const paths = [{ name: "max_tokens", path: "speculation.stop.max_tokens" }];
  for (const [side, rules] of [["stop", STOP_RULES], ["accept", ACCEPT_RULES]]) {
    const chosen = policy[side];
    paths.push(...rules[chosen].options.map((name) => ({ name, path: `speculation.${side}.${chosen}.${name}` })));
  }
  return paths;
}

/** The SpeculationPolicy as JSON. */
export function toMessage(policy) {
  if (policy.off) return { off: true };
  const message = { stop: { [policy.stop]: {} }, accept: { [policy.accept]: {} } };
  for (const { name, path } of optionsOf(policy)) {
    const value = policy.options[name];
    if (!value) continue;
    const [, side, rule] = path.split(".");
    const holder = name === "max_tokens" ? message.stop : message[side][rule];
    holder[name] = OPTIONS[name].kind === "flag" ? true : Number(value);
  }
  return message;
}

export function same(one, other) {
  return JSON.stringify(toMessage(one)) === JSON.stringify(toMessage(other));
}

export function summary(policy) {
  if (policy.off) return "The target goes on alone";
  const set = optionsOf(policy).filter(({ name }) => policy.options[name]);
  const shown = set.map(({ name }) => (name === "strict" ? "strict" : `${name} ${policy.options[name]}`));
  const rules = `stop ${STOP_RULES[policy.stop].label}, accept ${ACCEPT_RULES[policy.accept].label}`;
  return shown.length ? `${rules}; ${shown.join(", ")}` : rules;
}

/** What a policy promises of the text: `text`, the same for a seed (at temperature 0: at all) as the target alone;
 * `law`, the same distribution; `none`. */
export function promise(policy, temperature) {
  if (policy.off) return "text";
  const rule = ACCEPT_RULES[policy.accept].promise;
  const { threshold, tolerance, lossy_budget: budget } = policy.options;
  const acts = { jsd: !isZero(threshold), tolerance: !isZero(tolerance) && temperature > 0 }[policy.accept] ?? true;
  if (rule === "none" && acts && !isZero(budget)) return "none";
  return rule === "text" || temperature === 0 ? "text" : "law";
}

function isZero(typed) {
  return typed !== undefined && typed !== "" && Number(typed) === 0;
}
