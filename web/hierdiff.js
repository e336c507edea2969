// The extension: gives nodes their panels, listens to the server, adds the menu. Only this file knows ComfyUI's page.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { fitTemplate } from "./fit.js";
import { allNodes, idsOf, latest, locatorOf, nodeOf } from "./graphs.js";
import { before } from "./hooks.js";
import { HEIGHT as MARKS_HEIGHT, MarksPanel, sliderOf } from "./marks.js";
import { templateMenu } from "./menu.js";
import { ResultPanel } from "./result_panel.js";
import { Results } from "./results.js";
import { SchedulePanel, MIN_HEIGHT as SCHEDULE_HEIGHT } from "./schedule_widget.js";
import { searchByWords, withWords } from "./search.js";
import { stageColor } from "./stages.js";
import { separateTabs } from "./tabs.js";
import { loadTexts, text } from "./texts.js";
import { Trees } from "./tree.js";
import { TreePanel, MIN_HEIGHT as TREE_HEIGHT } from "./tree_widget.js";
import { SET, unpacking } from "./unpack.js";

const TREE_NODES = ["HierDiffBranchingSampler", "HierDiffKSampler", SET];
const MARKED_NODES = [SET, "HierDiffSavingPlan"];
const SCHEDULE_NODE = "HierDiffThresholdSchedule";
const TREE_WIDGET = "hierdiff_tree";
const MARKS_WIDGET = "hierdiff_marks";
const SCHEDULE_WIDGET = "hierdiff_schedule";
const RESULT_WIDGET = "hierdiff_result";
// Their pictures matter more than their texts, which take one line until they are asked for.
const WITH_PICTURE = [
  "HierDiffWardLinkage",
  "HierDiffContactSheet",
  "HierDiffSaveSet",
  "HierDiffCalibrate",
  "HierDiffCalibrateModel",
  "HierDiffSensitivityLoader",
  "HierDiffAdvisor",
  "HierDiffAdvisorKandinsky",
  "HierDiffLoadAdvice",
];
const RESULT_MARGIN = 8; // pixels around the text
const FOLDED = "hierdiff_folded"; // property of a node, so that it travels with the workflow

const trees = new Trees();
const results = new Results();
const panels = new Map(); // node -> TreePanel
const schedules = new Map(); // node -> SchedulePanel
const reports = new Map(); // node -> ResultPanel
let fromHistory = false; // whether the workflow was opened out of the page's history

function rootGraph() {
  return app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
}

function isOurs(node) {
  return Boolean(node?.comfyClass?.startsWith("HierDiff")) || panels.has(node);
}

// --- panels ---

function addPanel(node, name, label, panel, options) {
  const widget = node.addDOMWidget(name, name, panel.root, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    ...options,
  });
  widget.label = label; // where the page lists a node's widgets
  widget.serialize = false; // nor in the workflow's file
  before(widget, "onRemove", () => panel.remove());
  return widget;
}

function addTree(node) {
  if (panels.has(node)) return;
  const panel = new TreePanel(() => latest(rootGraph(), trees, node), app);
  panels.set(node, panel);
  addPanel(node, TREE_WIDGET, text("tree.title"), panel, { getMinHeight: () => TREE_HEIGHT });
  before(node, "onRemoved", () => {
    panel.remove();
    panels.delete(node);
  });
  hidePictures(node);
}

function addSchedule(node) {
  // what the plot draws comes with the node's result, which knows its workflow: there is nothing to set
  const memory = { get: () => latest(rootGraph(), results, node)?.data.hierdiff_schedule ?? null, set: () => {} };
  const panel = new SchedulePanel(node, app, api, memory);
  schedules.set(node, panel);
  addPanel(node, SCHEDULE_WIDGET, text("schedule.title"), panel, { getMinHeight: () => SCHEDULE_HEIGHT });
  before(node, "onRemoved", () => schedules.delete(node));
  hidePictures(node);
}

