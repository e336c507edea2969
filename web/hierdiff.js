// The extension: gives nodes their panels, listens to the server, adds the menu. Only this file knows ComfyUI's page.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { templateMenu } from "./menu.js";
import { SchedulePanel, MIN_HEIGHT as SCHEDULE_HEIGHT } from "./schedule_widget.js";
import { searchByWords } from "./search.js";
import { stageColor } from "./stages.js";
import { loadTexts, text } from "./texts.js";
import { Trees } from "./tree.js";
import { TreePanel, MIN_HEIGHT as TREE_HEIGHT } from "./tree_widget.js";

const TREE_NODES = ["HierDiffBranchingSampler", "HierDiffKSampler"];
const SCHEDULE_NODE = "HierDiffThresholdSchedule";
const TREE_WIDGET = "hierdiff_tree";
const SCHEDULE_WIDGET = "hierdiff_schedule";

const trees = new Trees();
const panels = new Map(); // node -> TreePanel
const schedules = new Map(); // workflow and node -> what the last run sent to its plot

// --- nodes and their places in the graph ---

function rootGraph() {
  return app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
}

/** The node that the server calls "5" or, in a subgraph, "3:5". */
function nodeOf(id) {
  let graph = rootGraph();
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById?.(part) ?? graph?.getNodeById?.(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** What the server calls a node: all ids that lead to it. A subgraph that is used twice has a node twice. */
function idsOf(node, graph = rootGraph(), before = "") {
  const ids = [];
  for (const other of graph?.nodes ?? []) {
    if (other === node) ids.push(before + other.id);
    if (other.subgraph) ids.push(...idsOf(node, other.subgraph, `${before}${other.id}:`));
  }
  return ids;
}

/** The latest tree of a node of the open workflow. */
function treeOf(node) {
  const found = idsOf(node).map((id) => trees.get(rootGraph()?.id, id)).filter(Boolean);
  return found.sort((a, b) => a.order - b.order).at(-1) ?? null;
}

// --- panels ---

function addPanel(node, name, label, panel, height) {
  const widget = node.addDOMWidget(name, name, panel.root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
    getValue: () => "",
    setValue: () => {},
  });
  widget.label = label; // where the page lists a node's widgets
  widget.serialize = false; // nor in the workflow's file
  const onRemove = widget.onRemove;
  widget.onRemove = function () {
    panel.remove();
    onRemove?.apply(this, arguments);
  };
  return widget;
}

function addTree(node) {
  if (panels.has(node)) return;
  const panel = new TreePanel(() => treeOf(node), app);
  panels.set(node, panel);
  addPanel(node, TREE_WIDGET, text("tree.title"), panel, TREE_HEIGHT);
  const onRemoved = node.onRemoved;
  node.onRemoved = function () {
    panel.remove();
    panels.delete(node);
    onRemoved?.apply(this, arguments);
  };
  hidePictures(node);
}

function addSchedule(node) {
  const key = () => `${rootGraph()?.id}/${idsOf(node)[0]}`;
  const memory = { get: () => schedules.get(key()), set: (data) => schedules.set(key(), data) };
  const panel = new SchedulePanel(node, app, api, memory);
  addPanel(node, SCHEDULE_WIDGET, text("schedule.title"), panel, SCHEDULE_HEIGHT);
  hidePictures(node);
}

/** A panel takes the place of the pictures that the page itself draws below a node's widgets. */
function hidePictures(node) {
  node.hideOutputImages = true;
  node.onDrawBackground = () => {};
}

/** A new node gets its stage's colour; one from a workflow keeps what the workflow says, also none. */
function colorByStage(node) {
  const color = stageColor(node.comfyClass);
  if (!color) return;
  node.color ??= color;
  const { onConfigure } = node;
  node.onConfigure = function (saved) {
    if (!saved?.color) this.color = undefined;
    return onConfigure?.apply(this, arguments);
  };
}

function growToFit(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, 360), Math.max(node.size[1], height)]);
  node.setDirtyCanvas?.(true, true);
}

trees.listeners.add((tree) => {
  const node = tree.workflow && tree.workflow !== rootGraph()?.id ? null : nodeOf(tree.node);
  if (node && !panels.has(node)) {
    addTree(node); // a sampler behind a Hierarchical Guider
    growToFit(node);
  }
  for (const panel of panels.values()) panel.refresh();
});

// --- the server ---

async function fetchTrees() {
  const client = encodeURIComponent(api.clientId ?? "");
  const response = await api.fetchApi(`/hierdiff/trees?clientId=${client}`).catch(() => null);
  if (!response?.ok) return; // the server is away
  for (const snapshot of await response.json()) await trees.receive(snapshot);
}

let missed = null; // one request at a time for runs whose beginning was missed

api.addEventListener("hierdiff.tree", async ({ detail }) => {
  if (await trees.receive(detail)) return;
  missed ??= fetchTrees().finally(() => (missed = null));
});

// --- the extension ---

function stylesheet() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./hierdiff.css", import.meta.url).href;
  document.head.append(link);
}

await loadTexts(api, app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? "en"); // the menu is made at once

app.registerExtension({
  name: "hierdiff",
  ...templateMenu(app, api),
  ...searchByWords(app),

  init: stylesheet,

  async setup() {
    await fetchTrees();
  },

  nodeCreated(node) {
    const type = node.comfyClass;
    colorByStage(node);
    if (TREE_NODES.includes(type)) addTree(node);
    if (type === SCHEDULE_NODE) addSchedule(node);
  },

  loadedGraphNode(node) {
    panels.get(node)?.refresh();
  },

  /** All nodes of a workflow are there: runs of a sampler behind a guider may be among what is known. */
  afterConfigureGraph() {
    for (const tree of trees.trees.values()) for (const listener of trees.listeners) listener(tree);
  },
});
