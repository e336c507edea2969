// Where the pictures of a tree are, and what the lightbox is told of them.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { loadTexts } from "../../web/texts.js";
import { Tree } from "../../web/tree.js";
import { branchItem, leafItems } from "../../web/tree_items.js";
import { picturesBehind, TreePictures } from "../../web/tree_pictures.js";
import { BEGIN, FakeImage } from "./a_tree.mjs";

globalThis.Image = FakeImage;
const LIGHTBOX = { leaf: "Prompt {numbers}", branch: "Branch of {count}", preview: "preview", cut: "cut", none: "none", running: "running" };
const TREE = { prompts: "{count} prompts", prompts_one: "1 prompt", steps: "Steps {first} to {last}", more: "and {count} more" };

before(() => {
  const answer = { en: { hierdiff: { lightbox: LIGHTBOX, tree: TREE } } };
  return loadTexts({ fetchApi: async () => ({ ok: true, json: async () => answer }) }, "en");
});

const told = { run: "r", folder: "hierdiff", whole: true, files: { 0: "r-0.png", 3: "r-3.png" } };
const address = ({ filename, subfolder, type }) => `${type}/${subfolder}/${filename}`;
const done = () => Object.assign(new Tree(BEGIN), { state: "done", step: 10 });
const picturesOf = (files, options = {}) => new TreePictures({ files: () => files, address, redraw: () => {}, ...options });

test("a leaf's picture is the run's own, or a later node's; a branch's is a preview", () => {
  const tree = done();
  const pictures = picturesOf(told);
  assert.deepEqual(pictures.of(tree, 3), { url: "temp/hierdiff/r-3.png", whole: true });
  assert.deepEqual(pictures.of(tree, 0), { url: "temp/hierdiff/r-0.png", whole: false });
  assert.equal(pictures.of(tree, 1), null);
  pictures.found(tree, ["a", "b", "c", "d"].map((filename) => ({ filename, subfolder: "s", type: "output" })));
  assert.deepEqual(pictures.of(tree, 1), { url: "output/s/c", whole: true }); // the third prompt's
  assert.equal(pictures.of(tree, 3).url, "temp/hierdiff/r-3.png");
  assert.equal(picturesOf({ ...told, run: "another" }).of(tree, 3), null);
  const shrunk = picturesOf({ ...told, whole: false });
  assert.deepEqual(shrunk.of(tree, 3), { url: "temp/hierdiff/r-3.png", whole: false });
  shrunk.found(tree, ["a", "b", "c", "d"].map((filename) => ({ filename, subfolder: "s", type: "output" })));
  assert.deepEqual(shrunk.of(tree, 3), { url: "output/s/a", whole: true });
});

test("pictures behind a node are those of the nearest that shows one for each prompt", () => {
  const graph = { links: new Map() };
  const node = (id, ...targets) => {
    const links = targets.map((target, i) => {
      graph.links.set(10 * id + i, { target_id: target });
      return 10 * id + i;
    });
    return { id, graph, outputs: [{ type: "LATENT", links }, { type: "STRING", links: [999] }, { type: "IMAGE", links: null }] };
  };
  const nodes = { 1: node(1, 2, 3), 2: node(2, 1), 3: node(3, 4), 4: node(4) };
  graph.links.set(999, { target_id: 5 });
  nodes[5] = node(5);
  const images = { 2: ["x"], 4: ["a", "b"], 5: ["c", "d"] };
  const behind = (from, count) => picturesBehind(from, count, (id) => nodes[id], ({ id }) => images[id]);
  assert.deepEqual(behind(nodes[1], 2), ["a", "b"]);
  assert.deepEqual(behind(nodes[1], 1), ["x"]);
  assert.equal(behind(nodes[1], 3), null);
  assert.equal(behind(nodes[4], 2), null);
});

