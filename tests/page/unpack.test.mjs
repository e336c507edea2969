// HierDiff Set becomes the nodes that it stands for, in a graph of a few lines.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

globalThis.document ??= {};
const { partsOf, unpack } = await import("../../web/unpack.js");
const parts = JSON.parse(readFileSync(new URL("../../web/set_parts.json", import.meta.url)));
const SOCKETS = { model: 1, clip: 1, vae: 1, prompts: 1, latent_image: 1 };
const WIDGETS = {
  text: "a cat",
  negative: "blur",
  width: 128,
  height: 64,
  steps: 9,
  cfg: 3,
  sampler_name: "euler",
  scheduler: "simple",
  seed: 5,
  control_after_generate: "randomize",
  measure: "use what is known",
  denoise: 0.5,
  micro_batch: 2,
  saving: 1.5,
  keep: true,
  edits: "{}",
};

class Graph {
  nodes = [];
  groups = [];
  links = {};
  last = 0;

  add(node) {
    node.id = ++this.last;
    node.graph = this;
    this.nodes.push(node);
  }

  remove(node) {
    this.nodes = this.nodes.filter((other) => other !== node);
  }

  getNodeById(id) {
    return this.nodes.find((node) => node.id === id);
  }
}

/** A node with all the inputs that anything asks for: sockets, and widgets by their names. */
function makeNode(type, widgets = {}, names = []) {
  return {
    type,
    pos: [0, 0],
    size: [300, 200],
    inputs: [...new Set([...names, ...Object.keys(widgets)])].map((name) => ({ name, link: null })),
    outputs: [0, 1, 2, 3].map(() => ({ links: [] })),
    widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })),
    connect(slot, target, input) {
      const id = ++this.graph.last;
      this.graph.links[id] = { origin_id: this.id, origin_slot: slot, target_id: target.id, target_slot: input };
      this.outputs[slot].links.push(id);
      target.inputs[input].link = id;
    },
  };
}

function create(type) {
  const part = Object.values(parts).find((other) => other.type === type);
  const names = [...Object.keys(part.inputs), ...Object.keys(part.values ?? {}), ...Object.keys(part.marks ?? {})];
  return makeNode(type, Object.fromEntries([...names, "control_after_generate"].map((name) => [name, null])), names);
}

function scene(changes = {}, linked = ["model", "clip", "vae"]) {
  const graph = new Graph();
  const loader = makeNode("Loader");
  const set = makeNode("HierDiffSet", { ...WIDGETS, ...changes }, Object.keys(SOCKETS));
  const save = makeNode("Save", {}, ["images", "prompts"]);
  for (const node of [loader, set, save]) graph.add(node);
  const slot = (name) => set.inputs.findIndex((input) => input.name === name);
  linked.forEach((name, i) => loader.connect(i % 3, set, slot(name)));
  set.connect(0, save, 0);
  return { graph, loader, set, save };
}

const value = (node, name) => node.widgets.find((widget) => widget.name === name)?.value;

function sourceOf(graph, node, name) {
  const link = graph.links[node.inputs.find((input) => input.name === name).link];
  return link && [graph.getNodeById(link.origin_id), link.origin_slot];
}

test("all parts that the images need stand in the node's place, with its values and links", () => {
  const { graph, loader, set, save } = scene();
  const made = unpack(set, parts, create);
  assert.deepEqual([...made.keys()], ["prompts", "negative", "positive", "linkage", "latent", "plan", "sampler", "decoded"]);
  assert.ok(!graph.nodes.includes(set));
  assert.equal(value(made.get("prompts"), "text"), "a cat");
  assert.equal(value(made.get("negative"), "value"), "blur");
  assert.deepEqual(sourceOf(graph, made.get("positive"), "negative_prompt"), [made.get("negative"), 0]);
  assert.deepEqual(sourceOf(graph, made.get("sampler"), "negative"), [made.get("positive"), 2]);
  assert.deepEqual(["width", "height", "batch_size"].map((name) => value(made.get("latent"), name)), [128, 64, 1]);
  assert.equal(value(made.get("plan"), "saving"), 1.5);
  assert.equal(value(made.get("sampler"), "control_after_generate"), "randomize");
  for (const name of ["cfg", "sampler_name", "scheduler", "seed", "denoise", "micro_batch", "keep", "edits"]) {
    assert.equal(value(made.get("sampler"), name), WIDGETS[name], name);
  }
  assert.deepEqual(sourceOf(graph, made.get("sampler"), "model"), [loader, 0]);
  assert.deepEqual(sourceOf(graph, made.get("sampler"), "plan"), [made.get("plan"), 0]);
  assert.deepEqual(sourceOf(graph, made.get("positive"), "clip"), [loader, 1]);
  assert.deepEqual(sourceOf(graph, save, "images"), [made.get("decoded"), 0]);
  const places = [...made.values()].map(({ pos }) => String(pos));
  assert.equal(new Set(places).size, made.size);
});

test("what is connected takes the place of a part, and what is used is there", () => {
  const { graph, loader, set, save } = scene({}, ["model", "clip", "vae", "prompts", "latent_image", "seed"]);
  set.connect(1, save, 1);
  const other = makeNode("Show", {}, ["text"]);
  graph.add(other);
  set.connect(3, other, 0);
  const made = unpack(set, parts, create);
  assert.ok(!made.has("prompts") && !made.has("latent") && made.has("report"));
  assert.deepEqual(sourceOf(graph, save, "prompts"), [loader, 0]);
  assert.deepEqual(sourceOf(graph, made.get("positive"), "prompts"), [loader, 0]);
  assert.deepEqual(sourceOf(graph, made.get("sampler"), "latent_image"), [loader, 1]);
  assert.deepEqual(sourceOf(graph, made.get("sampler"), "seed"), [loader, 2]);
  assert.deepEqual(sourceOf(graph, other, "text"), [made.get("report"), 0]);
});

test("measuring first is a part, for the mark that the slider is at", () => {
  const { graph, set } = scene({ measure: "measure first" });
  assert.ok(partsOf(set, parts).includes("advisor"));
  const made = unpack(set, parts, create);
  assert.equal(value(made.get("advisor"), "value"), 12);
  assert.equal(value(made.get("advisor"), "control_after_generate"), "fixed");
  assert.deepEqual(sourceOf(graph, made.get("plan"), "advice"), [made.get("advisor"), 1]);
});

test("what stands right of the node makes room, and the frame around it becomes wider", () => {
  const { graph, loader, set, save } = scene();
  loader.pos = [-400, 0];
  save.pos = [350, 10];
  graph.groups = [
    { pos: [-15, -80], size: [330, 400] },
    { pos: [340, -80], size: [330, 400] },
  ];
  const made = [...unpack(set, parts, create).values()];
  const right = Math.max(...made.map(({ pos, size }) => pos[0] + size[0]));
  const [around, next] = graph.groups;
  assert.deepEqual(loader.pos, [-400, 0]);
  assert.ok(around.pos[0] + around.size[0] > right);
  assert.ok(next.pos[0] > around.pos[0] + around.size[0]);
  assert.deepEqual([save.pos[0] - next.pos[0], save.pos[1]], [10, 10]);
});
