// Where the prompts of a tree come from, and what changes when one is rewritten, doubled, taken out or varied.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { keeperOf } from "../../web/edits_page.js";
import { addVariants, numbersIn, originalOf, placeOf, shifted, whichOf } from "../../web/edits_variants.js";
import { entriesOf, entryOf, escaped, sourceOf, withEntry, writtenSince } from "../../web/prompt_source.js";
import { blankRow, rowsOfText, tableText } from "../../web/prompt_table_text.js";

/** A graph of nodes {id, type, inputs: {name: [id, slot]}, widgets: {name: value}}. */
function graphOf(described, root = null) {
  const graph = { nodes: [], links: new Map(), getNodeById: (id) => graph.nodes.find((node) => node.id === Number(id)) ?? null, add };
  function add(node) {
    node.id ??= 1000 + graph.nodes.length;
    node.graph = graph;
    graph.nodes.push(node);
  }
  let last = 0;
  const connect = function (slot, target, input) {
    const id = ++last;
    graph.links.set(id, { id, origin_id: this.id, origin_slot: slot, target_id: target.id, target_slot: input });
    const before = graph.links.get(target.inputs[input].link);
    const origin = before && graph.getNodeById(before.origin_id);
    if (origin) origin.outputs[before.origin_slot].links = origin.outputs[before.origin_slot].links.filter((link) => link !== before.id);
    target.inputs[input].link = id;
    (this.outputs[slot].links ??= []).push(id);
  };
  graph.make = ({ id, type, inputs = {}, widgets = {}, subgraph }) => ({
    ...{ id, type, comfyClass: type, subgraph, pos: [0, 0], size: [100, 50], connect, outputs: [{ links: [] }, { links: [] }] },
    inputs: Object.keys(inputs).map((name) => ({ name, link: null })),
    widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })),
  });
  for (const each of described) add(graph.make(each));
  for (const { id, inputs = {} } of described) {
    Object.values(inputs).forEach((origin, slot) => {
      if (origin) graph.getNodeById(origin[0]).connect(origin[1], graph.getNodeById(id), slot);
    });
  }
  graph.root = root ?? graph;
  return graph;
}

const chain = (text, more = []) =>
  graphOf([
    { id: 1, type: "HierDiffPromptSet", widgets: { text } },
    { id: 2, type: "HierDiffPriorEmbedding", inputs: { prompts: [1, 0] } },
    { id: 3, type: "HierDiffThresholdSchedule", inputs: { linkage: [2, 0] } },
    { id: 4, type: "HierDiffBranchingSampler", inputs: { embeddings: [2, 0], plan: [3, 0] } },
    { id: 5, type: "HierDiffContactSheet", inputs: { prompts: [1, 0] } },
    ...more,
  ]);

test("prompts are found upstream, of several nodes the one that has them", () => {
  const graph = chain("a cat\na dog");
  const sampler = graph.getNodeById(4);
  assert.equal(sourceOf(sampler, ["a cat", "a dog"], graph).node, graph.getNodeById(1));
  const two = graphOf([
    { id: 1, type: "HierDiffPromptSet", widgets: { text: "a cat" } },
    { id: 2, type: "HierDiffPromptSet", widgets: { text: "ugly" } },
    { id: 4, type: "HierDiffKSampler", inputs: { negative: [2, 0], positive: [1, 0] } },
  ]);
  assert.equal(sourceOf(two.getNodeById(4), ["a cat"], two).node.id, 1);
  assert.equal(sourceOf(two.getNodeById(1), ["a cat"], two).problem, "source_none");
  two.getNodeById(1).inputs.push({ name: "text", link: 7, widget: { name: "text" } });
  assert.equal(sourceOf(two.getNodeById(4), ["a cat"], two).node.id, 2); // the text of the other comes from elsewhere
  two.getNodeById(2).widgets = [];
  assert.equal(sourceOf(two.getNodeById(4), ["a cat"], two).problem, "source_linked");
});

