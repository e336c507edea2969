// HierDiff Set as the nodes that it stands for: the same graph as the server runs (set_parts.json), wired in its place.

import { text } from "./texts.js";

export const SET = "HierDiffSet";
export const COMMAND = "HierDiff.UnpackSet";
// Of the node's outputs: where nodes/set.py takes them from.
const OUTPUTS = [["decoded", 0], ["prompts", 0], ["plan", 0], ["report", 0]];
const COLUMNS = [
  ["prompts", "negative", "latent"],
  ["positive", "linkage"],
  ["advisor", "plan"],
  ["sampler"],
  ["decoded", "report"],
];
const CONTROL = "control_after_generate";
const GAP = 40;
const TITLE = 30;

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);
const slotOf = (node, name) => (node.inputs ?? []).findIndex((input) => input.name === name);

/** Where a link into a node begins: {node, slot}, where the node may be the edge of a subgraph; null without a link. */
function originOf(node, name) {
  const link = node.inputs?.[slotOf(node, name)]?.link;
  const { graph } = node;
  const found = link == null ? null : (graph.getLink?.(link) ?? graph.links.get?.(link) ?? graph.links[link]);
  if (!found) return null;
  const origin = graph.getNodeById(found.origin_id);
  return origin ? { node: origin, slot: found.origin_slot } : { edge: graph.inputNode?.slots?.[found.origin_slot] };
}

/** Names of the parts that a node stands for with its inputs as they are, and with its outputs as they are used. */
export function partsOf(node, parts) {
  const there = (name) => {
    const { unless, if: wanted } = parts[name];
    if (unless && originOf(node, unless)) return false;
    return !wanted || (widgetOf(node, wanted[0])?.value === wanted[1] && !originOf(node, wanted[0]));
  };
  const used = OUTPUTS.filter((_, output) => output === 0 || node.outputs[output]?.links?.length);
  const found = new Set();
  const waiting = used.map(([name]) => name);
  while (waiting.length) {
    const name = waiting.pop();
    if (found.has(name) || !there(name)) continue;
    found.add(name);
    waiting.push(...Object.values(parts[name].inputs).filter(Array.isArray).map(([part]) => part));
  }
  return Object.keys(parts).filter((name) => found.has(name));
}

/** The value of the first mark that a position does not lie beyond. */
function valueAt(position, marks) {
  return (marks.find(([mark]) => position <= mark) ?? marks.at(-1))[1];
}

function connect(origin, target, name) {
  const slot = slotOf(target, name);
  if (slot < 0) return;
  if (origin.edge) origin.edge.connect(target.inputs[slot], target);
  else origin.node?.connect(origin.slot, target, slot);
}

function setWidget(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget || value === undefined) return;
  widget.value = value;
  widget.callback?.(value);
}

/** Give a part what the whole node has for it: links where it has links, else its values. */
function fill(part, made, node, parts) {
  const { inputs, values = {}, marks = {} } = part;
  const target = made.get(part);
  for (const [name, value] of Object.entries(values)) setWidget(target, name, value);
  for (const [name, [of, steps]] of Object.entries(marks)) setWidget(target, name, valueAt(widgetOf(node, of).value, steps));
  for (const [name, source] of Object.entries(inputs)) {
    const origin = originFor(source, made, node, parts);
    if (origin) connect(origin, target, name);
    else if (typeof source === "string") setWidget(target, name, widgetOf(node, source)?.value);
  }
  const control = part.type === "HierDiffKSampler" ? widgetOf(node, CONTROL)?.value : "fixed"; // one seed changes
  setWidget(target, CONTROL, control);
}

/** Where what a part takes comes from: an output of another part, or what is connected to the whole node. */
function originFor(source, made, node, parts) {
  if (typeof source === "string") return originOf(node, source);
  const [name, slot] = source;
  const other = made.get(parts[name]);
  return other ? { node: other, slot } : parts[name].unless && originOf(node, parts[name].unless);
}

/** Set the parts beside each other, from where the whole node is; the width that they take. */
function place(names, made, node, parts) {
  let [left] = node.pos;
  for (const column of COLUMNS) {
    const own = column.filter((name) => names.includes(name)).map((name) => made.get(parts[name]));
    let top = node.pos[1];
    for (const each of own) {
      each.pos = [left, top];
      top += each.size[1] + TITLE + GAP;
    }
    if (own.length) left += Math.max(...own.map((each) => each.size[0])) + GAP;
  }
  return left - GAP - node.pos[0];
}

/** Move what stands right of a node, and widen the frames around it, so that it could be so much wider. */
function makeRoom(node, more, kept) {
  const edge = node.pos[0] + node.size[0];
  for (const other of node.graph.nodes) {
    if (!kept.includes(other) && other.pos[0] >= edge) other.pos = [other.pos[0] + more, other.pos[1]];
  }
  for (const group of node.graph.groups ?? []) {
    const [left, right] = [group.pos[0], group.pos[0] + group.size[0]];
    if (left >= edge) group.pos = [left + more, group.pos[1]];
    else if (left <= node.pos[0] && right >= edge) group.size = [group.size[0] + more, group.size[1]];
  }
}

/**
 * Put in the place of a node the parts that it stands for.
 *
 * @param node    in its graph, which changes
 * @param parts   of set_parts.json
 * @param create  makes a node of a type
 * @returns       the new nodes by their names
 */
export function unpack(node, parts, create) {
  const names = partsOf(node, parts);
  const { graph } = node;
  const made = new Map(names.map((name) => [parts[name], create(parts[name].type)]));
  for (const each of made.values()) graph.add(each);
  for (const name of names) fill(parts[name], made, node, parts);
  const wider = place(names, made, node, parts) - node.size[0];
  makeRoom(node, Math.max(wider, 0), [node, ...made.values()]);
  OUTPUTS.forEach((source, output) => {
    const targets = (node.outputs[output]?.links ?? []).map((link) => graph.getLink?.(link) ?? graph.links[link]);
    const origin = targets.length && originFor(source, made, node, parts);
    for (const { target_id, target_slot } of targets) {
      const target = graph.getNodeById(target_id);
      if (target) origin?.node?.connect(origin.slot, target, target_slot);
      else graph.outputNode?.slots?.[target_slot]?.connect(origin.node.outputs[origin.slot], origin.node);
    }
  });
  graph.remove(node);
  return new Map(names.map((name) => [name, made.get(parts[name])]));
}

/** The hooks and the command of the extension; `changed` tells the page that the graph has changed, so that it undoes. */
export function unpacking(app, changed) {
  const isSet = (item) => item?.comfyClass === SET;
  const run = async (node) => {
    const parts = await (await fetch(new URL("./set_parts.json", import.meta.url))).json();
    changed(); // what was typed just before is not undone with it
    const made = unpack(node, parts, (type) => LiteGraph.createNode(type));
    app.canvas.selectItems?.([...made.values()]);
    changed();
    app.canvas.setDirty(true, true);
  };
  const chosen = () => [...(app.canvas.selectedItems ?? [])].filter(isSet);
  return {
    command: { id: COMMAND, icon: "pi pi-sitemap", label: text("unpack"), function: () => Promise.all(chosen().map(run)) },
    getNodeMenuItems: (node) => (isSet(node) ? [{ content: text("unpack"), callback: () => run(node) }] : []),
    getSelectionToolboxCommands: (item) => (isSet(item) ? [COMMAND] : []),
  };
}
