// Editing from the tree, wired into ComfyUI's page: where edits are kept, where prompts come from, what a run has told.

import { countOf, editsText, plannedAnew, readEdits, reported } from "./edits.js";
import { Prices } from "./edits_price.js";
import { EditedTree } from "./edits_tree.js";
import { addVariants, removed, settingsOf } from "./edits_variants.js";
import { idsOf, nodeOf } from "./graphs.js";
import { ANEW, closureOf, digestOf, KeptTrees, TOLD, wrapGraphToPrompt } from "./kept_tree.js";
import { entryOf, holdersOf, sourceOf, upstreamOf, VARIANTS_NODE, withEntry, writtenSince } from "./prompt_source.js";

const MODELS = ["MODEL", "GUIDER", "*"]; // what a sampler of the host takes from our node
const MOST_RUNS = 32;
const LONGEST_TOLD = 1e6; // characters that a workflow keeps of a run
const NOTHING = { changed: new Map(), entries: new Map(), removed: new Set(), added: 0, open: false };

const RUNNING = { keeper: null, told: null, edits: null, edited: null, text: "", problem: "running", source: { problem: "running" }, written: NOTHING, varied: [], isAnew: false };

const widgetOf = (node, name) => node?.widgets?.find((widget) => widget.name === name);
const isLinked = (node, name) => Boolean(node.inputs?.some((input) => (input.widget?.name ?? input.name) === name && input.link != null));

function set(widget, value) {
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
}

/** Whether a node keeps edits of a tree. */
export function keepsEdits(node) {
  return Boolean(node.comfyClass?.startsWith("HierDiff") && widgetOf(node, "edits") && widgetOf(node, "keep"));
}

/** The node that keeps the edits of what a node samples: itself, or the one that its model comes from. */
export function keeperOf(node, root) {
  if (keepsEdits(node)) return node;
  const upstream = upstreamOf(node, holdersOf(root), (input) => MODELS.includes(input.type));
  return upstream.map((maker) => maker.node).find(keepsEdits) ?? null;
}

/** What the extension has of editing. */
export class Editing {
  /**
   * @param app      the page
   * @param api      its server
   * @param results  Results
   * @param root     function: the root graph
   * @param changed  function: lets the page save and undo what has changed
   * @param quietly  function: does a work that changes the workflow, and is not undone for itself
   * @param refresh  function: all panels are to look again
   */
  constructor({ app, api, results, root, changed, quietly, refresh }) {
    Object.assign(this, { app, api, results, root, changed, quietly, refresh });
    this.running = null; // id of the run that goes on
    this.outputs = new Map(); // runs -> what was queued, or a promise of it
    this.values = new WeakMap(); // trees -> values of their prompts' node before it was changed here
    this.prices = new Prices((asked) => this.post(asked));
    this.kept = new KeptTrees({ toldOf: (node) => this.toldOf(node), promptOf: (run) => this.queued(run), quietly });
    wrapGraphToPrompt(app, (made, graph) => this.kept.work(made, graph));
    results.listeners.add((result) => result.data.hierdiff_edits && this.heard(result));
  }

  /** A run has begun (null: none goes on): a tree is drawn before its node has told what it is. */
  began(run) {
    this.running = run;
    this.refresh();
  }

  async post(asked) {
    const body = JSON.stringify(asked);
    const response = await this.api.fetchApi("/hierdiff/price", { method: "POST", body }).catch(() => null);
    return response?.json().catch(() => null) ?? null;
  }

  /** A run has told what its edits were: what it was made from is kept in mind, so that it is known when it is undone. */
  async heard({ node, prompt_id }) {
    this.refresh();
    const keeper = keeperOf(nodeOf(this.root(), node) ?? {}, this.root());
    const [id] = keeper ? idsOf(this.root(), keeper) : [];
    if (id === undefined) return;
    const output = await this.kept.remember(id, prompt_id).catch(() => null);
    const told = this.toldOf(keeper);
    if (!output?.[id] || told?.promptId !== prompt_id || !told.edits || told.edits.length > LONGEST_TOLD) return;
    const digest = digestOf(closureOf(output, id));
    this.quietly(() => ((keeper.properties ??= {})[TOLD] = { edits: told.edits, promptId: prompt_id, digest }));
  }

