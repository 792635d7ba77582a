// The text of one lane, token by token. What a model wrote is only ever put in as text.

import { hideDetails, showDetails } from "./details.js";
import { detokenize } from "./api.js";
import { fixed, logarithm, quoted } from "./format.js";
import { SOURCE_NAMES } from "./record.js";

/** Text of a rejected candidate by its id: the account of a token names no more than the id. */
const rejected = new Map();

export class TokenText {
  #spans = [];
  #tokens = [];
  #at = null;
  #marked = null;

  /** element: focusable. look: called with the round of the token looked at, or null. */
  constructor(element, look) {
    this.element = element;
    this.look = look;
    element.addEventListener("pointerover", (event) => this.#point(event));
    element.addEventListener("pointerdown", (event) => this.#point(event));
    element.addEventListener("pointerleave", () => this.#go(null));
    element.addEventListener("blur", () => this.#go(null));
    element.addEventListener("keydown", (event) => this.#step(event));
  }

  clear() {
    this.#go(null);
    this.#spans = [];
    this.#tokens = [];
    this.#marked = null;
    this.element.replaceChildren();
  }

  append(tokens) {
    const { element } = this;
    const follows = element.scrollTop + element.clientHeight > element.scrollHeight - 24;
    const added = tokens.map((token) => this.#span(token));
    element.append(...added);
    if (follows) element.scrollTop = element.scrollHeight;
  }

  /** What belongs to no token: held back until the end, or an unfinished character. */
  appendRest(text) {
    this.element.append(document.createTextNode(text));
  }

  /** Marks the first token that differs from another lane's; null for none. Past the end is the end itself. */
  markDifference(index) {
    const span = index === null ? null : (this.#spans[Math.min(index, this.#spans.length - 1)] ?? null);
    if (span === this.#marked) return;
    this.#marked?.classList.remove("differs");
    span?.classList.add("differs");
    this.#marked = span;
  }

  /** Shows which tokens one round committed. */
  markRound(round) {
    this.#tokens.forEach((token, index) => this.#spans[index].classList.toggle("together", token.round === round));
  }

  #span(token) {
    const span = document.createElement("span");
    span.className = "token";
    span.dataset.source = token.source;
    span.dataset.index = this.#spans.length;
    span.textContent = token.text;
    if (!token.text) span.classList.add("silent");
    else if (token.text.includes("\n")) span.classList.add("newline");
    this.#spans.push(span);
    this.#tokens.push(token);
    return span;
  }

  #point(event) {
    const span = event.target.closest(".token");
    this.#go(span ? Number(span.dataset.index) : null);
  }

  #step(event) {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    const count = this.#spans.length;
    if (!count || !(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const wanted = (this.#at ?? (event.key === "ArrowLeft" ? count : -1)) + moves[event.key];
    const index = Math.min(count - 1, Math.max(0, wanted));
    this.#spans[index].scrollIntoView({ block: "nearest" });
    this.#go(index);
  }

  #go(index) {
    if (index === this.#at) return;
    this.#spans[this.#at]?.classList.remove("current");
    this.#at = index;
    if (index === null) {
      hideDetails();
      this.look(null);
      return;
    }
    this.#spans[index].classList.add("current");
    this.look(this.#tokens[index].round);
    this.#details(index);
  }

  #details(index) {
    const token = this.#tokens[index];
    const { source, text } = token;
    const rows = [
      ["source", SOURCE_NAMES[source]],
      ["token", `${token.id}, number ${index + 1}`],
      ["round", String(token.round)],
    ];
    const figures = [
      ["H(q)", token.draft_entropy, entropy],
      ["log q", token.draft_log_probability, logarithm],
      ["distance", token.distance, (distance) => fixed(distance, 3)],
      ["log p", token.target_log_probability ?? 0, logarithm],
      ["H(p)", token.target_entropy ?? 0, entropy],
    ];
    for (const [name, value, shown] of figures) if (value !== undefined) rows.push([name, shown(Number(value))]);
    const other = token.rejected_token_id;
    if (other !== undefined) rows.push(["instead of", this.#rejectedText(other, index)]);
    // The first of a token's boxes: a token may be broken over two lines.
    showDetails(this.#spans[index].getClientRects()[0] ?? this.#spans[index].getBoundingClientRect(), {
      title: text ? quoted(text) : "no text of its own",
      source,
      rows,
    });
  }

  #rejectedText(id, index) {
    if (!rejected.has(id)) {
      rejected.set(id, `token ${id}`);
      detokenize({ token_ids: [id] }).then(
        ({ text }) => {
          rejected.set(id, `${quoted(text ?? "")}, token ${id}`);
          if (this.#at === index) this.#details(index);
        },
        () => rejected.delete(id), // the number has to do; next time it is asked again
      );
    }
    return rejected.get(id);
  }
}

function entropy(value) {
  return `${fixed(value, 3)} nats`;
}