/**
 * A panel takes the place of the pictures that the page itself shows below a node's widgets, which are those of the
 * tree and the plot again. The page asks for the node's `imgs` where it draws them on the canvas; as elements they are
 * hidden by the stylesheet.
 */
function hidePictures(node) {
  node.hideOutputImages = true;
  for (const name of ["imgs", "previewMediaType"]) {
    Object.defineProperty(node, name, { configurable: true, get: () => undefined, set: () => {} });
  }
}

/** Let the page save what has changed in the workflow, and undo it. */
function changed() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

/** The marks of the slider stand below it, as the last of the node's own widgets. */
function addMarks(node) {
  if (!sliderOf(node)) return;
  const panel = new MarksPanel(node, app, changed);
  const fixed = { getMinHeight: () => MARKS_HEIGHT, getMaxHeight: () => MARKS_HEIGHT, margin: 4 };
  const widget = addPanel(node, MARKS_WIDGET, text("marks.label"), panel, fixed);
  widget.computeLayoutSize = undefined; // of a fixed height, whatever room the node has
  widget.computeSize = () => [0, MARKS_HEIGHT + 4];
}

/** What a node says stands below its tree or plot, and else in a panel of its own. */
function addResult(node) {
  if (reports.has(node)) return reports.get(node);
  const inside = panels.has(node) || schedules.has(node);
  const byDefault = inside || WITH_PICTURE.includes(node.comfyClass);
  const folding = {
    get: () => node.properties?.[FOLDED] ?? byDefault,
    set: (folded) => {
      node.properties ??= {};
      node.properties[FOLDED] = folded;
      changed();
    },
  };
  const room = inside ? "inside" : byDefault ? "fixed" : "shared";
  const panel = new ResultPanel(app, folding, room, () => node.setDirtyCanvas?.(true, true));
  reports.set(node, panel);
  before(node, "onRemoved", () => reports.delete(node) && panel.remove());
  if (!inside) addResultWidget(node, panel);
  return panel;
}

/** A panel of its own is there from the start, without height: some versions of the page overlook what comes later. */
function addResultWidget(node, panel) {
  const height = (pixels) => (pixels ? pixels + 2 * RESULT_MARGIN : 0);
  const widget = addPanel(node, RESULT_WIDGET, text("result.title"), panel, {
    margin: RESULT_MARGIN,
    getMinHeight: () => height(panel.least),
    getMaxHeight: () => height(panel.most),
  });
  // Of a fixed height, as the page sees it when it adds the node: without a text it must get no share of free room.
  widget.computeLayoutSize = undefined;
  widget.computeSize = () => [0, height(panel.least) - 4]; // the page adds these between widgets
  panel.atFirst = () => {
    if (panel.room !== "shared") return;
    delete widget.computeLayoutSize;
    delete widget.computeSize;
  };
}

/** Show what is known of a node's last run: its text, and for Threshold Schedule the plot. */
function showResult(node) {
  const result = latest(rootGraph(), results, node);
  const said = result?.text ?? "";
  if (!said && !reports.get(node)?.text) return;
  const panel = addResult(node);
  const host = (panels.get(node) ?? schedules.get(node))?.root;
  if (host && !panel.root.parentElement) host.append(panel.root);
  if (said && !panel.text) panel.heightBefore = node.size[1];
  const over = !said && panel.text;
  panel.show(said, result?.state ?? "none");
  if (over && panel.heightBefore < node.size[1]) node.setSize([node.size[0], panel.heightBefore]);
  schedules.get(node)?.reshape();
}

/** A new node gets its stage's colour; one from a workflow keeps what the workflow says, also none. */
function colorByStage(node) {
  const color = stageColor(node.comfyClass);
  if (!color) return;
  node.color ??= color;
  before(node, "onConfigure", function (saved) {
    if (!saved?.color) this.color = undefined;
  });
}

function growToFit(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, 360), Math.max(node.size[1], height)]);
  node.setDirtyCanvas?.(true, true);
}

