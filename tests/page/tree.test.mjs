// The tree of a run: places of its branches, what lies where, its messages.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Tree, Trees } from "../../web/tree.js";
import { statusOf } from "../../web/tree_status.js";
import { neighbour } from "../../web/tree_widget.js";
import { loadTexts } from "../../web/texts.js";
import { BEGIN, FakeImage } from "./a_tree.mjs";

globalThis.Image = FakeImage;
const tree = () => new Tree(BEGIN);

test("siblings take rows of their own, parents the rows of their children", () => {
  const { branches, leaves, byRow } = tree();
  assert.equal(leaves, 3);
  assert.deepEqual(branches.map(({ first, leaves }) => [first, leaves]), [[0, 3], [0, 1], [1, 2], [1, 1], [2, 1]]);
  assert.deepEqual(branches.map(({ depth }) => depth), [0, 1, 1, 2, 2]);
  assert.deepEqual(branches.map(({ children }) => children), [[1, 2], [], [3, 4], [], []]);
  assert.deepEqual([...byRow], [1, 3, 4]);
});

test("trees that share nothing stand below each other", () => {
  const { branches, leaves } = new Tree({ ...BEGIN, branches: [[0, 10, -1, [0]], [0, 10, -1, [1]]] });
  assert.equal(leaves, 2);
  assert.deepEqual(branches.map(({ first }) => first), [0, 1]);
});

test("every point of the tree is of one branch, and points beside it of none", () => {
  const at = (row, step) => tree().at(row, step);
  assert.deepEqual([at(0, 3), at(2.9, 3.9), at(0.5, 5), at(1.5, 5), at(1.5, 7), at(2.5, 9.9)], [0, 0, 1, 2, 3, 4]);
  assert.deepEqual([at(-0.1, 5), at(3, 5), at(NaN, 5)], [null, null, null]);
});

test("a branch's prompts come in the order of the rows, equal ones too", () => {
  assert.deepEqual(tree().promptsOf(0), ["owl", "cat", "dog", "dog"]);
  assert.deepEqual(tree().promptsOf(2), ["cat", "dog", "dog"]);
});

test("arrow keys lead along the branches, and stay where there is nothing further", () => {
  const leads = (from, keys) => keys.reduce((index, key) => neighbour(tree(), index, key), from);
  assert.equal(leads(null, ["ArrowDown"]), 0);
  assert.equal(leads(0, ["ArrowRight"]), 1);
  assert.equal(leads(1, ["ArrowDown"]), 2);
  assert.equal(leads(2, ["ArrowRight", "ArrowDown"]), 4);
  assert.equal(leads(4, ["ArrowUp"]), 3);
  assert.equal(leads(4, ["ArrowLeft", "ArrowLeft"]), 0);
  assert.deepEqual(["ArrowLeft", "ArrowUp", "ArrowDown"].map((key) => leads(0, [key])), [0, 0, 0]);
  assert.equal(leads(4, ["ArrowRight"]), 4);
  assert.deepEqual([leads(4, ["Home"]), leads(2, ["End"])], [0, 3]);
  assert.equal(leads(2, ["Escape"]), null);
  assert.equal(leads(2, ["a"]), undefined);
});

test("numbers follow the messages; depth first each branch has steps of its own", async () => {
  const known = tree();
  assert.deepEqual([known.state, known.step, known.saved], ["running", 0, 0]);
  await known.update({ step: 5, clusters: 2, rows: 6, standard: 20 });
  assert.equal(known.saved, 0.7);
  assert.equal(known.grown(3, 4.5), 4.5);
  await known.update({ reached: [4, 10, 0, 0, 0], state: "stopped" });
  assert.deepEqual([known.grown(1, 4.5), known.grown(3, 4.5), known.step, known.state], [10, 0, 5, "stopped"]);
});

test("pictures are cut out of their sheet, and a sheet that is broken leaves the others", async () => {
  const known = tree();
  const sheet = { branches: [4, 0, 2], width: 8, height: 6, columns: 2, image: "data" };
  await known.update({ tiles: [{ ...sheet, branches: [3], image: "broken" }, sheet] });
  assert.deepEqual([...known.pictures.keys()], [4, 0, 2]);
  const { image, ...place } = known.pictures.get(2);
  assert.equal(image.src, "data");
  assert.deepEqual(place, { x: 0, y: 6, width: 8, height: 6 });
});

test("a run is known from its beginning, or from what the server kept of it", async () => {
  const trees = new Trees();
  const heard = [];
  trees.listeners.add((known) => heard.push([known.run, known.step]));
  assert.equal(await trees.receive({ kind: "progress", run: "r", step: 1 }), false);
  assert.equal(await trees.receive(BEGIN), true);
  assert.equal(await trees.receive({ kind: "progress", run: "r", step: 1 }), true);
  assert.equal(await trees.receive({ ...BEGIN, kind: "snapshot", run: "s", workflow: null, step: 4 }), true);
  assert.deepEqual(heard, [["r", 0], ["r", 0], ["r", 1], ["s", 4], ["s", 4]]);
  assert.deepEqual([trees.get("w", "5").run, trees.get("other", "5").run, trees.get("w", "6")], ["r", "s", null]);
  assert.ok(trees.get("w", "5").order < trees.get("other", "5").order);
});

test("a run takes the place of the one before at its node", async () => {
  const trees = new Trees();
  await trees.receive(BEGIN);
  await trees.receive({ ...BEGIN, run: "next" });
  assert.equal(trees.get("w", "5").run, "next");
  assert.equal(await trees.receive({ kind: "end", run: "r", state: "done" }), false);
});

test("the bar ends with what was measured on this model, where something can be lost", async () => {
  const english = { status: "Step {step}", measured_none: "no visible loss", measured_unknown: "about {passes} passes" };
  await loadTexts({ fetchApi: async () => ({ ok: true, json: async () => ({ en: { hierdiff: { tree: english } } }) }) }, "en");
  const bar = (measured) => statusOf(new Tree({ ...BEGIN, measured }));
  assert.equal(bar({ verdict: "none", passes: 9 }), "Step 0 · no visible loss");
  assert.equal(bar({ verdict: "unknown", passes: 9 }), "Step 0 · about 9 passes");
  assert.deepEqual([bar(null), bar(undefined)], ["Step 0", "Step 0"]);
});
