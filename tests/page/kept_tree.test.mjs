// What the page queues has the tree of the last run in it where its inputs have changed, and is queued in any case.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ANEW, closureOf, digestOf, keepersIn, KeptTrees, wrapGraphToPrompt } from "../../web/kept_tree.js";

const KEPT = { plan: { steps: 10 } };
const TOLD = JSON.stringify({ version: 1, kept: KEPT, changes: [] });
const PIN = { do: "pin", prompts: ["00000000000000aa"] };

function outputOf(text, { edits = "", keep = true, seed = 5 } = {}) {
  return {
    1: { class_type: "HierDiffPromptSet", inputs: { text } },
    2: { class_type: "HierDiffThresholdSchedule", inputs: { linkage: ["1", 0], steps: 10 } },
    3: { class_type: "HierDiffBranchingSampler", inputs: { plan: ["2", 0], seed, keep, edits } },
    4: { class_type: "SaveImage", inputs: { images: ["3", 0], filename_prefix: "x" } },
  };
}

/** A page with one sampler, whose last run was made from `ran`. */
function pageOf(now, { ran = outputOf("a"), told = TOLD, twice = false, before = (made) => made } = {}) {
  const widget = { name: "edits", value: now[3]?.inputs.edits };
  const node = { id: 3, widgets: [{ name: "seed", value: 5 }, { name: "keep", value: true }, widget], properties: {} };
  const root = { id: "w", nodes: twice ? [node, node] : [node], getNodeById: (id) => (Number(id) === 3 ? node : null) };
  node.graph = root;
  const workflow = { nodes: [{ id: 3, widgets_values: [5, true, widget.value] }] };
  const warned = [];
  const asked = [];
  const app = {
    rootGraph: root,
    async graphToPrompt() {
      assert.equal(this, app);
      return before({ workflow, output: now });
    },
  };
  const promptOf = async (id) => (asked.push(id), ran);
  const kept = new KeptTrees({ toldOf: () => told && { edits: told, promptId: "run" }, promptOf });
  wrapGraphToPrompt(app, (made, graph) => kept.work(made, graph), (...words) => warned.push(words));
  return { app, widget, node, workflow, warned, kept };
}

const editsIn = ({ output }) => output[3].inputs.edits;

test("a closure is what is upstream, whatever the order, and not what the tree itself is told", () => {
  const closure = closureOf(outputOf("a"), 3);
  assert.equal(closureOf(outputOf("a", { keep: false, edits: TOLD }), "3"), closure);
  const turned = Object.fromEntries(Object.entries(outputOf("a")).reverse());
  turned[2].inputs = { steps: 10, linkage: ["1", 0] };
  assert.equal(closureOf(turned, 3), closure);
  assert.notEqual(closureOf(outputOf("b"), 3), closure);
  assert.notEqual(closureOf(outputOf("a", { seed: 6 }), 3), closure);
  const behind = outputOf("a");
  behind[4].inputs.filename_prefix = "y";
  assert.equal(closureOf(behind, 3), closure);
  const round = { 1: { class_type: "A", inputs: { x: ["2", 0] } }, 2: { class_type: "B", inputs: { x: ["1", 0], list: [1, 2, 3] } } };
  assert.match(closureOf(round, 1), /"B"/);
});

test("only our samplers that keep their tree are looked at", () => {
  assert.deepEqual(keepersIn(outputOf("a")), ["3"]);
  assert.deepEqual(keepersIn(outputOf("a", { keep: false })), []);
  assert.deepEqual(keepersIn(outputOf("a", { edits: ["1", 0] })), []);
  assert.deepEqual(keepersIn({ 1: { class_type: "Other", inputs: { keep: true, edits: "" } }, 2: {}, 3: { class_type: "HierDiffX" } }), []);
});

test("with other prompts the tree of the last run goes along, in the prompt, the workflow and the node alike", async () => {
  const changes = [PIN];
  const { app, widget, workflow, warned } = pageOf(outputOf("b", { edits: JSON.stringify({ version: 1, kept: null, changes }) }));
  const value = editsIn(await app.graphToPrompt());
  assert.deepEqual(JSON.parse(value), { version: 1, kept: KEPT, changes });
  assert.deepEqual([widget.value, workflow.nodes[0].widgets_values], [value, [5, true, value]]);
  assert.deepEqual(warned, []);
});

