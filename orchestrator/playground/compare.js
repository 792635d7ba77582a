// Whether lanes gave the same text, token for token, and whether they had to.

import { count } from "./format.js";

/** Index of the first token in which two sequences differ, or null: equal as far as both go, and where both have ended
 * of equal length. */
export function firstDifference(one, other) {
  const shared = Math.min(one.ids.length, other.ids.length);
  for (let index = 0; index < shared; index += 1) if (one.ids[index] !== other.ids[index]) return index;
  return one.ended && other.ended && one.ids.length !== other.ids.length ? shared : null;
}

/** lanes: { name, ids, ended, promise } each, of the lanes that have tokens; ended: by itself, not cancelled.
 * temperature: 0 or above. rounds: whether the target rounds so coarsely that equal choices can differ (bf16).
 *
 * Returns null for fewer than two lanes, otherwise { kind: same | may | must, sign, text, marks }: `must` where lanes
 * differ that promised not to; marks: by name, the index of the first token that differs. */
export function compare(lanes, { temperature, rounds }) {
  if (lanes.length < 2) return null;
  const groups = [];
  const marks = {};
  for (const lane of lanes) {
    const group = groups.find(([first]) => firstDifference(first, lane) === null);
    if (group) group.push(lane);
    else groups.push([lane]);
  }
  const sign = groups.map((group) => group.map(({ name }) => name).join(" = ")).join("  ≠  ");
  if (groups.length === 1) return { kind: "same", sign, text: sameText(lanes, temperature, rounds), marks };

  const [reference, ...others] = groups;
  const differences = others.map((group) => [group, firstDifference(reference[0], group[0])]);
  for (const [group, at] of differences) {
    for (const { name } of group) marks[name] = at;
    for (const { name } of reference) marks[name] = Math.min(marks[name] ?? Infinity, at);
  }
  const promised = lanes.filter(({ promise }) => promise === "text");
  const broken = promised.some((lane) => firstDifference(promised[0], lane) !== null);
  const where = whereText(reference, differences);
  const text = `${where}: ${whyText(lanes, { promised, broken, rounds })}${keptText(promised, broken, rounds)}`;
  return { kind: broken && !rounds ? "must" : "may", sign, text, marks };
}

function sameText(lanes, temperature, rounds) {
  const all = lanes.every(({ ended }) => ended);
  const tokens = Math.min(...lanes.map(({ ids }) => ids.length));
  const far = `${all ? "" : ", so far"} (${count(tokens, "token")})`;
  const begun = `${lanes.length === 2 ? "Both" : "All three"} texts are identical, token for token${far}`;
  if (!lanes.every(({ promise }) => promise === "text")) return `${begun}; not all of these policies promise that.`;
  const why = temperature === 0 ? "lossless rules at temperature 0" : "one seed and coupled sampling";
  return `${begun}: ${why} give one text, whatever is drafted${rounds ? ", but for what bf16 rounds" : ""}.`;
}

function whereText(reference, [[group, at], ...more]) {
  const verb = group.length > 1 ? "differ" : "differs";
  const rest = more.map(([each, index]) => `, ${names(each)} at token ${index + 1}`);
  return `${names(group)} ${verb} from ${names(reference)} at token ${at + 1}${rest.join("")}`;
}

function whyText(lanes, { promised, broken, rounds }) {
  const why = [];
  if (broken && rounds) why.push(`${names(promised)} promise one text in fp32, but this target computes in bf16`);
  if (broken && !rounds) why.push(`${names(promised)} promise one text; please report this with the link to this page`);
  if (lanes.some(({ promise }) => promise === "none")) why.push("a lossy rule may change the text");
  if (lanes.some(({ promise }) => promise === "law")) {
    why.push("ratio and block verification keep its distribution, not its draws");
  }
  return `${why.join("; ")}.`;
}

function keptText(promised, broken, rounds) {
  if (broken || promised.length < 2) return "";
  return ` ${names(promised)} are identical${rounds ? "" : ", as promised"}.`;
}

function names(lanes) {
  const all = lanes.map(({ name }) => name);
  return all.length > 2 ? `${all.slice(0, -1).join(", ")} and ${all.at(-1)}` : all.join(" and ");
}