  /** What was queued for a run, of the host's history; null where it is not there (yet). */
  async queued(run) {
    if (!run) return null;
    if (this.outputs.get(run)) return this.outputs.get(run);
    const asked = this.askQueued(run);
    this.outputs.set(run, asked);
    const output = await asked;
    if (output) this.outputs.set(run, output);
    else this.outputs.delete(run);
    if (this.outputs.size > MOST_RUNS) this.outputs.delete(this.outputs.keys().next().value);
    if (output) this.refresh();
    return output;
  }

  async askQueued(run) {
    const history = await this.get(`/history/${encodeURIComponent(run)}`);
    if (history?.[run]) return history[run].prompt?.[2] ?? null;
    const queue = await this.get("/queue"); // it goes on, after its sampler
    return queue?.queue_running?.find(([, id]) => id === run)?.[2] ?? null;
  }

  async get(route) {
    const response = await this.api.fetchApi(route).catch(() => null);
    return response?.ok ? response.json().catch(() => null) : null;
  }

  /** What the last run of a node that keeps edits has told: {edits, keys, names, promptId, node}, or null. */
  toldOf(keeper) {
    const told = [...this.results.results.values()].filter(({ workflow, node, data }) => {
      const here = data?.hierdiff_edits && (!workflow || workflow === this.root()?.id) && nodeOf(this.root(), node);
      return here && keeperOf(here, this.root()) === keeper;
    });
    const last = told.sort((a, b) => a.order - b.order).at(-1);
    if (last) return { ...last.data.hierdiff_edits, promptId: last.prompt_id, node: last.node };
    const saved = keeper.properties?.[TOLD];
    return typeof saved?.edits === "string" && typeof saved.digest === "string" ? saved : null;
  }

  /** What a tree's panel needs for editing; see `TreeEdits`. */
  memoryOf(node) {
    return {
      state: (tree) => this.stateOf(node, tree),
      tried: (state, edits) => ({ ...state, edits, text: editsText(edits) }),
      price: (state, edits) => (state?.edited && edits ? this.prices.of(state.tree.run, editsText(edits)) : Promise.resolve(null)),
      write: (state, edits) => this.write(state, edits),
      writeText: (state, number, text, after) => this.writeText(state, number, text, after),
      vary: (state, asked) => this.vary(state, asked),
      anew: (state) => this.anew(state),
      undo: (state) => this.undo(state),
      run: () => this.app.queuePrompt(0),
    };
  }

  /** How things stand with a tree: see `offers`. */
  stateOf(node, tree) {
    const root = this.root();
    if (tree.state === "running") return { tree, ...RUNNING };
    const keeper = keeperOf(node, root);
    const told = this.toldFor(keeper, tree);
    const words = widgetOf(keeper, "edits")?.value ?? "";
    const edits = keeper ? readEdits(words) : null;
    const problem = this.problemOf(keeper, edits, told, tree);
    const source = sourceOf(node, tree.prompts, root);
    const state = { tree, keeper, told, edits, text: words, problem, source, edited: problem ? null : this.editedOf(tree, told) };
    state.ran = this.ranOf(problem === "finishing" ? tree.promptIds.at(-1) : (told?.promptId ?? tree.promptIds[0]));
    state.before = source.problem ? undefined : this.valueBefore(state);
    state.written = source.problem ? NOTHING : writtenSince(source, tree.prompts, state.before);
    state.noVariants = !globalThis.LiteGraph?.registered_node_types?.[VARIANTS_NODE];
    const isAnew = Boolean(told && keeper?.properties?.[ANEW] === told.promptId);
    state.varied = this.variantsSince(state);
    state.isAnew = isAnew;
    state.kept = Boolean(edits?.kept || (told && !isAnew && widgetOf(keeper, "keep").value));
    return state;
  }

