// What is served, and how busy it is while this page has something running.

import { load } from "./api.js";
import { count, number, percent } from "./format.js";

class Served {
  /** Whether the target computes in fewer digits than it takes for equal choices in blocks of all lengths. */
  rounds = false;
  #timer = 0;

  list = document.getElementById("served");

  get isKnown() {
    return this.list.childElementCount > 0;
  }

  /** found, busy: GetModelsResponse and GetLoadResponse. */
  show(found, busy) {
    this.rounds = Boolean(found.target?.dtype) && found.target.dtype !== "float32" && full(found.target);
    const entries = [
      ["target", describe(found.target)],
      ["draft", found.draft ? describe(found.draft) : "none is there"],
      ["load", ""],
    ];
    this.list.replaceChildren(...entries.map(([name, value]) => entry(name, value)));
    this.#showLoad(busy);
  }

  /** Follows the load until nothing is left of it. */
  watch() {
    clearTimeout(this.#timer);
    let quiet = 0;
    const look = async () => {
      try {
        const busy = await load();
        this.#showLoad(busy);
        quiet = number(busy.completions) ? 0 : quiet + 1;
      } catch {
        return; // what is wrong is said by the run itself
      }
      if (quiet < 2) this.#timer = setTimeout(look, 700);
    };
    this.#timer = setTimeout(look, 300);
  }

  #showLoad(busy) {
    const place = this.list.querySelector("[data-name=load] dd");
    if (!place) return;
    const cache = number(busy.target?.cache_bytes) / number(busy.target?.cache_capacity_bytes);
    place.textContent = `${count(number(busy.completions), "completion")}, cache ${percent(cache)}`;
  }
}

export const served = new Served();

function full({ weights }) {
  return !weights || weights === "full";
}

function describe({ model_id: name, dtype, weights, parameter_count: parameters }) {
  const kind = weights && weights !== "full" ? weights : dtype;
  const size = number(parameters) ? `${(number(parameters) / 1e6).toFixed(number(parameters) < 1e7 ? 1 : 0)} M` : "";
  const facts = [size, kind].filter(Boolean).join(", ");
  return facts ? `${name} (${facts})` : name;
}

function entry(name, value) {
  const element = document.createElement("div");
  element.dataset.name = name;
  const term = document.createElement("dt");
  term.textContent = name;
  const what = document.createElement("dd");
  what.textContent = value;
  element.append(term, what);
  return element;
}
