// The tree of the last run goes into a sampler's `edits` when a run is queued whose inputs have changed. So whatever is
// queued, saved or shared says by itself which tree it is drawn on. Other extensions wrap the same function of the page;
// whatever goes wrong in here, the run is queued as it is.

import { editsText, readEdits, withTreeOf } from "./edits.js";
import { idsOf, nodeOf } from "./graphs.js";

const OF_TREE = ["edits", "keep"]; // of the sampler itself: they are not what the tree is made from
const MOST_KEPT = 64; // runs, for one that is undone

/** Let `work({workflow, output}, graph)` see what the page is about to queue, and change it. */
export function wrapGraphToPrompt(app, work, warn = console.warn) {
  const there = app.graphToPrompt;
  app.graphToPrompt = async function (...args) {
    const made = await there.apply(this, args);
    try {
      await work(made, args[0] ?? app.rootGraph ?? app.graph);
    } catch (error) {
      warn("HierDiff: the tree of the last run could not be kept", error);
    }
    return made;
  };
}

/** All that a node of a prompt is made from, as a text: its own inputs but for some, and all nodes upstream of it. */
export function closureOf(output, id) {
  const found = {};
  const waiting = [String(id)];
  while (waiting.length) {
    const at = waiting.pop();
    const node = output[at];
    if (!node || found[at]) continue;
    const inputs = Object.entries(node.inputs ?? {}).filter(([name]) => at !== String(id) || !OF_TREE.includes(name));
    found[at] = [node.class_type, inputs.sort(([a], [b]) => (a < b ? -1 : 1))];
    for (const [, value] of inputs) if (isLink(value, output)) waiting.push(String(value[0]));
  }
  return JSON.stringify(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function isLink(value, output) {
  return Array.isArray(value) && value.length === 2 && String(value[0]) in output && Number.isInteger(value[1]);
}

/** A text in 14 hexadecimal digits. */
export function digestOf(text) {
  let [a, b] = [0x9e3779b9, 0x85ebca6b];
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    a = Math.imul(a ^ code, 0xcc9e2d51);
    b = Math.imul(b ^ code, 0x1b873593);
  }
  a = Math.imul(a ^ (a >>> 16), 0x85ebca6b) ^ Math.imul(b ^ (b >>> 13), 0xc2b2ae35);
  b = Math.imul(b ^ (b >>> 16), 0x85ebca6b) ^ Math.imul(a ^ (a >>> 13), 0xc2b2ae35);
  return (((b >>> 0) & 0xffffff) * 2 ** 32 + (a >>> 0)).toString(16).padStart(14, "0");
}

/** Ids of the samplers in a prompt that keep their tree. */
export function keepersIn(output) {
  const keeps = ([, { class_type, inputs }]) => class_type?.startsWith?.("HierDiff") && inputs?.keep === true && typeof inputs.edits === "string";
  return Object.entries(output).filter(keeps).map(([id]) => id);
}

/** Keeps trees: `work` is for `wrapGraphToPrompt`. */
export class KeptTrees {
  /**
   * @param toldOf     function: node that has `edits` -> {edits, promptId} of its last run, or null; of a run before the
   *                   server was started again {edits, promptId, digest: of its closure}
   * @param promptOf   function: id of a run -> what was queued (a promise), or null where nobody knows
   * @param quietly    function: does a work that changes the workflow, and is not to be undone for itself
   */
  constructor({ toldOf, promptOf, quietly = (work) => work() }) {
    Object.assign(this, { toldOf, promptOf, quietly });
    this.ran = []; // closures with the edits that they ran with
  }

  /** Remember what a run was made from: undone changes lead back to it. */
  async remember(id, promptId) {
    const output = await this.promptOf(promptId);
    if (output?.[id]) this.note(closureOf(output, id), output[id].inputs?.edits ?? "");
    return output;
  }

  note(closure, edits) {
    const pair = JSON.stringify([closure, edits]);
    if (!this.ran.includes(pair)) this.ran.push(pair);
    if (this.ran.length > MOST_KEPT) this.ran.shift();
  }

  async work({ workflow, output }, root) {
    for (const id of keepersIn(output)) {
      const node = nodeOf(root, id);
      const value = node && (await this.valueFor(node, id, output, root));
      if (typeof value !== "string" || value === output[id].inputs.edits) continue;
      this.quietly(() => fill({ workflow, output }, id, node, value));
    }
  }

  /** The text that a sampler's edits are queued with, or null to leave them. */
  async valueFor(node, id, output, root) {
    const told = this.toldOf(node);
    const edits = readEdits(output[id].inputs.edits);
    if (!told || !edits || idsOf(root, node).length !== 1) return null; // one widget cannot be of two runs
    if (node.properties?.[ANEW] === told.promptId) return null;
    const closure = closureOf(output, id);
    if (told.digest === digestOf(closure)) return null;
    const before = told.digest ? null : await this.remember(id, told.promptId);
    if (this.ran.includes(JSON.stringify([closure, output[id].inputs.edits]))) return null;
    if (before?.[id] && closureOf(before, id) === closure) return null; // the host's cache is right
    return editsText(withTreeOf(edits, told.edits));
  }
}

/** Property of a node that keeps its tree: what its last run told, for when the server has forgotten it. */
export const TOLD = "hierdiff_told";

/** Property of a node whose tree is planned anew: the run whose tree is not to be kept. */
export const ANEW = "hierdiff_anew";

/** Write a sampler's edits wherever they stand: in what is queued, in the workflow beside it, and in the page. */
export function fill({ workflow, output }, id, node, value) {
  const widget = node.widgets?.find(({ name }) => name === "edits");
  if (!widget) return;
  const saved = savedNode(workflow, node);
  const values = saved?.widgets_values;
  const place = Array.isArray(values) ? node.widgets.indexOf(widget) : "edits";
  if (values?.[place] === widget.value) values[place] = value;
  output[id].inputs.edits = value;
  widget.value = value;
  widget.callback?.(value);
}

function savedNode(workflow, node) {
  const inside = (workflow?.definitions?.subgraphs ?? []).find(({ id }) => id === node.graph?.id);
  return ((inside ?? workflow)?.nodes ?? []).find(({ id }) => String(id) === String(node.id)) ?? null;
}
