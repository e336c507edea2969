// The extension: gives nodes their panels, listens to the server, adds the menu. Only this file knows ComfyUI's page.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { compare } from "./compare.js";
import { ComparePanel, MIN_HEIGHT as COMPARE_HEIGHT } from "./compare_panel.js";
import { addressOf, promptsBelow, typicalOf } from "./comparison.js";
import { showDraws } from "./draws.js";
import { Editing, keepsEdits } from "./edits_page.js";
import { fitTemplate } from "./fit.js";
import { allNodes, idsOf, latest, locatorOf, nodeOf } from "./graphs.js";
import { after, before } from "./hooks.js";
import { lightboxActions } from "./lightbox.js";
import { HEIGHT as MARKS_HEIGHT, MarksPanel, sliderOf } from "./marks.js";
import { templateMenu } from "./menu.js";
import { PickPanel, addPickStyle, MIN_HEIGHT as PICK_HEIGHT } from "./pick.js";
import { Picks } from "./picks.js";
import { PromptTablePanel, addTableStyle, MIN_HEIGHT as TABLE_HEIGHT } from "./prompt_table.js";
import { addPanel, colorByStage, growToFit, hidePictures, hideWidget } from "./node_widgets.js";
import { keepOldSheet } from "./old_sheets.js";
import { offerFolder } from "./open_folder.js";
import { ResultPanel } from "./result_panel.js";
import { Results } from "./results.js";
import { SchedulePanel, MIN_HEIGHT as SCHEDULE_HEIGHT } from "./schedule_widget.js";
import { searchByWords, withWords } from "./search.js";
import { separateTabs } from "./tabs.js";
import { loadTexts, text } from "./texts.js";
import { Trees } from "./tree.js";
import { picturesBehind } from "./tree_pictures.js";
import { TreePanel, MIN_HEIGHT as TREE_HEIGHT } from "./tree_widget.js";
import { changed as undoable, quietly } from "./undo.js";
import { SET, unpacking } from "./unpack.js";

const TREE_NODES = ["HierDiffBranchingSampler", "HierDiffKSampler", SET];
const MARKED_NODES = [SET, "HierDiffSavingPlan"];
const SCHEDULE_NODE = "HierDiffThresholdSchedule";
const TABLE_NODE = "HierDiffPromptTable";
const TREE_WIDGET = "hierdiff_tree";
const MARKS_WIDGET = "hierdiff_marks";
const SCHEDULE_WIDGET = "hierdiff_schedule";
const TABLE_WIDGET = "hierdiff_table";
const PICK_NODE = "HierDiffPick";
const PICK_WIDGET = "hierdiff_pick";
const COMPARE_NODE = "HierDiffCompare";
const COMPARE_WIDGET = "hierdiff_compare";
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
const picks = new Picks();
const panels = new Map(); // node -> TreePanel
const schedules = new Map(); // node -> SchedulePanel
const comparisons = new Map(); // node -> ComparePanel
const choosing = new Map(); // node -> PickPanel
const reports = new Map(); // node -> ResultPanel
let fromHistory = false; // whether the workflow was opened out of the page's history

function rootGraph() {
  return app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
}

function isOurs(node) {
  return Boolean(node?.comfyClass?.startsWith("HierDiff")) || panels.has(node);
}

// --- panels ---

function addTree(node) {
  if (panels.has(node)) return;
  const told = () => latest(rootGraph(), results, node)?.data.hierdiff_pictures ?? null;
  const address = (file) => api.apiURL(`/view?${new URLSearchParams(file)}`);
  const memory = editing.memoryOf(node);
  const panel = new TreePanel(() => latest(rootGraph(), trees, node), app, { files: told, address }, memory);
  panels.set(node, panel);
  addPanel(node, TREE_WIDGET, text("tree.title"), panel, { getMinHeight: () => TREE_HEIGHT });
  before(node, "onRemoved", () => {
    panel.remove();
    panels.delete(node);
  });
  hidePictures(node);
  findPictures(node);
}