test("prompts are found through the edges of subgraphs, in and out", () => {
  const inner = graphOf([{ id: 1, type: "HierDiffPromptSet", widgets: { text: "a cat" } }]);
  inner.links.set(9, { origin_id: 1, origin_slot: 0 });
  inner.outputNode = { slots: [{ linkIds: [9] }] };
  const sampling = graphOf([{ id: 1, type: "HierDiffKSampler", inputs: { plan: null } }]);
  sampling.links.set(8, { origin_id: -10, origin_slot: 0 });
  sampling.getNodeById(1).inputs[0].link = 8;
  const root = graphOf([
    { id: 3, type: "uuid", subgraph: inner },
    { id: 4, type: "uuid2", inputs: { plan: [3, 0] }, subgraph: sampling },
  ]);
  assert.equal(sourceOf(sampling.getNodeById(1), ["a cat"], root).node, inner.getNodeById(1));
  root.getNodeById(3).mode = 4;
  assert.equal(sourceOf(sampling.getNodeById(1), ["a cat"], root).problem, "source_none"); // bypassed with all that is in it
  const twice = graphOf([
    { id: 3, type: "uuid", subgraph: inner },
    { id: 4, type: "uuid2", inputs: { plan: [3, 0] }, subgraph: sampling },
    { id: 5, type: "uuid2", inputs: { plan: [3, 0] }, subgraph: sampling },
  ]);
  assert.equal(sourceOf(sampling.getNodeById(1), ["a cat"], twice).problem, "source_none"); // of which of the two?
});

test("edits of a sampler of the host are kept where its model comes from, not by a sampler before it", () => {
  const widgets = { keep: false, edits: "" };
  const graph = graphOf([
    { id: 1, type: "HierDiffShareSteps", widgets },
    { id: 2, type: "HierDiffKSampler", widgets },
    { id: 3, type: "LoraLoader", inputs: { model: [1, 0] } },
    { id: 4, type: "KSampler", inputs: { latent_image: [2, 0], model: [3, 0] } },
    { id: 5, type: "KSampler", inputs: { latent_image: [2, 0] } },
  ]);
  const types = { model: "MODEL", latent_image: "LATENT" };
  for (const node of graph.nodes) for (const input of node.inputs) input.type = types[input.name];
  assert.deepEqual([4, 2, 5].map((id) => keeperOf(graph.getNodeById(id), graph)?.id ?? null), [1, 2, null]);
});

const setOf = (text) => ({ kind: "HierDiffPromptSet", widget: { value: text } });
const tableOf = (...rows) => ({ kind: "HierDiffPromptTable", widget: { value: tableText(rows.map(blankRow)) } });
const ODD = "# note\r\n a  cat \r\n\r\n/* one\ntwo */\n{a|b} dog\n\\# 5\n\\//x\na cat\nsee __animal__\n/* all */\nlast";

test("lines are read as the server reads them", () => {
  assert.deepEqual(entriesOf(setOf(ODD)).map(({ place, text }) => [place, text]), [[1, "a cat"], [5, null], [6, "# 5"], [7, "//x"], [8, "a cat"], [9, null], [11, "last"]]);
  assert.deepEqual(entriesOf(setOf("")), []);
});

test("a prompt is found in its line: equal ones in their order, expanded ones not", () => {
  const texts = ["a cat", "a dog", "b dog", "# 5", "a cat"];
  assert.deepEqual([0, 4, 3].map((number) => entryOf(setOf(ODD), texts, number).entry.place), [1, 8, 6]);
  assert.equal(entryOf(setOf(ODD), texts, 1).problem, "source_expanded");
  assert.equal(entryOf(setOf("a\nb"), ["c"], 0).problem, "source_gone");
});

test("a line is rewritten, doubled and taken out, and the rest stays as it is", () => {
  const source = setOf("one\r\ntwo\r\n\r\n# three");
  const [, second] = entriesOf(source);
  assert.equal(withEntry(source, second, "{new}  line\n# more"), "one\r\n\\{new\\} line # more\r\n\r\n# three");
  assert.equal(withEntry(source, second, "two", true), "one\r\ntwo\r\ntwo\r\n\r\n# three");
  assert.equal(withEntry(source, second, null), "one\r\n\r\n# three");
  assert.equal(withEntry(source, entriesOf(source)[0], null), "two\r\n\r\n# three");
  assert.equal(withEntry(setOf("only"), { place: 0 }, null), "");
  assert.equal(withEntry(setOf("only"), { place: 0 }, "twice", true), "only\ntwice");
  for (const text of ["# a", "//b", "/*c", "a|b", "{x}", "plain"]) {
    assert.deepEqual(entriesOf(setOf(escaped(text))).map((entry) => entry.text), [text]);
  }
});

