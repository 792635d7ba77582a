// One lane: its policy, its text, its figures and its charts.

import { complete } from "./api.js";
import { Candidates } from "./candidates.js";
import { NONE, duration, fixed, percent, sentence } from "./format.js";
import { PolicyEditor } from "./policy-editor.js";
import { promise, toMessage } from "./policies.js";
import { Record } from "./record.js";
import { reportRows } from "./report.js";
import { Timeline } from "./timeline.js";
import { TokenText } from "./tokens.js";

const PROMISES = { text: "same text", law: "lossless", none: "lossy" };
const PROMISE_TITLES = {
  text: "For a seed the text is that of the target alone",
  law: "The text has the distribution of the target alone",
  none: "The text may have another distribution than that of the target alone",
};
const template = document.getElementById("lane");

export class Lane {
  record = null;
  error = null;
  state = "idle"; // waiting, running, done, cancelled, failed

  /** name: A, B or C. changed, removed: called when the policy was changed, when the lane is to go. */
  constructor(name, policy, { changed, removed }) {
    this.element = template.content.cloneNode(true).querySelector(".lane");
    this.find = (selector) => this.element.querySelector(selector);
    this.editor = new PolicyEditor(this.element, policy, changed);
    this.find(".remove").addEventListener("click", () => removed(this));
    const look = (round) => this.#look(round);
    this.text = new TokenText(this.find(".text"), look);
    this.timeline = new Timeline(this.find(".timeline"), look);
    this.candidates = new Candidates(this.find(".candidates"), look);
    this.rename(name);
    this.#setState("idle", "");
    this.update(0);
  }

  get policy() {
    return this.editor.policy;
  }

  get isUnderWay() {
    return this.state === "waiting" || this.state === "running";
  }

  rename(name) {
    this.name = name;
    this.find("h2").textContent = name;
    this.element.setAttribute("aria-label", `Lane ${name}`);
    this.find(".policy select").id = `policy-${name}`;
    this.find(".policy label").htmlFor = `policy-${name}`;
    this.find(".policy label").textContent = `Policy of lane ${name}`;
    this.find(".remove").setAttribute("aria-label", `Remove lane ${name}`);
    this.find(".text").setAttribute("aria-label", `Text of lane ${name}`);
  }

  /** Shows what the policy promises at this temperature, and that there is nothing yet where nothing will be. */
  showPolicy(temperature) {
    if (!this.record) this.candidates.show({ isOff: Boolean(this.policy.off) });
    const kind = promise(this.policy, temperature);
    const tag = this.find(".promise");
    tag.textContent = PROMISES[kind];
    tag.title = PROMISE_TITLES[kind];
    tag.dataset.kind = kind;
    this.element.dataset.off = String(Boolean(this.policy.off));
  }

  /** Before a run: nothing is left of the last one. */
  prepare(message, temperature) {
    this.record = null;
    this.error = null;
    this.temperature = temperature;
    this.promised = promise(this.policy, temperature);
    this.text.markDifference(null);
    this.text.clear();
    this.find(".report").replaceChildren();
    this.timeline.show({ record: null });
    this.candidates.show({ record: null, isOff: Boolean(this.policy.off) });
    this.#setState("waiting", message);
    this.update(performance.now());
  }

  /** Runs `request` to its end; never raises: what went wrong is in `state` and `error`. */
  async run(request, signal) {
    const record = new Record(performance.now());
    this.record = record;
    this.timeline.show({ record });
    this.candidates.show({ record });
    this.#setState("running", "waiting for the first token");
    try {
      for await (const response of complete({ ...request, speculation: toMessage(this.policy) }, signal)) {
        if (this.record !== record) return; // another run has begun
        const tokens = record.push(response, performance.now());
        if (tokens.length) {
          this.text.append(tokens);
          this.#setState("running", "");
        }
      }
      this.#end("done", "");
    } catch (error) {
      if (this.record !== record) return;
      const kept = record.tokens.length ? " What came is kept." : "";
      if (signal.aborted) {
        this.#end("cancelled", `Cancelled.${kept}`);
      } else {
        this.error = error;
        const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
        this.#end("failed", `${sentence(error.message)}${kept}${again}`);
      }
    }
  }

  /** Ends a lane whose turn never came. */
  skip() {
    this.#setState("cancelled", "Cancelled before its turn.");
  }

  /** Leaves the error to the input that it is shown beside. */
  pointAt(input) {
    const name = document.querySelector(`label[for="${input.id}"]`).textContent;
    this.#setState("failed", `Refused: see “${name}”.`);
  }

  /** Brings the figures and charts up to now. */
  update(now) {
    const { record } = this;
    const show = (metric, value) => (this.find(`[data-metric=${metric}]`).textContent = value);
    show("speed", record ? fixed(record.speed(), 1) : NONE);
    show("length", record ? fixed(record.length(), 2) : NONE);
    show("rate", record ? percent(record.rate()) : NONE);
    show("first", record?.firstAt ? duration(record.firstAt) : NONE);
    show("elapsed", record ? `${(record.elapsed(now) / 1000).toFixed(2)} s` : NONE);
    this.candidates.show({});
  }

  /** Milliseconds that the timeline has to hold. */
  reach(now) {
    return this.record ? Math.max(this.record.elapsed(now), this.record.spans.at(-1)?.end ?? 0) : 0;
  }

  #end(state, message) {
    const { record } = this;
    record.end(performance.now());
    this.#setState(state, message);
    const shown = record.tokens.map(({ text }) => text).join("");
    if (record.text.startsWith(shown)) this.text.appendRest(record.text.slice(shown.length));
    if (record.finish) this.#report(record.finish);
    this.update(record.endedAt);
    for (const chart of ["timeline", "candidates"]) {
      this.find(`.${chart}`).setAttribute("aria-label", this[chart].says());
    }
  }

  #report(finish) {
    const lines = reportRows(finish).map(([name, value]) => {
      const line = document.createElement("div");
      const term = document.createElement("dt");
      term.textContent = name;
      const what = document.createElement("dd");
      what.textContent = value;
      line.append(term, what);
      return line;
    });
    this.find(".report").replaceChildren(...lines);
  }

  #setState(state, message) {
    this.state = state;
    this.element.dataset.state = state;
    this.find(".state").textContent = message;
  }

  #look(round) {
    this.text.markRound(round);
    this.timeline.show({ round });
    this.candidates.show({ round });
  }
}