test("a place that is larger than the small picture gets a sharper one, once it is there", async () => {
  const asked = [];
  let drawn = 0;
  const load = async (url, pixels) => {
    asked.push([url, pixels]);
    if (url.includes("r-0")) throw new Error("gone");
    return { width: pixels, height: pixels };
  };
  const pictures = picturesOf(told, { load, redraw: () => drawn++ });
  const tree = done();
  const small = { width: 64, height: 64 };
  assert.equal(pictures.sharper(tree, 3, 40, small), null);
  assert.equal(pictures.sharper(Object.assign(done(), { state: "running" }), 3, 100, small), null);
  for (let i = 0; i < 3; i++) assert.equal(pictures.sharper(tree, 3, 100, small), null);
  pictures.sharper(tree, 0, 100, small);
  await new Promise(setImmediate);
  assert.deepEqual(asked, [["temp/hierdiff/r-3.png", 256], ["temp/hierdiff/r-0.png", 256]]);
  assert.equal(pictures.sharper(tree, 3, 100, small).width, 256);
  assert.equal(pictures.sharper(tree, 0, 100, small), null); // and it is not asked for again
  assert.deepEqual([drawn, asked.length], [1, 2]);
});

test("pictures that were drawn long ago are forgotten, and closed", async () => {
  const closed = [];
  const files = Object.fromEntries(Array.from({ length: 200 }, (_, i) => [i, `${i}.png`]));
  const tree = { ...done(), branches: Array.from({ length: 200 }, () => ({ stop: 10, members: [0] })), steps: 10, run: "r" };
  const load = async (url) => ({ width: 1, height: 1, close: () => closed.push(url) });
  const pictures = picturesOf({ ...told, files }, { load });
  for (let i = 0; i < 200; i++) {
    pictures.sharper(tree, i, 100, { width: 64, height: 64 });
    await new Promise(setImmediate);
  }
  assert.equal(pictures.drawn.size, 160);
  assert.equal(closed[0], "temp/hierdiff/0.png");
});

test("leaves tell their prompts and what their picture is not", () => {
  const tree = done();
  const items = leafItems(tree, picturesOf(told));
  assert.deepEqual(items.map(({ title }) => title), ["Prompt 3", "Prompt 1", "Prompt 2, 4"]);
  assert.deepEqual(items.map(({ text }) => text), ["owl", "cat", "dog"]);
  assert.deepEqual(items.map(({ name }) => name), ["003 owl.png", "001 cat.png", "002 dog.png"]);
  assert.deepEqual(items.map(({ note }) => note), ["none", "", "none"]); // no previews at all, and one file
  assert.deepEqual(items[2].source, { run: "r", node: "5", workflow: "w", branch: 4, prompts: [1, 3] });
});

test("a branch has its leaves below it, and says that its picture is one of the way", () => {
  const tree = done();
  tree.pictures.set(0, {});
  const item = branchItem(tree, picturesOf(told), 2);
  assert.equal(item.title, "Branch of 3 prompts · Steps 5 to 7");
  assert.equal(item.text, "cat\ndog\ndog");
  assert.deepEqual(item.leaves.map(({ text }) => text), ["cat", "dog"]);
  assert.deepEqual(item.source.prompts, [0, 1, 3]);
  assert.equal(item.note, "cut");
  const long = done();
  long.prompts = long.prompts.map((prompt) => `${prompt}!`);
  assert.equal(leafItems(long, picturesOf(told), 2).length, 2);
});

test("whole pictures need no note, previews do, and running trees say so", () => {
  const tree = done();
  tree.pictures.set(0, {});
  const note = (pictures) => leafItems(tree, pictures)[1].note;
  assert.equal(note(picturesOf(told)), "");
  assert.equal(note(picturesOf({ ...told, whole: false })), "preview");
  assert.equal(note(picturesOf(null)), "preview");
  tree.state = "running";
  assert.equal(note(picturesOf(null)), "running");
});

test("a leaf without a picture of its own shows that of the branch it grows out of", () => {
  const tree = done();
  assert.equal(tree.pictureOf(4), null);
  tree.pictures.set(2, "picture");
  assert.deepEqual([tree.pictureOf(4), tree.pictureOf(2), tree.pictureOf(1)], ["picture", "picture", null]);
});