test("a row is rewritten with all that is its own", () => {
  const source = tableOf({ prompt: "a cat", seed: "7" }, { prompt: "off", on: "0" }, { prompt: "a dog", pictures: "3" });
  const texts = ["a cat", "a dog", "a dog", "a dog"];
  const { entry } = entryOf(source, texts, 0);
  assert.deepEqual(rowsOfText(withEntry(source, entry, "a\tlion")).map(({ prompt, seed }) => [prompt, seed]), [["a lion", "7"], ["off", ""], ["a dog", ""]]);
  assert.deepEqual(rowsOfText(withEntry(source, entry, "# cat", true)).map(({ prompt, seed }) => [prompt, seed]).slice(0, 2), [["a cat", "7"], ["# cat", "7"]]);
  assert.deepEqual(rowsOfText(withEntry(source, entry, null)).map(({ prompt }) => prompt), ["off", "a dog"]);
  assert.deepEqual([entry.one, entryOf(source, texts, 3).entry.one], [true, false]);
});

test("what was written since a run is told from its text", () => {
  const texts = ["one", "two", "two", "three"];
  const before = "one\ntwo\ntwo\nthree";
  const since = (text) => {
    const { changed, removed, added } = writtenSince(setOf(text), texts, before);
    return [[...changed], [...removed], added];
  };
  assert.deepEqual(since(before), [[], [], 0]);
  assert.deepEqual(since("one\ntwo\nnew\nthree"), [[[2, "new"]], [], 0]);
  assert.deepEqual(since("one\ntwo\nthree"), [[], [2], 0]);
  assert.deepEqual(since("one\none\ntwo\ntwo\nthree"), [[], [], 1]);
  assert.deepEqual(since("ONE\ntwo\ntwo\nfour\nthree\nfive"), [[[0, "ONE"]], [], 2]);
  assert.deepEqual(since(""), [[], [0, 1, 2, 3], 0]);
  assert.deepEqual(writtenSince(setOf("x"), texts, undefined).added, 0); // nobody knows what the run had
  const pictures = tableOf({ prompt: "a dog", pictures: "3" });
  const kept = pictures.widget.value;
  pictures.widget.value = kept.replace("a dog", "a wolf");
  assert.deepEqual([...writtenSince(pictures, ["a dog", "a dog", "a dog"], kept).changed.keys()], [0, 1, 2]);
});

// --- variants ---

test("numbers are named as people do", () => {
  assert.deepEqual(numbersIn("1, 3-5,8"), [1, 3, 4, 5, 8]);
  assert.deepEqual(numbersIn("0、2–3；5 7,"), [0, 2, 3, 5, 7]);
  assert.deepEqual([numbersIn(" "), numbersIn("a"), numbersIn("1-9999999")], [null, undefined, undefined]);
  assert.equal(whichOf([5, 0, 3, 4, 8, 9, 8]), "0, 3-5, 8, 9");
});

test("a variant is told from what it is one of", () => {
  const numbers = (nodes, count) => Array.from({ length: count }, (_, number) => originalOf(nodes, number));
  assert.deepEqual(numbers([{ which: "1", count: 2 }], 5), [0, 1, 1, 1, 2]);
  assert.deepEqual(numbers([{ which: "", count: 1 }], 4), [0, 0, 1, 1]);
  assert.deepEqual(numbers([{ which: "0", count: 2 }, { which: "0, 1", count: 1 }], 6), [0, 0, 0, 0, 1, 2]); // a variant gets none
  assert.deepEqual(numbers([{ which: "0", count: 2 }, { which: "", count: 1 }], 7), [0, 0, 0, 0, 1, 1, 2]);
  assert.equal(placeOf([{ which: "0", count: 2 }, { which: "3", count: 1 }], 2), 5);
  for (const settings of [{ which: "1, 2", count: 2 }, { which: "", count: 3 }, { which: "0", count: 0 }]) {
    for (let number = 0; number < 5; number++) assert.equal(originalOf([settings], placeOf([settings], number)), number);
  }
});