/** Nodes behind a tree's may have shown its pictures in full, in any of the runs that the tree is of. */
async function findPictures(node) {
  const tree = panels.get(node)?.tree;
  if (!tree || tree.state === "running") return;
  const before = String(tree.node).split(":").slice(0, -1);
  const idOf = (other) => [...before, other.id].join(":");
  for (const promptId of [...tree.promptIds].reverse()) {
    const response = await api.fetchApi(`/history/${promptId}`).catch(() => null);
    const outputs = (response?.ok ? await response.json() : {})[promptId]?.outputs ?? {};
    const imagesOf = (other) => outputs[idOf(other)]?.images;
    const found = picturesBehind(node, tree.prompts.length, (id) => node.graph?.getNodeById(id), imagesOf);
    if (found) return panels.get(node)?.pictures.found(tree, found);
  }
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

/** The node's text stays what workflows and the server know; the page shows a table in its place. */
function addTable(node) {
  const kept = node.widgets?.find((widget) => widget.name === "table");
  if (!kept) return; // a host that has changed it: the text is there
  const set = (value) => {
    kept.value = value;
    kept.callback?.(value);
  };
  const post = async (route, body) => {
    const response = await api.fetchApi(`/hierdiff/${route}`, { method: "POST", body }).catch(() => null);
    const answer = await response?.json().catch(() => null);
    return { ok: Boolean(response?.ok && answer && !answer.error), answer };
  };
  const panel = new PromptTablePanel(app, { get: () => kept.value, set }, post);
  hideWidget(kept);
  addPanel(node, TABLE_WIDGET, text("table.title"), panel, { getMinHeight: () => TABLE_HEIGHT });
  // whoever changes the text by another way than the table: other packs, undo, a workflow that is opened
  if (kept.options?.setValue) after(kept.options, "setValue", () => panel.read());
  after(kept, "callback", () => panel.read());
  after(node, "onConfigure", () => panel.read());
  node.setSize([Math.max(node.size[0], 620), Math.max(node.size[1], TABLE_HEIGHT + 160)]);
}

function addComparison(node) {
  const pictures = () => {
    const files = latest(rootGraph(), results, node)?.data.hierdiff_compare?.images ?? [];
    const [shared, unshared] = files.map((file) => addressOf(api, file));
    return unshared ? { shared, unshared } : null;
  };
  const panel = new ComparePanel(pictures, app);
  comparisons.set(node, panel);
  addPanel(node, COMPARE_WIDGET, text("compare.title"), panel, { getMinHeight: () => COMPARE_HEIGHT });
  before(node, "onRemoved", () => comparisons.delete(node));
  hidePictures(node);
}

/** Pictures to choose from, in the node that the run waits in. */
function addPick(node) {
  const kept = node.widgets?.find((widget) => widget.name === "choice");
  const source = {
    question: () => latest(rootGraph(), picks, node),
    shown: () => latest(rootGraph(), results, node)?.data.hierdiff_pick ?? null,
    left: (question) => picks.left(question),
    choice: () => String(kept?.value ?? ""),
    remember: (choice) => {
      if (!kept) return;
      kept.value = choice;
      kept.callback?.(choice);
      changed();
      panel.refresh();
    },
    answer: (question, chosen) => picks.answer(api, question, chosen),
    cancel: (question) => api.interrupt(question?.prompt_id),
    address: (file) => addressOf(api, file),
  };
  const panel = new PickPanel(app, source);
  choosing.set(node, panel);
  if (kept) after(kept, "callback", () => panel.refresh());
  addPanel(node, PICK_WIDGET, text("pick.title"), panel, { getMinHeight: () => PICK_HEIGHT });
  before(node, "onRemoved", () => choosing.delete(node));
}

/** Compare a prompt of a run with the same one drawn unshared; of a branch one that stands for it, and the others. */
function openCompare(tree, branch = null) {
  const all = tree.prompts.map((_, number) => number);
  const prompts = branch === null ? all : promptsBelow(tree, branch);
  const first = branch === null ? 0 : typicalOf(tree, branch);
  compare(api, { run: tree.run, texts: tree.prompts, prompts, first, seconds: tree.seconds?.elapsed ?? null });
}

/** What the lightbox offers for a picture of a run that has ended. */
function compareOffer({ source }) {
  const tree = source && [...trees.trees.values()].find((known) => known.run === source.run);
  if (tree?.state !== "done") return null;
  return { label: text("compare.action"), run: () => openCompare(tree, source.branch) };
}

/** What can be changed from a picture that is open, as in its tree. */
function editOffer({ source }) {
  const panel = source && [...panels.values()].find(({ tree }) => tree?.run === source.run);
  return panel?.edits.actions(source.branch) ?? null;
}

lightboxActions.push(compareOffer, editOffer);

const changed = () => undoable(app);

const editing = new Editing({
  ...{ app, api, results, changed, root: rootGraph },
  quietly: (work) => quietly(app, work),
  refresh: () => panels.forEach((panel) => panel.edits.refresh()),
});

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
  const inside = panels.has(node) || schedules.has(node) || comparisons.has(node) || choosing.has(node);
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
  comparisons.get(node)?.refresh();
  choosing.get(node)?.refresh();
  const result = latest(rootGraph(), results, node);
  const said = result?.text ?? "";
  if (!said && !reports.get(node)?.text) return;
  panels.get(node)?.redraw(); // it may know of pictures
  const panel = addResult(node);
  const host = (panels.get(node) ?? schedules.get(node) ?? comparisons.get(node) ?? choosing.get(node))?.root;
  if (host && !panel.root.parentElement) host.append(panel.root);
  if (said && !panel.text) panel.heightBefore = node.size[1];
  const over = !said && panel.text;
  panel.show(said, result?.state ?? "none");
  offerFolder(panel, api, result?.data?.hierdiff_folder);
  if (over && panel.heightBefore < node.size[1]) node.setSize([node.size[0], panel.heightBefore]);
  schedules.get(node)?.reshape();
}

