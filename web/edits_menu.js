// What is offered for a leaf or a branch of a tree, and why something is not: for the menu, the keys and the lightbox.

import { alike, changeOf } from "./edits.js";
import { tipsOf } from "./edits_tree.js";
import { entryOf } from "./prompt_source.js";

export const KEYS = {
  pin: "p",
  reroll: "r",
  edit: "e",
  duplicate: "d",
  variants: "v",
  remove: "Delete",
  earlier: "[",
  later: "]",
  hold: "h",
};
const LEAF = ["pin", "reroll", "edit", "duplicate", "variants", "remove"];
const BRANCH = ["earlier", "later", "hold", "reroll", "pin"];
const OF_PROMPTS = ["edit", "duplicate", "variants", "remove"];

/**
 * What there is to do with a branch: [{id, key, on, problem: key of a text or ""}], `on` where it is asked for already.
 *
 * @param state  {edited: EditedTree or null, edits, problem: why no branch can be changed, or "", source: of
 *               `sourceOf`, written: of `writtenSince`, noVariants: whether there is no such node}
 */
export function offers(state, index) {
  const { tree } = state;
  const leaf = tree.branches[index].stop === tree.steps;
  const ids = leaf ? LEAF : BRANCH;
  const apart = leaf && state.edited?.canSplit(index) ? ["earlier"] : [];
  return [...ids, ...apart].map((id) => ({ id, key: KEYS[id], on: isOn(state, id, index), problem: problemOf(state, id, index) }));
}

function isOn({ edited, edits }, id, index) {
  if (!edited || !edits) return false;
  if (id === "pin") return edited.isPinned(edits, index);
  if (id === "reroll") return edited.rerollOf(edits, index)?.ran === false; // one that ran is drawn once more
  return id === "hold" && Boolean(changeOf(edits, "hold", edited.keysOf(index)));
}

/** Why something cannot be done: the key of a text, or "". */
export function problemOf(state, id, index) {
  if (state.tree.state === "running") return "running";
  if (OF_PROMPTS.includes(id)) return promptProblem(state, id, index);
  if (state.problem) return state.problem;
  const { edited, edits, tree } = state;
  const { start } = tree.branches[index];
  if (id === "reroll" && !edited.freeKeys(edits, index).length) return "pinned";
  if (!["earlier", "later", "hold"].includes(id)) return "";
  const free = id === "hold" ? edited.freeKeys(edits, index).length === edited.keysOf(index).length : edited.canMoveSplit(edits, index);
  if (!free) return "pinned_below";
  if (id === "earlier" && start >= edited.splitStep(edits, index)) return "earliest";
  const latest = edited.latestSplit(edits, index);
  if (id !== "later" || edited.splitStep(edits, index) < latest) return "";
  return latest < tree.steps - 1 ? "pinned_below" : "latest";
}

function promptProblem(state, id, index) {
  const { source, tree } = state;
  if (source.problem) return source.problem;
  const { members } = tree.branches[index];
  if (id === "variants" && source.alone) return "variants_alone";
  if (id === "variants") return state.noVariants ? "variants_missing" : state.written?.removed.size || state.written?.added ? "unrun" : "";
  if (new Set(members.map((number) => tree.prompts[number])).size > 1) return "several";
  if (["edit", "remove"].includes(id) && state.edited && state.edits && state.edited.isPinned(state.edits, index)) return "pinned";
  const found = entryOf(source, tree.prompts, numberOf(state, index), state.written);
  if (found.problem) return found.problem;
  if (id !== "edit" && found.entry.one === false) return "pictures";
  return "";
}

/** The prompt of a leaf that is meant where several are equal: the last one left, so that a duplicate is changed. */
export function numberOf({ tree, written }, index) {
  const { members } = tree.branches[index];
  return members.findLast((number) => !written?.removed.has(number)) ?? members.at(-1);
}

/** What has been asked for in the branches of a tree, to be drawn: Map of branch index -> {pinned, reroll, split, text, removed}. */
export function marksOf(state) {
  const { edited, edits, tree, written } = state;
  const marks = new Map();
  const mark = (index, found) => marks.set(index, { ...marks.get(index), ...found });
  const tips = written?.changed.size || written?.removed.size ? tipsOf(tree) : [];
  if (edited && edits) for (const change of edits.changes) markChange(edited, change, mark);
  for (const [number, words] of written?.changed ?? []) mark(tips[number], { text: words });
  for (const number of written?.removed ?? []) {
    const { index, members } = tree.branches[tips[number]];
    if (members.every((member) => written.removed.has(member))) mark(index, { removed: true });
  }
  return marks;
}

function markChange(edited, change, mark) {
  const ran = edited.before.some((before) => alike(before, change));
  if (change.do === "pin") {
    for (const key of change.prompts) for (const index of edited.branchesOf([key])) mark(index, { pinned: ran ? "ran" : "new" });
  } else if (change.do === "reroll") {
    const reroll = { step: edited.stepHere(change), number: change.number, ran };
    for (const index of edited.branchesOf(change.prompts)) mark(index, { reroll });
  } else if (!ran) {
    const splits = change.do === "hold" ? edited.branchesOf(change.prompts) : edited.splitsOf(change.prompts);
    for (const index of splits) mark(index, { split: edited.stepHere(change) });
  }
}

/** All that what is offered depends on, as a list. */
export function knownOf(state) {
  if (!state) return [];
  const { tree, told, problem, text: words, source, before, varied, isAnew, kept, noVariants } = state;
  return [tree.run, tree.state, told?.promptId, problem, words, source.problem, source.widget?.value, before, varied.length, isAnew, kept, noVariants];
}
