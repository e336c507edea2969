// What can be asked of a branch of a tree: which prompts it means, from which step on, and what that changes. No page.

import { changeOf, difference, held, notRerolled, pinned, pinnedOf, rerolled, sameKeys, splitMoved, splitOf, without } from "./edits.js";

/**
 * A tree with what its run told of its prompts.
 *
 * @param tree    Tree
 * @param keys    of its prompts, in their order: 16 hexadecimal digits each
 * @param before  changes that its run had
 * @param last    the last step at which a reroll changes a picture with this sampler, where the run has told it
 */
export class EditedTree {
  constructor(tree, keys, before = [], last = null) {
    Object.assign(this, { tree, keys, before, byBranch: new Map() });
    const isStep = Number.isInteger(last) && last >= 0 && last < tree.steps;
    this.last = isStep ? last : Math.max(tree.steps - 2, 0); // many samplers draw no noise in their last step
  }

  isLeaf(index) {
    return this.tree.branches[index].stop === this.tree.steps;
  }

  /** Numbers of a branch's prompts. */
  numbersOf(index) {
    const { first, leaves } = this.tree.branches[index];
    return Array.from(this.tree.byRow.subarray(first, first + leaves)).flatMap((tip) => this.tree.branches[tip].members);
  }

  keysOf(index) {
    if (!this.byBranch.has(index)) {
      this.byBranch.set(index, [...new Set(this.numbersOf(index).map((number) => this.keys[number]))].sort());
    }
    return this.byBranch.get(index);
  }

  /** What grows out of a branch, as lists of keys; of a leaf that different prompts share, each of them. */
  partsOf(index) {
    const { children } = this.tree.branches[index];
    return children.length ? children.map((child) => this.keysOf(child)) : this.keysOf(index).map((key) => [key]);
  }

  /** The branches that are of exactly these prompts: equal prompts that are apart have a branch each. */
  branchesOf(keys) {
    this.numbers ??= grouped(this.keys);
    const found = new Set();
    for (const number of this.numbers.get(keys[0]) ?? []) {
      let index = this.tipOf(number);
      while (index >= 0 && this.keysOf(index).length < keys.length) index = this.tree.branches[index].parent;
      if (index >= 0 && sameKeys(this.keysOf(index), keys)) found.add(index);
    }
    return [...found];
  }

  /** The branches out of which exactly these prompts grow apart. */
  splitsOf(keys) {
    const above = this.branchesOf(keys).map((index) => this.tree.branches[index].parent).filter((index) => index >= 0);
    if (above.length || keys.length > 1) return above;
    return (this.numbers.get(keys[0]) ?? []).map((number) => this.tipOf(number)).filter((index) => this.canSplit(index));
  }

  tipOf(number) {
    this.tips ??= tipsOf(this.tree);
    return this.tips[number];
  }

  canSplit(index) {
    return this.partsOf(index).length > 1;
  }

  /** From which step on a branch is rerolled if nobody says: where it parts from the others, while that has an effect. */
  ownStep(index) {
    return Math.min(this.tree.branches[index].start, this.last);
  }

  /** The reroll of a branch that is asked for: {step, number, ran: whether the run had it} or null. */
  rerollOf(edits, index) {
    const keys = this.freeKeys(edits, index);
    const change = keys.length ? changeOf(edits, "reroll", keys) : null;
    if (!change) return null;
    const { added } = difference({ changes: [change] }, this.before);
    return { step: this.stepHere(change), number: change.number, ran: !added.length };
  }

  /** Where the split of a branch is asked for, in steps of this tree. */
  splitStep(edits, index) {
    const step = splitOf(edits, this.partsOf(index));
    return step ?? this.tree.branches[index].stop;
  }

  /** The step of a change in this tree, whose run may have had another number of steps. */
  stepHere({ step, of }) {
    return of === this.tree.steps ? step : Math.min(Math.round((step * this.tree.steps) / of), this.tree.steps);
  }

  /** Keys of a branch that are not pinned. */
  freeKeys(edits, index) {
    const fixed = pinnedOf(edits);
    return this.keysOf(index).filter((key) => !fixed.has(key));
  }

  isPinned(edits, index) {
    const fixed = pinnedOf(edits);
    return this.keysOf(index).every((key) => fixed.has(key));
  }

  // --- changes: edits in, edits out ---

  pin(edits, index) {
    return pinned(edits, this.keysOf(index), !this.isPinned(edits, index));
  }

  reroll(edits, index, step = this.ownStep(index)) {
    const keys = this.freeKeys(edits, index);
    return rerolled(edits, keys, within(step, 0, this.tree.steps - 1), this.tree.steps, this.before);
  }

  /** Reroll where nothing is asked for yet, or what was rerolled by the run once more; else take it back. */
  toggleReroll(edits, index) {
    const asked = this.rerollOf(edits, index);
    if (!asked) return this.reroll(edits, index);
    return asked.ran ? this.reroll(edits, index, asked.step) : notRerolled(edits, this.freeKeys(edits, index), this.before);
  }

  moveSplit(edits, index, step) {
    const { tree } = this;
    const { start, stop } = tree.branches[index];
    const parts = this.partsOf(index);
    const fixed = this.fixedParts(edits, index);
    const others = parts.filter((part) => !fixed.includes(part));
    const to = within(step, start, this.latestSplit(edits, index));
    return splitMoved(edits, [...others, ...fixed], to, tree.steps, stop, fixed.length > 0);
  }

  /** What grows out of a branch and has pinned prompts. */
  fixedParts(edits, index) {
    const fixed = pinnedOf(edits);
    return fixed.size ? this.partsOf(index).filter((part) => part.some((key) => fixed.has(key))) : [];
  }

  /** Whether the split of a branch can be moved while what is pinned stays as it is: by moving the others. */
  canMoveSplit(edits, index) {
    return this.fixedParts(edits, index).length < 2;
  }

  /** How late a branch may split: beside what is pinned one other part goes along, up to its own next split. */
  latestSplit(edits, index) {
    const { branches, steps } = this.tree;
    const { stop, children } = branches[index];
    const fixed = this.fixedParts(edits, index);
    if (!fixed.length) return steps - 1;
    if (children.length !== 2) return stop;
    const [other] = this.partsOf(index).flatMap((part, i) => (fixed.includes(part) ? [] : [children[i]]));
    return Math.max(stop, (branches[other]?.stop ?? stop) - 1);
  }

  /** Hold a branch together up to the next split in it, or where there is none half of the way; or let it go again. */
  hold(edits, index) {
    const keys = this.keysOf(index);
    if (changeOf(edits, "hold", keys)) return without(edits, "hold", keys);
    const { branches, steps } = this.tree;
    const { stop, children } = branches[index];
    const next = Math.min(...children.map((child) => branches[child].stop));
    return held(this.moveSplit(edits, index, stop), keys, within(next < steps ? next : Math.ceil((stop + steps) / 2), 1, steps - 1), steps);
  }
}

/** The branch that each prompt of a tree ends in. */
export function tipsOf(tree) {
  const tips = [];
  for (const index of tree.byRow) for (const member of tree.branches[index].members) tips[member] = index;
  return tips;
}

function grouped(keys) {
  const numbers = new Map();
  keys.forEach((key, number) => numbers.get(key)?.push(number) ?? numbers.set(key, [number]));
  return numbers;
}

function within(value, least, most) {
  return Math.min(Math.max(Math.round(value), least), most);
}