/** The node that a tree or a result is of, if its workflow is open. */
function nodeHere({ workflow, node }) {
  return workflow && workflow !== rootGraph()?.id ? null : nodeOf(rootGraph(), node);
}

results.listeners.add((result) => {
  const node = nodeHere(result);
  if (node) showResult(node);
});

picks.listeners.add((question) => {
  const panel = choosing.get(nodeHere(question));
  panel?.refresh();
  if (panel?.question !== question || panel.inSight) return;
  const detail = text("pick.asks", { count: question.pictures.length });
  app.extensionManager?.toast?.add?.({ severity: "info", summary: text("pick.title"), detail, life: 10000 });
});

trees.listeners.add((tree) => {
  const node = nodeHere(tree);
  if (node && !panels.has(node)) {
    addTree(node); // a sampler behind a Hierarchical Guider
    growToFit(node);
  }
  for (const [other, panel] of panels) {
    const before = panel.tree;
    panel.refresh();
    if (panel.tree !== before) findPictures(other);
  }
});

/** The clock of a run goes on between two messages: a step may take minutes. */
setInterval(() => {
  for (const panel of panels.values()) if (panel.tree?.state === "running") panel.refresh();
}, 1000);

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

async function fetchPicks() {
  for (const question of await ask("picks")) picks.receive(question);
}

let missed = null; // one request at a time for runs whose beginning was missed

api.addEventListener("hierdiff.tree", async ({ detail }) => {
  if (await trees.receive(detail)) return;
  missed ??= fetchTrees().finally(() => (missed = null));
});

api.addEventListener("hierdiff.pick", ({ detail }) => picks.receive(detail));

api.addEventListener("hierdiff.result", ({ detail }) => results.receive(detail));

api.addEventListener("executed", ({ detail }) => {
  // the parts of a node that is run as a graph of its own are told of one after the other
  const node = detail.display_node ?? detail.node;
  results.receiveOutput(node, detail.prompt_id, detail.output, node !== detail.node);
});

/** Nodes that the server takes from its cache say nothing: this page may never have heard what they said before. */
api.addEventListener("execution_cached", ({ detail: { nodes, prompt_id } }) => {
  if (!(nodes ?? []).some((id) => isOurs(nodeOf(rootGraph(), id)))) return;
  const here = [...trees.trees.values()].filter(nodeHere);
  for (const tree of here) if (nodes.includes(tree.node)) tree.cachedIn(prompt_id);
  const known = here.map((tree) => tree.run);
  fetchTrees({ prompt_id, known: known.join(",") });
  fetchResults({ prompt_id });
});

api.addEventListener("execution_start", ({ detail }) => editing.began(detail?.prompt_id ?? null));
api.addEventListener("reconnected", () => editing.began(null)); // its end may have been missed

for (const ending of ["execution_success", "execution_error", "execution_interrupted"]) {
  api.addEventListener(ending, ({ detail }) => {
    results.end(detail?.prompt_id);
    picks.end(detail?.prompt_id);
    editing.began(null);
    for (const [node, panel] of panels) if (panel.tree?.promptIds.includes(detail?.prompt_id)) findPictures(node);
  });
}

// --- the extension ---

function stylesheet() {
  for (const name of ["hierdiff", "compare", "edits"]) {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = new URL(`./${name}.css`, import.meta.url).href;
    document.head.append(link);
  }
}

await loadTexts(api, app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? "en"); // the menu is made at once

const { command: unpackCommand, getNodeMenuItems: unpackItems, ...unpackHooks } = unpacking(app, changed);

app.registerExtension({
  name: "hierdiff",
  ...templateMenu(app, api, [unpackCommand]),
  ...unpackHooks,
  ...withWords,

  init() {
    stylesheet();
    addTableStyle();
    addPickStyle();
  },

  async setup() {
    separateTabs(app, (workflow) => (fromHistory = workflow === null));
    await Promise.all([fetchTrees(), fetchResults(), fetchPicks(), searchByWords(app)]);
  },

  nodeCreated(node) {
    const type = node.comfyClass;
    colorByStage(node);
    keepOldSheet(node);
    showDraws(node);
    if (keepsEdits(node)) hideWidget(node.widgets.find(({ name }) => name === "edits"));
    if (MARKED_NODES.includes(type)) addMarks(node);
    if (TREE_NODES.includes(type)) addTree(node);
    if (type === SCHEDULE_NODE) addSchedule(node);
    if (type === TABLE_NODE) addTable(node);
    if (type === COMPARE_NODE) addComparison(node);
    if (type === PICK_NODE) addPick(node);
    if (isOurs(node)) addResult(node);
  },

  getNodeMenuItems(node) {
    const tree = panels.get(node)?.tree;
    const done = tree?.state === "done" && tree.prompts.length > 0;
    const compared = done ? [{ content: text("compare.action"), callback: () => openCompare(tree) }] : [];
    return [...compared, ...unpackItems(node)];
  },

  loadedGraphNode(node) {
    panels.get(node)?.refresh();
    findPictures(node);
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
