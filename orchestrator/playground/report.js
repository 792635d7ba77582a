// What the last message of a completion says of it.

import { thresholdsText } from "./candidates.js";
import { count, duration, fixed, number, percent } from "./format.js";

const REASONS = { FINISH_REASON_STOP: "the model ended its text", FINISH_REASON_LENGTH: "max tokens reached" };

/** Name and value of each line. */
export function reportRows(finish) {
  const { usage = {}, speculation = {} } = finish;
  const rows = [
    ["finish", REASONS[finish.reason] ?? String(finish.reason)],
    ["tokens", `${number(usage.prompt_tokens)} prompt, ${number(usage.completion_tokens)} completion`],
  ];
  const steps = number(speculation.verify_steps);
  if (steps) {
    const [accepted, rejected] = [number(usage.accepted_prediction_tokens), number(usage.rejected_prediction_tokens)];
    const length = fixed(number(speculation.mean_acceptance_length), 2);
    rows.push(["predictions", `${accepted} accepted, ${rejected} rejected`]);
    rows.push(["verifications", `${steps}, mean acceptance length ${length}`]);
  }
  rows.push(...timeRows(speculation.time ?? {}));
  if (speculation.lossy) {
    const charge = fixed(number(speculation.lossy_charge), 2);
    rows.push(["lossy", `${count(number(speculation.lossy_tokens), "token")} let through, charge ${charge}`]);
  } else {
    rows.push(["lossy", "no"]);
  }
  const thresholds = thresholdsText(speculation.thresholds ?? {});
  if (thresholds) rows.push(["thresholds", thresholds]);
  const failures = number(speculation.draft_failures);
  if (failures) rows.push(["draft", `failed ${count(failures, "time")}; the target went on alone`]);
  rows.push(["seed", String(finish.seed ?? 0)]);
  return rows;
}

function timeRows(time) {
  const whole = number(time.rounds_microseconds);
  if (!whole) return [];
  const share = (field) => percent(number(time[field]) / whole);
  const overhead = duration(number(time.round_overhead_median_microseconds) / 1000);
  const shares = `draft ${share("draft_compute_microseconds")}, target ${share("target_compute_microseconds")}`;
  return [
    ["time", `${shares} of all rounds`],
    ["overhead", `${overhead}, median of the rounds`],
  ];
}
