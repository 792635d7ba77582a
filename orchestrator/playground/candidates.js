// The candidates of one lane in the order of verification: their entropies and distances, and the thresholds that were
// in force, which move as the text appears.

import { Chart, centred, ink, ticks } from "./chart.js";
import { fixed, logarithm } from "./format.js";

const LEFT = 44;
const RIGHT = 44;
const PANEL = 62;
const GAP = 12;
const HEIGHT = 2 * PANEL + GAP + 20;
const LEAST = 30;

const FATES = { kept: "kept", through: "let through", rejected: "rejected", unreached: "not reached" };
const COLOURS = { kept: "matched", through: "through", rejected: "correction", unreached: "unreached" };

/** Thresholds by their names in SpeculationReport. */
const SYMBOLS = { entropy: "T_G", distance: "T_V", lambda: "λ", probability: "T_q", survival: "survival" };
const UNITS = { entropy: " nats" };

export function thresholdsText(thresholds) {
  const names = Object.keys({ ...SYMBOLS, ...thresholds }).filter((name) => name in thresholds);
  return names
    .map((name) => `${SYMBOLS[name] ?? name} ${fixed(Number(thresholds[name]), 3)}${UNITS[name] ?? ""}`)
    .join(", ");
}

export class Candidates {
  constructor(canvas, look) {
    this.record = null;
    this.round = null;
    this.isOff = false;
    this.chart = new Chart(canvas, HEIGHT, {
      paint: (pen, width) => this.#paint(pen, width),
      find: (x) => this.#find(x),
      count: () => this.record?.candidates.length ?? 0,
      place: (index) => this.#x(index + 0.5),
      describe: (index) => this.#describe(this.record.candidates[index]),
      look: (index) => look(index === null ? null : this.record.candidates[index].round),
    });
  }

  show({ record = this.record, round = this.round, isOff = this.isOff }) {
    Object.assign(this, { record, round, isOff });
    this.chart.repaint();
  }

  says() {
    const all = this.record?.candidates ?? [];
    if (!all.length) return "Candidates: none.";
    const of = (fate) => all.filter((candidate) => candidate.fate === fate).length;
    const fates = Object.entries(FATES).map(([fate, name]) => `${of(fate)} ${name}`).join(", ");
    const thresholds = thresholdsText(this.record.thresholds());
    return `Candidates: ${fates}.${thresholds ? ` Thresholds: ${thresholds}.` : ""}`;
  }

