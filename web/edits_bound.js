// What new texts and variants cost at most: where a new text parts from the others, and how much of a variant's first step
// it shares, is known when it has run.

import { plain } from "./prompt_source.js";
import { numbersIn, settingsOf } from "./edits_variants.js";

/** At most so many rows, at so many seconds each where these are known. */
export function atMost(rows, seconds) {
  return { rows, reused: 0, seconds: Number.isFinite(seconds) ? rows * seconds : null, bound: true };
}

/** What all new texts and variants of a state cost at most; null where not even that is known. */
export function boundOf({ tree, told, source, written, varied }) {
  const nodes = source.variants ?? [];
  if (written.open || (written.added && nodes.length)) return null;
  let rows = (written.changed.size + written.added) * tree.steps;
  const first = varied.length ? nodes.indexOf(varied[0].node) : nodes.length;
  for (const node of nodes.slice(first)) {
    // one before others may number their variants anew
    const ran = first === nodes.length - 1 ? varied[0].ran : null;
    rows += variantRows(tree, settingsOf(node), ran, told?.last_reroll);
  }
  return Number.isNaN(rows) ? null : atMost(rows, told?.seconds_per_row);
}

/** Rows of the variants that a node Variants asks for and that have not run; NaN where its numbers are none. */
function variantRows(tree, { which, count, part_at }, ran, last) {
  const all = tree.prompts.map((_, number) => number);
  const [now, before] = [numbersIn(which), ran?.part_at === part_at ? numbersIn(ran.which) : []];
  if (now === undefined) return NaN;
  const had = new Set(before ?? all);
  const more = (now ?? all).reduce((sum, number) => sum + Math.max(count - (had.has(number) ? ran.count : 0), 0), 0);
  return more * partRows(tree.steps, part_at, last);
}

/** Rows of a variant that parts at a share of the steps: at the last step with an effect, if that is before. */
const partRows = (steps, share, last) => steps - Math.min(Math.floor(share * steps + 0.5), last ?? steps - 1, steps - 1);

/** What one new text in the place of a prompt costs at most: of an entry that several prompts come from, each. */
export function boundOfText({ tree, told }, entries, number) {
  const text = plain(tree.prompts[number]);
  const alone = entries.filter((entry) => entry.text === text).length < 2;
  const prompts = alone ? tree.prompts.filter((other) => plain(other) === text).length : 1;
  return atMost(prompts * tree.steps, told?.seconds_per_row);
}

/** A price and a bound in one; where the bound is null the price is of a part, and says so. */
export function together(price, bound) {
  if (!price || price.error) return price;
  if (!bound) return { ...price, open: true };
  const unknown = [price, bound].some(({ rows, reused, seconds }) => seconds === null && rows > reused);
  const seconds = unknown ? null : (price.seconds ?? 0) + (bound.seconds ?? 0);
  return { rows: price.rows - price.reused + bound.rows, reused: 0, seconds, bound: true };
}