/** The node that a tree or a result is of, if its workflow is open. */
function nodeHere({ workflow, node }) {
  return workflow && workflow !== rootGraph()?.id ? null : nodeOf(rootGraph(), node);
}

results.listeners.add((result) => {
  const node = nodeHere(result);
  if (node) showResult(node);
});

trees.listeners.add((tree) => {
  const node = nodeHere(tree);
  if (node && !panels.has(node)) {
    addTree(node); // a sampler behind a Hierarchical Guider
    growToFit(node);
  }
  for (const panel of panels.values()) panel.refresh();
});

// --- the server ---

async function ask(route, query = {}) {
  // a page that is loaded again has its old name before the server has confirmed it
  const asked = new URLSearchParams({ clientId: api.clientId ?? window.name, ...query });
  const response = await api.fetchApi(`/hierdiff/${route}?${asked}`).catch(() => null);
  return response?.ok ? response.json() : []; // else the server is away
}

async function fetchTrees(query) {
  for (const snapshot of await ask("trees", query)) await trees.receive(snapshot);
}

async function fetchResults(query) {
  for (const result of await ask("results", query)) results.receive(result);
}

let missed = null; // one request at a time for runs whose beginning was missed

api.addEventListener("hierdiff.tree", async ({ detail }) => {
  if (await trees.receive(detail)) return;
  missed ??= fetchTrees().finally(() => (missed = null));
});

api.addEventListener("hierdiff.result", ({ detail }) => results.receive(detail));

api.addEventListener("executed", ({ detail }) => {
  results.receiveOutput(detail.node, detail.prompt_id, detail.output);
});

/** Nodes that the server takes from its cache say nothing: this page may never have heard what they said before. */
api.addEventListener("execution_cached", ({ detail: { nodes, prompt_id } }) => {
  if (!(nodes ?? []).some((id) => isOurs(nodeOf(rootGraph(), id)))) return;
  const known = [...trees.trees.values()].filter(nodeHere).map((tree) => tree.run);
  fetchTrees({ prompt_id, known: known.join(",") });
  fetchResults({ prompt_id });
});

for (const ending of ["execution_success", "execution_error", "execution_interrupted"]) {
  api.addEventListener(ending, ({ detail }) => results.end(detail?.prompt_id));
}

// --- the extension ---

function stylesheet() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./hierdiff.css", import.meta.url).href;
  document.head.append(link);
}

await loadTexts(api, app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? "en"); // the menu is made at once

const { command: unpackCommand, ...unpackHooks } = unpacking(app, changed);

app.registerExtension({
  name: "hierdiff",
  ...templateMenu(app, api, [unpackCommand]),
  ...unpackHooks,
  ...withWords,

  init: stylesheet,

  async setup() {
    separateTabs(app, (workflow) => (fromHistory = workflow === null));
    await Promise.all([fetchTrees(), fetchResults(), searchByWords(app)]);
  },

  nodeCreated(node) {
    const type = node.comfyClass;
    colorByStage(node);
    if (MARKED_NODES.includes(type)) addMarks(node);
    if (TREE_NODES.includes(type)) addTree(node);
    if (type === SCHEDULE_NODE) addSchedule(node);
    if (isOurs(node)) addResult(node);
  },

  loadedGraphNode(node) {
    panels.get(node)?.refresh();
  },

  /** All nodes of a workflow are there: runs of a sampler behind a guider may be among what is known. */
  afterConfigureGraph() {
    fitTemplate(app, rootGraph());
    for (const tree of trees.trees.values()) for (const listener of trees.listeners) listener(tree);
    for (const node of allNodes(rootGraph())) if (isOurs(node)) showResult(node);
  },

  /** The page has brought back outputs, out of its history or with a tab; of tabs all is known here. */
  onNodeOutputsUpdated(outputs) {
    if (!fromHistory) return;
    for (const node of allNodes(rootGraph()).filter(isOurs)) {
      const output = outputs?.[locatorOf(rootGraph(), node)];
      for (const id of idsOf(rootGraph(), node)) results.restore(rootGraph()?.id, id, output);
    }
  },
});
