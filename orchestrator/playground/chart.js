// What both charts share: a canvas at the screen's resolution, colours of the style sheet, painting once a frame, and
// looking at one item with the pointer or the arrow keys.

import { hideDetails, showDetails } from "./details.js";

const inks = new Map();

/** The colour that the style sheet calls --name, as the current theme has it. */
export function ink(name) {
  if (!inks.has(name)) {
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    inks.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return inks.get(name);
}

addEventListener("themechange", () => inks.clear());

export class Chart {
  #asked = false;

  /** height: in CSS pixels.
   * view: { paint(pen, width), find(x), count(), place(index), describe(index), look(index) }: `find` gives the index of
   * what lies at x, or null; `place` the x of an item; `look` is told what is looked at, or null. */
  constructor(canvas, height, view) {
    this.canvas = canvas;
    this.height = height;
    this.view = view;
    this.width = 0;
    this.index = null;
    canvas.style.height = `${height}px`;
    new ResizeObserver(() => this.repaint()).observe(canvas);
    addEventListener("themechange", () => this.repaint());
    canvas.addEventListener("pointermove", (event) => this.#look(view.find(event.offsetX)));
    canvas.addEventListener("pointerdown", (event) => this.#look(view.find(event.offsetX)));
    canvas.addEventListener("pointerleave", () => this.#look(null));
    canvas.addEventListener("blur", () => this.#look(null));
    canvas.addEventListener("keydown", (event) => this.#step(event));
  }

  /** Paints before the next frame. */
  repaint() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#paint();
    });
  }

  #paint() {
    const ratio = devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    if (!this.width) return;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = `11px ${getComputedStyle(this.canvas).fontFamily}`;
    pen.textBaseline = "middle";
    this.view.paint(pen, this.width);
  }

  #look(index) {
    if (index === this.index) return;
    this.index = index;
    this.view.look(index);
    if (index === null) {
      hideDetails();
      return;
    }
    const frame = this.canvas.getBoundingClientRect();
    const x = frame.left + this.view.place(index);
    showDetails(new DOMRect(x, frame.top, 0, this.height), this.view.describe(index));
  }

  #step(event) {
    const count = this.view.count();
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!count || !(event.key in moves)) return;
    event.preventDefault();
    const wanted = (this.index ?? (event.key === "ArrowLeft" ? count : -1)) + moves[event.key];
    this.#look(Math.min(count - 1, Math.max(0, wanted)));
  }
}

/** Round numbers from 0 on, about `wanted` of them; the last is not below `most`. */
export function ticks(most, wanted) {
  const rough = most / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  return Array.from({ length: Math.ceil(most / step - 0.001) + 1 }, (_, index) => index * step);
}

export function centred(pen, text, width, height) {
  pen.fillStyle = ink("quiet");
  pen.textAlign = "center";
  pen.fillText(text, width / 2, height / 2);
}
