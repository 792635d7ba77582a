// The rounds of one lane in time, to scale: a row each for draft, wire, target and orchestrator.

import { Chart, ink, ticks } from "./chart.js";
import { count, duration, percent } from "./format.js";

const ROWS = ["draft", "wire", "target", "orchestrator"];
const LABELS = { draft: "draft", wire: "wire", target: "verify", orchestrator: "orch." };
const LEFT = 44;
const RIGHT = 10;
const TALL = 13;
const STEP = 17;
const HEIGHT = ROWS.length * STEP + 18;

export class Timeline {
  /** look: called with a round's number, or null. */
  constructor(canvas, look) {
    this.record = null;
    this.most = 1000; // milliseconds that the axis holds; the same in all lanes, so that lengths can be compared
    this.round = null;
    this.look = look;
    this.chart = new Chart(canvas, HEIGHT, {
      paint: (pen, width) => this.#paint(pen, width),
      find: (x) => this.#find(x),
      count: () => this.record?.spans.length ?? 0,
      place: (index) => this.#x(this.record.spans[index].start, this.chart.width),
      describe: (index) => this.#describe(this.record.spans[index]),
      look: (index) => this.look(index === null ? null : (this.record.spans[index].round?.round ?? null)),
    });
  }

  show({ record = this.record, most = this.most, round = this.round }) {
    Object.assign(this, { record, most, round });
    this.chart.repaint();
  }

  /** In one sentence. */
  says() {
    const spans = this.record?.spans.filter(({ kind }) => kind === "round") ?? [];
    if (!spans.length) return "Timeline: no rounds with candidates.";
    const sums = Object.fromEntries(ROWS.map((row) => [row, 0]));
    for (const { round } of spans) for (const part of round.parts) sums[part.row] += part.milliseconds;
    const all = Object.values(sums).reduce((sum, value) => sum + value, 0);
    const shares = ROWS.map((row) => `${LABELS[row]} ${percent(sums[row] / all)}`).join(", ");
    return `Timeline of ${count(spans.length, "round")}, ${duration(all)}: ${shares}.`;
  }

  #x(milliseconds, width) {
    return LEFT + (milliseconds / this.most) * (width - LEFT - RIGHT);
  }

  #paint(pen, width) {
    const bottom = ROWS.length * STEP;
    pen.clearRect(0, 0, width, HEIGHT);
    this.#axis(pen, width, bottom);
    if (!this.record?.spans.length) return;
    for (const span of this.record.spans) {
      const [start, end] = [this.#x(span.start, width), this.#x(span.end, width)];
      if (this.round !== null && span.round?.round === this.round) {
        pen.fillStyle = ink("band");
        pen.fillRect(start, 0, Math.max(2, end - start), bottom);
      }
      if (span.kind === "round") this.#round(pen, span, width);
      else this.#bar(pen, "target", span.kind === "first", start, end, 0.5);
    }
  }

  #axis(pen, width, bottom) {
    pen.lineWidth = 1;
    ROWS.forEach((row, index) => {
      pen.textAlign = "right";
      pen.fillStyle = ink("quiet");
      pen.fillText(LABELS[row], LEFT - 7, index * STEP + TALL / 2 + 1);
      pen.fillStyle = ink("faint");
      pen.fillRect(LEFT, index * STEP, width - LEFT - RIGHT, TALL);
    });
    const seconds = ticks(this.most / 1000, Math.max(2, Math.floor(width / 80)));
    const digits = Math.max(0, -Math.floor(Math.log10(seconds[1] ?? 1)));
    for (const value of seconds) {
      const x = this.#x(value * 1000, width);
      if (x > width - RIGHT + 1) break;
      pen.fillStyle = ink("line");
      pen.fillRect(Math.round(x), 0, 1, bottom + 2);
      pen.fillStyle = ink("quiet");
      pen.textAlign = x > width - 30 ? "right" : value ? "center" : "left";
      pen.fillText(value ? `${value.toFixed(digits)} s` : "0", x, bottom + 11);
    }
  }

  #round(pen, span, width) {
    let at = span.start;
    for (const { row, waiting, milliseconds } of span.round.parts) {
      if (milliseconds > 0) this.#bar(pen, row, waiting, this.#x(at, width), this.#x(at + milliseconds, width), 0.25);
      at += milliseconds;
    }
  }

  /** gap: kept free at the end, so that one bar after the other can be told apart. */
  #bar(pen, row, waiting, from, to, gap) {
    pen.fillStyle = ink(waiting ? `${row}-waiting` : row);
    const wide = to - from;
    pen.fillRect(from, ROWS.indexOf(row) * STEP, wide > 2 ? wide - gap : Math.max(wide, 0.6), TALL);
  }

  #find(x) {
    if (!this.record || x < LEFT - 2) return null;
    const index = this.record.spans.findIndex(({ end }) => this.#x(end, this.chart.width) >= x);
    return index < 0 ? null : index;
  }

  #describe(span) {
    const took = duration(span.end - span.start);
    if (span.kind === "first") return { title: "First token", rows: [["prompt and first token, measured here", took]] };
    if (span.kind === "alone") {
      return { title: "Target alone", rows: [[`${count(span.count, "token")}, between arrivals here`, took]] };
    }
    const { round, drafted, kept, parts, total } = span.round;
    const sum = (row, waiting) =>
      parts.reduce((all, part) => all + (part.row === row && part.waiting === waiting ? part.milliseconds : 0), 0);
    const rows = [
      ["drafted", String(drafted)],
      ["kept", String(kept)],
      ["draft", duration(sum("draft", false))],
      ["verify", duration(sum("target", false))],
      ["wire", duration(sum("wire", false))],
      ["waiting", duration(sum("draft", true) + sum("target", true))],
      ["orchestrator", duration(sum("orchestrator", false))],
      ["whole", duration(total)],
    ];
    return { title: `Round ${round}`, rows };
  }
}