test("with the same inputs, and where nothing is known, everything stays", async () => {
  assert.equal(editsIn(await pageOf(outputOf("a")).app.graphToPrompt()), "");
  assert.equal(editsIn(await pageOf(outputOf("b"), { told: null }).app.graphToPrompt()), "");
  assert.equal(editsIn(await pageOf(outputOf("b", { keep: false })).app.graphToPrompt()), "");
  assert.equal(editsIn(await pageOf(outputOf("b", { edits: "mine" })).app.graphToPrompt()), "mine");
  assert.equal(editsIn(await pageOf(outputOf("b"), { told: "broken" }).app.graphToPrompt()), "");
  assert.equal(editsIn(await pageOf(outputOf("b"), { twice: true }).app.graphToPrompt()), "");
});

test("a run that the host has forgotten counts as another one", async () => {
  assert.deepEqual(JSON.parse(editsIn(await pageOf(outputOf("a"), { ran: null }).app.graphToPrompt())).kept, KEPT);
});

test("a tree that is planned anew is not kept, until another run has told one", async () => {
  const page = pageOf(outputOf("b"));
  page.node.properties[ANEW] = "run";
  assert.equal(editsIn(await page.app.graphToPrompt()), "");
  page.node.properties[ANEW] = "an older run";
  assert.notEqual(editsIn(await page.app.graphToPrompt()), "");
});

test("what a workflow has kept of its last run stands in where the server was started again", async () => {
  const page = pageOf(outputOf("b"));
  const digest = digestOf(closureOf(outputOf("a"), 3));
  assert.match(digest, /^[0-9a-f]{14}$/);
  assert.notEqual(digest, digestOf(closureOf(outputOf("b"), 3)));
  page.kept.toldOf = () => ({ edits: TOLD, promptId: "gone", digest });
  assert.deepEqual(JSON.parse(editsIn(await page.app.graphToPrompt())).kept, KEPT);
  const same = pageOf(outputOf("a"));
  same.kept.toldOf = page.kept.toldOf;
  assert.equal(editsIn(await same.app.graphToPrompt()), "");
});

test("what is undone leads back to the run that was, whose pictures the host still has", async () => {
  const page = pageOf(outputOf("a"), { ran: outputOf("b", { edits: TOLD }) });
  page.kept.note(closureOf(outputOf("a"), 3), "");
  assert.equal(editsIn(await page.app.graphToPrompt()), "");
});

test("a run is queued whatever goes wrong", async () => {
  const page = pageOf(outputOf("b"));
  page.kept.toldOf = () => {
    throw new Error("on purpose");
  };
  assert.equal(editsIn(await page.app.graphToPrompt()), "");
  assert.equal(page.warned.length, 1);
  for (const odd of [{}, { output: null }, null]) assert.equal(await pageOf(outputOf("b"), { before: () => odd }).app.graphToPrompt(), odd);
  const away = pageOf(outputOf("b"));
  away.kept.promptOf = async () => Promise.reject(new Error("away"));
  assert.equal(editsIn(await away.app.graphToPrompt()), "");
});

test("a node in a subgraph is written where the workflow has it", async () => {
  const page = pageOf({ "7:3": outputOf("b")[3] });
  const inner = { id: "sub", nodes: [page.node], getNodeById: page.app.rootGraph.getNodeById };
  page.node.graph = inner;
  const holder = { id: 7, subgraph: inner };
  Object.assign(page.app.rootGraph, { nodes: [holder], getNodeById: (id) => (Number(id) === 7 ? holder : null) });
  page.workflow.definitions = { subgraphs: [{ id: "sub", nodes: [{ id: 3, widgets_values: [5, true, page.widget.value] }] }] };
  page.widget.value = page.workflow.definitions.subgraphs[0].nodes[0].widgets_values[2] = "";
  const { output } = await page.app.graphToPrompt();
  assert.deepEqual(JSON.parse(output["7:3"].inputs.edits).kept, KEPT);
  assert.equal(page.workflow.definitions.subgraphs[0].nodes[0].widgets_values[2], output["7:3"].inputs.edits);
  assert.equal(page.workflow.nodes[0].widgets_values[2], undefined); // another node of this number
});
