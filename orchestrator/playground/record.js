// What one lane has received: its tokens, its rounds and the figures that follow from them. No page in here.

import { number } from "./format.js";

const SOURCES = {
  TOKEN_SOURCE_TARGET: "target",
  TOKEN_SOURCE_DRAFT_MATCHED: "matched",
  TOKEN_SOURCE_DRAFT_ACCEPTED: "through",
  TOKEN_SOURCE_CORRECTION: "correction",
  TOKEN_SOURCE_BONUS: "bonus",
};

export const SOURCE_NAMES = {
  target: "target alone",
  matched: "drafted, matched",
  through: "drafted, let through by a lossy rule",
  correction: "correction by the target",
  bonus: "bonus of the target",
};

/** Parts of RoundTime in the order in which a round goes through them. */
const PARTS = [
  ["draft", "draft_queue_microseconds", "waiting"],
  ["draft", "draft_compute_microseconds"],
  ["wire", "draft_wire_microseconds"],
  ["target", "target_queue_microseconds", "waiting"],
  ["target", "target_compute_microseconds"],
  ["wire", "target_wire_microseconds"],
  ["orchestrator", "orchestrator_microseconds"],
];

export class Record {
  /** now: milliseconds of the page's clock when the request leaves. */
  constructor(now) {
    this.startedAt = now;
    this.endedAt = null;
    this.tokens = []; // { id, text, source, round, ... } as TokenAccount
    this.text = "";
    this.candidates = []; // { round, index, entropy, logq, distance, fate } in the order of verification
    this.rounds = []; // those with candidates
    this.spans = []; // of the timeline: { kind: first | alone | round, start, end, ... } in ms since the start
    this.firstAt = null;
    this.lastAt = null;
    this.drafted = 0;
    this.kept = 0;
    this.finish = null;
  }

  /** Takes in one CompleteResponse; returns its new tokens. */
  push(response, now) {
    const at = now - this.startedAt;
    const tokens = (response.tokens ?? []).map(tokenOf);
    this.text += response.text ?? "";
    this.tokens.push(...tokens);
    if (tokens.length) {
      this.#place(response, tokens, at);
      this.firstAt ??= at;
      this.lastAt = at;
    }
    if (response.finish) this.finish = response.finish;
    return tokens;
  }

  end(now) {
    this.endedAt = now;
  }

  elapsed(now) {
    return (this.endedAt ?? now) - this.startedAt;
  }

  /** Tokens a second after the first one. */
  speed() {
    const time = this.finish?.speculation?.time;
    const span = time
      ? (number(time.total_microseconds) - number(time.first_token_microseconds)) / 1000
      : this.lastAt - this.firstAt;
    return this.tokens.length > 1 && span > 0 ? ((this.tokens.length - 1) / span) * 1000 : NaN;
  }

  /** Mean acceptance length; NaN without verifications. */
  length() {
    return this.rounds.length ? 1 + this.kept / this.rounds.length : NaN;
  }

  /** Share of drafted candidates that were accepted; NaN where none was drafted. */
  rate() {
    return this.drafted ? this.kept / this.drafted : NaN;
  }

  thresholds() {
    return this.finish?.speculation?.thresholds ?? this.rounds.at(-1)?.thresholds ?? {};
  }

  #place(response, tokens, at) {
    const last = this.spans.at(-1);
    const before = last?.end ?? 0;
    if (!last) {
      this.spans.push({ kind: "first", start: 0, end: at });
    } else if (response.round) {
      const round = roundOf(response.round);
      // Rounds follow one another without a gap, so their own times place them better than arrivals here do.
      const start = last.kind === "alone" ? Math.max(before, at - round.total) : before;
      this.spans.push({ kind: "round", start, end: start + round.total, round });
      this.rounds.push(round);
      this.drafted += round.drafted;
      this.kept += round.kept;
      this.candidates.push(...candidatesOf(response.round, round, tokens));
    } else {
      this.spans.push({ kind: "alone", start: before, end: Math.max(at, before), count: tokens.length });
    }
  }
}

function tokenOf(account) {
  return {
    ...account,
    id: number(account.token_id),
    text: account.text ?? "",
    source: SOURCES[account.source] ?? "target",
    round: number(account.round),
  };
}

function roundOf(account) {
  const parts = PARTS.map(([row, field, waiting]) => ({
    row,
    waiting: Boolean(waiting),
    milliseconds: number(account.time?.[field]) / 1000,
  }));
  return {
    round: number(account.round),
    drafted: number(account.drafted),
    kept: number(account.kept),
    thresholds: account.thresholds ?? {},
    parts,
    total: parts.reduce((sum, part) => sum + part.milliseconds, 0),
  };
}

function candidatesOf(account, { round, drafted, kept, thresholds }, tokens) {
  // Without an entry for each candidate it is not known which distance is whose.
  const distances = account.distances?.length === drafted ? account.distances : [];
  return Array.from({ length: drafted }, (_, index) => ({
    round,
    index,
    thresholds,
    entropy: number(account.draft_entropies?.[index]),
    logq: number(account.draft_log_probabilities?.[index]),
    acceptance: number(account.acceptance_probabilities?.[index]),
    distance: distances.length ? number(distances[index]) : null,
    fate: fateOf(index, kept, tokens),
  }));
}

function fateOf(index, kept, tokens) {
  if (index > kept) return "unreached";
  if (index === kept) return "rejected";
  return tokens[index]?.source === "through" ? "through" : "kept";
}