  #x(place) {
    const shown = Math.max(LEAST, this.record?.candidates.length ?? 0);
    return LEFT + (place / shown) * (this.chart.width - LEFT - RIGHT);
  }

  #paint(pen, width) {
    pen.clearRect(0, 0, width, HEIGHT);
    const all = this.record?.candidates ?? [];
    if (this.isOff) {
      centred(pen, "No candidates: the target goes on alone", width, HEIGHT);
      return;
    }
    this.#band(pen);
    const highest = Math.max(2, ...all.map(({ entropy }) => entropy));
    this.#panel(pen, width, 4, "H(q), nats", ticks(highest, 3), "entropy");
    this.#panel(pen, width, 4 + PANEL + GAP, "JS distance", [0, 0.5, 1], "distance");
    if (all.length && all.every(({ distance }) => distance === null)) {
      this.#note(pen, width, "not measured under this rule");
    }
    pen.fillStyle = ink("quiet");
    pen.textAlign = "right";
    pen.fillText(`${Math.max(LEAST, all.length)} candidates`, width - RIGHT, HEIGHT - 6);
    pen.textAlign = "left";
    pen.fillText("0", LEFT, HEIGHT - 6);
  }

  #band(pen) {
    const mine = (this.record?.candidates ?? []).map(({ round }) => round);
    const from = this.round === null ? -1 : mine.indexOf(this.round);
    if (from < 0) return;
    pen.fillStyle = ink("band");
    const left = this.#x(from);
    pen.fillRect(left, 0, this.#x(mine.lastIndexOf(this.round) + 1) - left, HEIGHT - 14);
  }

  #panel(pen, width, top, name, marks, field) {
    const most = marks.at(-1);
    const y = (value) => top + PANEL - 4 - (value / most) * (PANEL - 14);
    for (const mark of marks) {
      pen.fillStyle = ink(mark ? "faint-line" : "line");
      pen.fillRect(LEFT, Math.round(y(mark)), width - LEFT - RIGHT, 1);
      pen.fillStyle = ink("quiet");
      pen.textAlign = "right";
      pen.fillText(String(Number(mark.toPrecision(2))), LEFT - 7, y(mark));
    }
    pen.textAlign = "left";
    pen.fillText(name, LEFT + 2, top + 1);
    const all = this.record?.candidates ?? [];
    all.forEach((candidate, index) => {
      const value = candidate[field];
      if (value !== null) mark(pen, candidate.fate, this.#x(index + 0.5), y(Math.min(value, most)));
    });
    this.#threshold(pen, width, field, y, most);
  }

  /** A line of steps: a threshold changes between rounds only. */
  #threshold(pen, width, field, y, most) {
    const all = this.record?.candidates ?? [];
    pen.strokeStyle = ink("threshold");
    pen.lineWidth = 1.5;
    pen.beginPath();
    let drawn = null;
    all.forEach(({ thresholds }, index) => {
      const value = thresholds[field] === undefined ? null : Number(thresholds[field]);
      if (value !== null) {
        const height = y(Math.min(value, most));
        if (drawn === null) pen.moveTo(this.#x(index), height);
        else pen.lineTo(this.#x(index), height);
        pen.lineTo(this.#x(index + 1), height);
      }
      drawn = value;
    });
    pen.stroke();
    const last = this.record?.thresholds()[field];
    if (last === undefined) return;
    pen.fillStyle = ink("threshold");
    pen.textAlign = "left";
    const x = width - RIGHT + 5;
    const height = Math.max(y(most) + 5, y(Math.min(Number(last), most)));
    pen.fillText(SYMBOLS[field], x, height - 6);
    pen.fillText(fixed(Number(last), 2), x, height + 6);
  }

  #note(pen, width, text) {
    pen.fillStyle = ink("quiet");
    pen.textAlign = "center";
    pen.fillText(text, (LEFT + width - RIGHT) / 2, 4 + PANEL + GAP + PANEL / 2);
  }

  #find(x) {
    const all = this.record?.candidates.length ?? 0;
    if (!all || x < LEFT) return null;
    const index = Math.floor(((x - LEFT) / (this.#x(1) - LEFT)));
    return index < all ? index : null;
  }

  #describe({ round, index, entropy, logq, acceptance, distance, fate, thresholds }) {
    const rows = [
      ["round", String(round)],
      ["H(q)", `${fixed(entropy, 3)} nats`],
      ["log q", logarithm(logq)],
      ["exact rule accepts with", fixed(acceptance, 3)],
    ];
    if (distance !== null) rows.push(["distance", fixed(distance, 3)]);
    const shown = thresholdsText(thresholds);
    if (shown) rows.push(["thresholds", shown]);
    return { title: `Candidate ${index + 1}: ${FATES[fate]}`, rows };
  }
}

function mark(pen, fate, x, y) {
  pen.fillStyle = pen.strokeStyle = ink(COLOURS[fate]);
  pen.globalAlpha = fate === "unreached" ? 0.6 : 1;
  pen.lineWidth = fate === "unreached" ? 1 : 1.4;
  pen.beginPath();
  if (fate === "through") {
    pen.moveTo(x, y - 3.6);
    pen.lineTo(x + 3.6, y);
    pen.lineTo(x, y + 3.6);
    pen.lineTo(x - 3.6, y);
    pen.fill();
  } else if (fate === "rejected") {
    pen.moveTo(x - 2.6, y - 2.6);
    pen.lineTo(x + 2.6, y + 2.6);
    pen.moveTo(x + 2.6, y - 2.6);
    pen.lineTo(x - 2.6, y + 2.6);
    pen.stroke();
  } else {
    pen.arc(x, y, fate === "kept" ? 2.6 : 1.8, 0, 2 * Math.PI);
    if (fate === "kept") pen.fill();
    else pen.stroke();
  }
  pen.globalAlpha = 1;
}
