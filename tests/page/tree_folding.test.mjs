// Trees of which a part is folded away, searched, and what is written beside them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Tree } from "../../web/tree.js";
import { foldedTo, isTip, withFolded } from "../../web/tree_folding.js";
import { hitAt, layout, pictureBox, textLeft, xOf, yOf, zoomed } from "../../web/tree_layout.js";
import { broken, found, labelOf, linesOf, written } from "../../web/tree_texts.js";
import { neighbour } from "../../web/tree_widget.js";
import { BEGIN, fan } from "./a_tree.mjs";

const SHAPE = { width: 10, height: 10 };
const measure = (text) => 6 * text.length;
const seenOf = (...folded) => withFolded(new Tree(BEGIN), new Set(folded));

test("a folded branch takes one row, and what grew out of it none", () => {
  const seen = seenOf(2);
  assert.equal(seen.leaves, 2);
  assert.deepEqual(seen.branches.map(({ hidden }) => hidden), [false, false, false, true, true]);
  assert.deepEqual([seen.branches[0], seen.branches[1], seen.branches[2]].map(({ first, leaves }) => [first, leaves]), [[0, 2], [0, 1], [1, 1]]);
  assert.deepEqual([...seen.byRow], [1, 2]);
  assert.deepEqual(seen.promptsOf(2), ["cat", "dog", "dog"]);
  assert.deepEqual([1, 2].map((i) => isTip(seen, seen.branches[i])), [true, true]);
  assert.deepEqual([seen.at(1.5, 5), seen.at(1.5, 9.9), seen.at(1.5, 2), seen.at(2, 5)], [2, 2, 0, null]);
});

test("with the trunk folded one row is left, and a leaf cannot be folded", () => {
  assert.deepEqual([seenOf(0).leaves, seenOf(0, 2).leaves, seenOf(1).leaves], [1, 1, 3]);
  assert.equal(seenOf(1).branches[1].folded, false);
});

test("a folded tree learns what the tree learns", async () => {
  const tree = new Tree(BEGIN);
  const seen = withFolded(tree, new Set([2]));
  await tree.update({ step: 6, state: "stopped" });
  tree.pictures.set(1, "picture");
  assert.deepEqual([seen.step, seen.state, seen.pictures.get(1), seen.grown(1, 6)], [6, "stopped", "picture", 6]);
  assert.equal(withFolded(tree, new Set()), tree);
});

test("arrow keys walk what is seen", () => {
  const seen = seenOf(2);
  assert.equal(neighbour(seen, 2, "ArrowRight"), 2);
  assert.equal(neighbour(seen, 1, "ArrowDown"), 2);
  assert.equal(neighbour(seen, 2, "ArrowDown"), 2);
});

test("as much is folded as it takes, at the latest step that does", () => {
  const tree = new Tree(BEGIN);
  const rows = (most) => withFolded(tree, foldedTo(tree, most)).leaves;
  assert.deepEqual([3, 2, 1].map(rows), [3, 2, 1]);
  assert.equal(withFolded(new Tree(fan(500)), foldedTo(new Tree(fan(500)), 20)).leaves, 1);
});

test("all words that are asked for are looked for in each prompt", () => {
  const tree = new Tree({ ...BEGIN, prompts: ["red Cat", "red dog", "blue owl", "red dog"] });
  assert.deepEqual([...found(tree, "RED")], [3, 4]);
  assert.deepEqual([...found(tree, " dog  red ")], [4]);
  assert.deepEqual([...found(tree, "red owl")], []);
  assert.equal(found(tree, "  "), null);
});

