// The policy of one lane: a preset, or rules and options of its own.

import { forgive, makeField, refuse, typedProblem } from "./fields.js";
import { ACCEPT_RULES, OPTIONS, PRESETS, STOP_RULES, made, optionsOf, same, summary } from "./policies.js";

const OWN = "own";

export class PolicyEditor {
  #inputs = new Map(); // by the service's path

  /** lane: the element of the lane. changed: called after each change. */
  constructor(lane, policy, changed) {
    this.policy = copy(policy);
    this.changed = changed;
    this.preset = lane.querySelector(".policy select");
    this.rules = lane.querySelector(".rules");
    this.summary = this.rules.querySelector("summary");
    this.options = this.rules.querySelector(".options");
    PRESETS.forEach(({ name }, index) => this.preset.append(new Option(name, index)));
    this.preset.append(new Option("Own rules", OWN));
    this.preset.addEventListener("change", () => this.#choose());
    this.#build();
  }

  /** Refuses what cannot be put into a request; returns the first such input, or null. */
  check() {
    let first = null;
    for (const input of this.#inputs.values()) forgive(input);
    for (const { name, path } of optionsOf(this.policy)) {
      const problem = typedProblem(this.policy.options[name], OPTIONS[name].kind);
      if (problem) first ??= this.refuse(path, problem);
    }
    return first;
  }

  /** Says what is wrong beside the option that `path` names; returns its input, or null where there is none. */
  refuse(path, message) {
    const input = this.#inputs.get(path);
    if (!input) return null;
    this.rules.open = true;
    refuse(input, message);
    return input;
  }

  #choose() {
    if (this.preset.value === OWN) {
      this.rules.open = true;
      if (this.policy.off) this.policy = made("adasd", "exact");
    } else {
      this.policy = copy(PRESETS[Number(this.preset.value)].policy);
    }
    this.#build();
    this.changed();
  }

  /** The inputs for the policy as it is. */
  #build() {
    this.#inputs.clear();
    this.options.replaceChildren();
    this.rules.hidden = Boolean(this.policy.off);
    if (!this.policy.off) {
      this.#rule("Stop drafting", "stop", STOP_RULES);
      this.#rule("Accept", "accept", ACCEPT_RULES);
      const grid = document.createElement("div");
      grid.className = "numbers";
      grid.append(...optionsOf(this.policy).map((option) => this.#option(option)));
      this.options.append(grid);
    }
    this.#describe();
  }

  #rule(label, side, rules) {
    const { element, input } = makeField(label, { kind: "select" });
    for (const [name, rule] of Object.entries(rules)) input.append(new Option(rule.label, name));
    input.value = this.policy[side];
    const says = document.createElement("p");
    says.className = "quiet";
    says.textContent = rules[input.value].says;
    element.append(says);
    input.addEventListener("change", () => {
      this.policy = { ...this.policy, [side]: input.value };
      const known = optionsOf(this.policy).map(({ name }) => name);
      const options = Object.entries(this.policy.options).filter(([name]) => known.includes(name));
      this.policy.options = Object.fromEntries(options);
      this.#build();
      this.options.querySelectorAll("select")[side === "stop" ? 0 : 1].focus();
      this.changed();
    });
    this.options.append(element);
  }

  #option({ name, path }) {
    const { label, kind, unset } = OPTIONS[name];
    const isFlag = kind === "flag";
    const placeholder = name === "max_tokens" ? String(STOP_RULES[this.policy.stop].longest) : unset;
    const { element, input } = makeField(label, {
      kind: isFlag ? "checkbox" : "text",
      placeholder,
      inputmode: kind === "integer" ? "numeric" : "decimal",
    });
    const value = this.policy.options[name];
    if (isFlag) input.checked = Boolean(value);
    else input.value = value ?? "";
    input.addEventListener("input", () => {
      this.policy.options[name] = isFlag ? (input.checked ? "yes" : "") : input.value.trim();
      this.#describe();
      this.changed();
    });
    this.#inputs.set(path, input);
    return element;
  }

  #describe() {
    const index = PRESETS.findIndex(({ policy }) => same(policy, this.policy));
    this.preset.value = index < 0 ? OWN : index;
    this.summary.textContent = summary(this.policy);
  }
}

/** Lanes may begin with the same policy; what is changed in one is not in another. */
function copy(policy) {
  return policy.off ? policy : made(policy.stop, policy.accept, { ...policy.options });
}