test("variants are asked of a node behind the source, which takes more of the same and is varied for one alone", () => {
  const graph = chain("a\nb\nc");
  const create = (type) => graph.make({ type, inputs: { prompts: null }, widgets: { which: "", count: 1, part_at: 0.5 } });
  const source = () => sourceOf(graph.getNodeById(4), ["a", "b", "c"], graph);
  const values = (node) => node.widgets.map(({ value }) => value);
  const node = addVariants(source(), { number: 1, count: 4, part_at: 0.25 }, create);
  assert.deepEqual(values(node), ["1", 4, 0.25]);
  const { which } = JSON.parse(readFileSync(new URL("../../locales/en/nodeDefs.json", import.meta.url))).HierDiffVariants.inputs;
  assert.match(which.tooltip, /the first is 0/); // what the node says that it takes
  const from = (id, input) => graph.links.get(graph.getNodeById(id).inputs[input].link).origin_id;
  assert.deepEqual([from(2, 0), from(5, 0), graph.links.get(node.inputs[0].link).origin_id], [node.id, node.id, 1]);
  assert.deepEqual(source().variants, [node]);
  assert.equal(addVariants(source(), { number: 6, count: 4, part_at: 0.25 }, create), node); // the third prompt, behind four variants
  assert.deepEqual(values(node), ["1, 2", 4, 0.25]);
  node.widgets[0].value = "1";
  addVariants(source(), { number: 3, count: 2, part_at: 0.5 }, create); // a variant: of what it is one of
  assert.deepEqual(values(node), ["1", 2, 0.5]);
  const other = addVariants(source(), { number: 4, count: 7, part_at: 0.5 }, create); // the third, behind two variants
  assert.deepEqual(values(other), ["4", 7, 0.5]);
  assert.deepEqual(source().variants, [node, other]);
  assert.equal(addVariants(source(), { number: 1, count: 5, part_at: 0.5 }, create), node);
  assert.deepEqual([values(node), values(other)], [["1", 5, 0.5], ["7", 7, 0.5]]); // still the third
  assert.equal(addVariants({ node: {}, variants: [] }, { number: 0, count: 1, part_at: 0 }, () => null), null);
});

test("what is bypassed or muted takes no part, though the way leads through it", () => {
  const graph = chain("a cat\na dog");
  const sampler = graph.getNodeById(4);
  const source = () => sourceOf(sampler, ["a cat", "a dog"], graph);
  const node = addVariants(source(), { number: 1, count: 4, part_at: 0.25 }, (type) =>
    graph.make({ type, inputs: { prompts: null }, widgets: { which: "", count: 3, part_at: 0.5 } }),
  );
  assert.deepEqual(source().variants, [node]);
  for (const mode of [2, 4]) {
    node.mode = mode;
    assert.deepEqual(source().variants, []);
    assert.equal(source().node, graph.getNodeById(1)); // the way leads through it
  }
  node.mode = 0;
  assert.deepEqual(source().variants, [node]);
  graph.getNodeById(1).mode = 2;
  assert.equal(source().problem, "source_none");
});

test("nodes Variants mean the same prompts when one before comes or goes", () => {
  const shiftedBy = (whichs, at, comes, lines = "a\nb\nc\nd") => {
    const graph = chain(lines);
    const create = (type) => graph.make({ type, inputs: { prompts: null }, widgets: { which: "", count: 2, part_at: 0.5 } });
    graph.remove = (node) => (graph.nodes = graph.nodes.filter((other) => other !== node));
    const source = () => sourceOf(graph.getNodeById(4), ["a", "b", "c", "d"], graph);
    addVariants(source(), { number: 0, count: 2, part_at: 0.5 }, create);
    const made = whichs.length > 1 ? addVariants(source(), { number: 4, count: 3, part_at: 0.5 }, create) : null;
    source().variants.forEach((node, i) => (node.widgets[0].value = whichs[i]));
    const entries = entriesOf(source());
    shifted(source(), entries, entries[at], comes);
    return source().variants.map((node) => node.widgets[0].value);
  };
  assert.deepEqual(shiftedBy(["2"], 0, true), ["3"]);
  assert.deepEqual(shiftedBy(["2"], 2, true), ["2"]); // it comes after the one that is varied
  assert.deepEqual(shiftedBy(["1, 3"], 0, false), ["0, 2"]);
  assert.deepEqual(shiftedBy(["1, 3"], 1, false), ["2"]);
  assert.deepEqual(shiftedBy([""], 1, false), [""]); // all of them
  assert.deepEqual(shiftedBy(["1"], 1, false), []); // nothing is left of it
  assert.deepEqual(shiftedBy(["1", "4"], 0, true), ["2", "5"]); // the third, behind two variants of the second
  assert.deepEqual(shiftedBy(["1", "4"], 1, false), ["1"]);
  assert.deepEqual(shiftedBy(["2"], 1, true, "{a|b}\nc\nd\ne"), ["2"]); // nobody knows the numbers
});