test("texts never touch, and those that are urgent are among them", () => {
  const tree = new Tree(fan(500));
  for (const [width, height, row] of [[600, 300, null], [600, 300, 5], [600, 2000, 12], [900, 700, 26]]) {
    const at = layout(tree, width, height, row);
    const tips = tree.branches.filter((branch) => isTip(tree, branch));
    const urgent = new Set([7, 8, 123, 500]);
    const texts = written(tree, at, tips, (branch) => (urgent.has(branch.index) ? 0 : 1));
    const lines = Math.min(linesOf(at) * 15, at.row);
    texts.slice(1).forEach((branch, i) => assert.ok(yOf(tree, at, branch) - yOf(tree, at, texts[i]) >= Math.min(11, lines)));
    if (at.row < 11) texts.slice(1).forEach((branch, i) => assert.ok(yOf(tree, at, branch) - yOf(tree, at, texts[i]) >= 14));
    assert.ok(texts.length >= Math.min(500, Math.floor(at.content / 14) * 0.5));
    for (const index of [7, 123, 500]) assert.ok(texts.some((branch) => branch.index === index));
  }
});

test("a text is broken at words, within long ones, and ends with an ellipsis where it is cut", () => {
  assert.deepEqual(broken("one two three", 48, 3, measure), ["one two", "three"]);
  assert.deepEqual(broken("one two three four", 48, 2, measure), ["one two", "three f…"]);
  assert.deepEqual(broken("x".repeat(20), 48, 2, measure), ["x".repeat(8), `${"x".repeat(7)}…`]);
  assert.deepEqual(broken("短的提示词没有空格", 24, 5, measure), ["短的提示", "词没有空", "格"]);
  assert.deepEqual(broken("", 48, 2, measure), []);
  assert.deepEqual(broken("😀😀😀", 18, 9, measure).join(""), "😀😀😀");
  for (const line of broken("a very long prompt with several words in it", 60, 4, measure)) assert.ok(measure(line) <= 60);
});

test("a folded branch is called by its number of prompts and the first", () => {
  const seen = seenOf(2);
  assert.equal(labelOf(seen, seen.branches[2], (n) => `${n} prompts`), "3 prompts: cat …");
  assert.equal(labelOf(seen, seen.branches[1], String), "owl");
});

test("few rows use all the height, up to pictures of 256 pixels", () => {
  const tree = new Tree(BEGIN);
  tree.pictures.set(1, SHAPE);
  const at = layout(tree, 900, 600);
  assert.ok(at.content >= 598 && at.content <= 601);
  assert.ok(at.picture > 150);
  assert.ok(textLeft(at) + at.text <= 900);
  const leaf = pictureBox(tree, at, tree.branches[1], 10, SHAPE);
  assert.ok(leaf.x >= at.right && leaf.x + leaf.width <= textLeft(at));
  assert.ok(layout(tree, 900, 5000).picture <= 256);
});

test("zooming changes the rows between all in sight and as large as can be", () => {
  const at = layout(new Tree(fan(100)), 600, 300);
  const into = zoomed(at, 4);
  assert.ok(into > at.row);
  assert.equal(zoomed(layout(new Tree(fan(100)), 600, 300, into), 1 / 8), null);
  assert.equal(zoomed({ row: 300, fitting: 3 }, 10), 320);
});

test("a click at a split folds, on a line, a picture or a text it opens, and on the ground it does neither", () => {
  const tree = new Tree(BEGIN);
  tree.pictures.set(1, SHAPE);
  const at = layout(tree, 900, 600);
  const hit = (x, y) => hitAt(tree, at, x, y, 10, SHAPE);
  const trunk = tree.branches[0];
  assert.deepEqual(hit(xOf(tree, at, 4), yOf(tree, at, trunk)), { kind: "split", index: 0 });
  assert.deepEqual(hit(xOf(tree, at, 2), yOf(tree, at, trunk) + 3), { kind: "branch", index: 0 });
  assert.equal(hit(xOf(tree, at, 2), yOf(tree, at, trunk) + 60), null);
  const leaf = pictureBox(tree, at, tree.branches[1], 10, SHAPE);
  assert.deepEqual(hit(leaf.x + 5, leaf.y + 5), { kind: "branch", index: 1 });
  assert.deepEqual(hit(textLeft(at) + 20, yOf(tree, at, tree.branches[4])), { kind: "branch", index: 4 });
  assert.equal(hit(50, 5), null);
  const picture = pictureBox(tree, at, trunk, 10, SHAPE);
  assert.deepEqual(hit(picture.x + 4, picture.y + 4), { kind: "branch", index: 0 });
});
