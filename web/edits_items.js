// What stands in the menu of a branch: items for `openMenu`, with prices that are asked for when they are seen.

import { plannedAnew, takenBack } from "./edits.js";
import { atMost, boundOfText } from "./edits_bound.js";
import { KEYS, numberOf, offers } from "./edits_menu.js";
import { priceText, wholePrice } from "./edits_price.js";
import { entriesOf } from "./prompt_source.js";
import { text } from "./texts.js";

const MOST_VARIANTS = 64;
const LONGEST_TITLE = 90; // letters

/**
 * The items of a branch's menu.
 *
 * @param edits   TreeEdits, whose state is known
 * @param chosen  {step, count}: what was chosen in this menu so far; it is written here
 */
export function menuItems(edits, index, chosen) {
  const { tree } = edits.state;
  const leaf = tree.branches[index].stop === tree.steps;
  const own = offers(edits.state, index).map((offer) => item(edits, offer, { index, leaf, chosen }));
  return [...own, null, anewItem(edits), helpItem(edits, index)];
}

function item(edits, { id, on, problem }, at) {
  const { index, leaf } = at;
  const note = problem && text(`edits.why_${problem}`);
  const made = { name: id, label: labelOf(id, on, leaf, edits.count), key: keyOf(id), note, run: () => edits.do(id, index) };
  if (note) return made;
  if (id === "reroll") return rerollItem(edits, made, at);
  if (id === "variants") return variantsItem(edits, made, at);
  if (["earlier", "later", "hold", "pin"].includes(id)) {
    const then = after(edits.state, id, index);
    made.hint = () => alsoOf(edits.state, id, index, then);
    if (id !== "pin") made.price = () => priceOf(edits, then);
  }
  if (id === "edit") made.price = async () => wordsOf(boundOfText(edits.state, entriesOf(edits.state.source), numberOf(edits.state, index)));
  if (id === "duplicate") made.price = async () => wordsOf(bound(edits, 1));
  return made;
}

/** So many of a tree's whole ways, from the first step to the last. */
const bound = ({ state: { tree, told } }, count, steps = tree.steps) => atMost(count * steps, told?.seconds_per_row);

function rerollItem(edits, made, { index, leaf, chosen }) {
  const { edited, edits: now, tree } = edits.state;
  const asked = edited.rerollOf(now, index);
  if (asked && !asked.ran) return made; // it is taken back
  const step = () => chosen.step ?? asked?.step ?? edited.ownStep(index);
  const words = () => `${labelOf("reroll", false, leaf)} ${text("edits.from_step", { step: step() + 1 })}`;
  const move = (by) => (chosen.step = Math.min(Math.max(step() + by, 0), tree.steps - 1));
  const then = () => edited.reroll(now, index, step());
  const price = () => priceOf(edits, then());
  const hint = () => alsoOf(edits.state, "reroll", index, then());
  return { ...made, stepper: { words, move }, price, hint, run: () => edits.do("reroll", index, { step: step() }) };
}

function variantsItem(edits, made, { index, chosen }) {
  const step = edits.variantStep(index);
  const count = () => chosen.count ?? edits.count;
  const words = () => `${text("edits.variants", { count: count() })} ${text("edits.from_step", { step: step + 1 })}`;
  const move = (by) => (chosen.count = Math.min(Math.max(count() + by, 1), MOST_VARIANTS));
  const price = async () => wordsOf(bound(edits, count(), edits.state.tree.steps - step));
  return { ...made, stepper: { words, move }, price, run: () => edits.do("variants", index, { count: count(), step }) };
}

function anewItem(edits) {
  const { kept, told, edits: now } = edits.state;
  const problem = edits.state.problem || (kept ? "" : "fresh");
  const price = () => priceOf(edits, plannedAnew(now, told.edits));
  return { name: "anew", label: text("edits.anew"), note: problem && text(`edits.why_${problem}`), price, run: () => edits.anew() };
}

function helpItem(edits, index) {
  return { name: "keys", label: text("edits.keys"), key: "?", note: "", run: () => edits.help(index) };
}

/** Edits after one more step of a split, or after a branch is held or pinned. */
function after({ edited, edits }, id, index) {
  if (id === "pin") return edited.pin(edits, index);
  if (id === "hold") return edited.hold(edits, index);
  return edited.moveSplit(edits, index, edited.splitStep(edits, index) + (id === "later" ? 1 : -1));
}

async function priceOf(edits, asked) {
  return wordsOf(await edits.memory.price(edits.state, asked));
}

const wordsOf = (price) => ({ words: priceText(price), whole: wholePrice(price) });

/** What a change takes back beside what it is about, in words; "" for nothing. */
export function alsoOf({ edited, edits }, id, index, then) {
  const does = ["earlier", "later"].includes(id) ? "split" : id;
  const also = takenBack(does, edited.keysOf(index), edits, then);
  return also && text(`edits.also_${also}`);
}

export function labelOf(id, on, leaf, count) {
  if (id === "reroll" && !on) return text(leaf ? "edits.reroll" : "edits.reroll_below");
  const names = { pin: "unpin", reroll: "not_reroll", hold: "not_hold" };
  return text(`edits.${on ? names[id] : id}`, { count });
}

/** A key as it is shown. */
export function keyOf(id) {
  return KEYS[id] === "Delete" ? "Del" : KEYS[id].toUpperCase();
}

export function shortened(words) {
  return words.length > LONGEST_TITLE ? `${words.slice(0, LONGEST_TITLE - 1)}…` : words;
}

/** What was changed, in words. */
export function saidOf({ edited }, added, removed) {
  const change = added ?? removed;
  if (!change) return "";
  if (!added) return text({ reroll: "edits.done_not_reroll", hold: "edits.done_not_hold" }[change.do] ?? "edits.done_undo");
  const step = edited.stepHere(change);
  if (change.do === "reroll") return text("edits.done_reroll", { step: step + 1 });
  return text(change.do === "hold" ? "edits.done_hold" : "edits.done_split", { step });
}