  problemOf(keeper, edits, told, tree) {
    if (!keeper) return "no_edits";
    if (isLinked(keeper, "edits") || isLinked(keeper, "keep")) return "linked";
    if (idsOf(this.root(), keeper).length > 1) return "twice";
    if (!edits) return "foreign";
    if (this.running && tree.promptIds.at(-1) === this.running && !tree.promptIds.includes(told?.promptId)) return "finishing";
    return told ? "" : "not_told";
  }

  /** What was told of exactly these prompts: a run that was cancelled has told nothing, and the one before may do. */
  toldFor(keeper, tree) {
    const told = keeper && this.toldOf(keeper);
    const { keys, names } = told ?? {};
    const fits = Array.isArray(keys) && keys.length === tree.prompts.length && (names ?? []).every((name, i) => name === tree.prompts[i]);
    return fits ? told : null;
  }

  editedOf(tree, told) {
    if (tree.edited?.keys !== told.keys) tree.edited = new EditedTree(tree, told.keys, readEdits(told.edits)?.changes ?? [], told.last_reroll);
    return tree.edited;
  }

  /** What was queued for a run, if it is known by now; else it is asked for. */
  ranOf(run) {
    const known = this.outputs.get(run);
    if (known && typeof known.then !== "function") return known;
    if (run && !known) this.queued(run);
    return null;
  }

  inputsOf(state, node) {
    const [id] = idsOf(this.root(), node);
    return state.ran?.[id]?.inputs ?? null;
  }

  valueBefore(state) {
    const { node, widget } = state.source;
    const ran = this.inputsOf(state, node)?.[widget.name];
    return typeof ran === "string" ? ran : this.values.get(state.tree);
  }

  /** Nodes Variants that have changed since the run: {node, now, ran: settings, null for a node that is new}. */
  variantsSince(state) {
    if (!state.ran) return [];
    return (state.source.variants ?? []).flatMap((node) => {
      const [now, ran] = [settingsOf(node), this.inputsOf(state, node)];
      return Object.entries(now).some(([name, value]) => ran?.[name] !== value) ? [{ node, now, ran }] : [];
    });
  }

  // --- changes ---

  /** Change the workflow in one piece that can be undone; what is evaluated from now on is kept. */
  change({ keeper }, work) {
    this.changed(); // what was typed just before is not undone with it
    if (keeper && !isLinked(keeper, "keep")) set(widgetOf(keeper, "keep"), true);
    const answer = work();
    this.changed();
    this.app.canvas?.setDirty?.(true, true);
    return answer;
  }

  write(state, edits) {
    const { edited, told } = state;
    const value = editsText(edited ? reported(edits, edited.before, told.keys) : edits);
    this.change(state, () => set(widgetOf(state.keeper, "edits"), value));
  }

  writeText(state, number, text, after) {
    const { source, tree, written } = state;
    const { entry } = entryOf(source, tree.prompts, number, written);
    if (!entry) return;
    if (state.before === undefined) this.values.set(tree, source.widget.value);
    this.change(state, () => set(source.widget, withEntry(source, entry, text, after)));
  }

  vary(state, asked) {
    return this.change(state, () => addVariants(state.source, asked, (type) => LiteGraph.createNode(type)));
  }

  anew(state) {
    const { keeper, told, edits } = state;
    this.change(state, () => {
      (keeper.properties ??= {})[ANEW] = told.promptId;
      set(widgetOf(keeper, "edits"), editsText(plannedAnew(edits, told.edits)));
    });
  }

  /** Take back what was changed since the run. */
  undo(state) {
    const { keeper, edited, edits, source, before } = state;
    this.changed();
    if (edited && countOf(edits, edited.before)) set(widgetOf(keeper, "edits"), editsText({ ...edits, changes: edited.before }));
    if (keeper?.properties) delete keeper.properties[ANEW];
    const ran = keeper && this.inputsOf(state, keeper)?.edits;
    if (edited && typeof ran === "string" && readEdits(ran)) set(widgetOf(keeper, "edits"), ran);
    if (before !== undefined) set(source.widget, before);
    for (const { node, ran } of this.variantsSince(state)) removed(node, ran);
    this.changed();
    this.app.canvas?.setDirty?.(true, true);
  }
}
