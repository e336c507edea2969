// The panel that shows a tree in a node: it grows, tells what is under the pointer, and follows the arrow keys.

import { element, makePanel, oncePerFrame, passToGraph, sized, themeColors, watch } from "./panel.js";
import { timeText } from "./run_time.js";
import { percent, text } from "./texts.js";
import { draw, layout, placeAt, xOf, yOf } from "./tree_drawing.js";

const MIN_HEIGHT = 240;
const GROWING = 350; // milliseconds that a branch takes to reach the step that was reported
const TIP_PICTURE = 96;
const TIP_PROMPTS = 8;

/** Shows the tree that `find()` gives, or a note where there is none. */
export class TreePanel {
  constructor(find, app) {
    this.find = find;
    Object.assign(this, makePanel(text("tree.label")));
    this.tree = null;
    this.shown = 0; // steps that have grown on the screen
    this.selected = null;
    this.fit = true;
    this.button = element("button", "", this.bar);
    this.button.type = "button";
    this.button.addEventListener("click", () => this.toggle());
    this.redraw = oncePerFrame(() => this.drawNow());
    this.unwatch = watch(this.root, this.redraw);
    this.view.addEventListener("scroll", this.redraw, { passive: true });
    this.view.addEventListener("pointermove", (event) => this.hover(event));
    this.view.addEventListener("pointerleave", () => this.select(null));
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.root.addEventListener("blur", () => this.select(null));
    passToGraph(this.root, app, () => this.view.scrollHeight > this.view.clientHeight + 1);
    this.refresh();
  }

  remove() {
    this.unwatch();
    hideTip(this);
  }

  toggle() {
    this.fit = !this.fit;
    this.refresh();
  }

  /** Look for the tree again and show its numbers. */
  refresh() {
    const tree = this.find();
    if (tree !== this.tree) {
      this.tree = tree;
      this.selected = null;
      hideTip(this);
      this.shown = tree && tree.state === "running" && tree.step === 0 ? 0 : (tree?.step ?? 0);
    }
    const name = this.fit ? "rows" : "fit";
    this.button.textContent = text(`tree.${name}`);
    this.button.title = text(`tree.${name}_tip`);
    this.button.hidden = !tree?.leaves;
    this.note.textContent = tree ? "" : text("tree.waiting");
    this.status.textContent = tree ? statusOf(tree) : "";
    this.status.title = this.status.textContent; // a running tree's is cut off where the node is narrow
    if (tree && tree.state !== "running") this.announce.textContent = this.status.textContent;
    this.root.dataset.state = tree?.state ?? "none";
    this.root.dataset.step = tree?.step ?? 0;
    this.redraw();
  }

  drawNow() {
    const [width, height] = [this.view.clientWidth, this.view.clientHeight];
    if (!width || !height) return; // collapsed, or scrolled off
    const now = performance.now();
    const { tree } = this;
    this.place = tree?.leaves ? layout(tree, width, height, this.fit) : null;
    this.view.style.overflowY = this.place && !this.fit && this.place.content > height ? "auto" : "hidden";
    const context = sized(this.canvas, width, height);
    this.content.style.height = `${this.place && !this.fit ? Math.max(this.place.content, height) : height}px`;
    if (!this.place) return context.clearRect(0, 0, width, height);
    const growing = this.grow(now);
    const view = { scroll: this.view.scrollTop, shown: this.shown, selected: this.selected };
    draw(context, tree, this.place, { ...view, colors: themeColors(this.root) });
    if (growing) this.redraw();
  }

  /** Move `shown` towards the step that was reported; true while it still moves. */
  grow(now) {
    const elapsed = Math.min(now - (this.grownAt ?? now), 100);
    this.grownAt = now;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.shown = still ? this.tree.step : grown(this.shown, this.tree.step, elapsed);
    if (this.shown < this.tree.step) return true;
    this.grownAt = undefined;
    return false;
  }

  // --- what is under the pointer, or chosen by the keys ---

  hover(event) {
    if (!this.place || event.buttons) return;
    const box = this.view.getBoundingClientRect();
    const zoom = box.width / this.view.offsetWidth || 1; // of the graph
    const x = (event.clientX - box.left) / zoom;
    const y = (event.clientY - box.top) / zoom + this.view.scrollTop;
    const { row, step } = placeAt(this.tree, this.place, x, y);
    this.select(this.tree.at(row, step), { x: event.clientX, y: event.clientY });
  }

  select(index, point) {
    if (index !== this.selected) {
      this.selected = index;
      this.redraw();
    }
    if (index === null || !point) hideTip(this);
    else showTip(this, this.tree, index, point);
  }

  key(event) {
    if (event.target !== this.root || !this.place) return;
    const next = neighbour(this.tree, this.selected, event.key);
    if (next === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (next === null) return this.select(null);
    const y = yOf(this.tree, this.place, this.tree.branches[next]);
    this.view.scrollTop = Math.min(this.view.scrollTop, Math.max(y - 40, 0));
    this.view.scrollTop = Math.max(this.view.scrollTop, y - this.view.clientHeight + 40);
    const box = this.view.getBoundingClientRect();
    const zoom = box.width / this.view.offsetWidth || 1;
    const x = xOf(this.tree, this.place, this.tree.branches[next].start);
    this.select(next, { x: box.left + x * zoom, y: box.top + (y - this.view.scrollTop) * zoom });
    this.announce.textContent = `${stepsOf(this.tree, next)}: ${this.tree.promptsOf(next).join("; ")}`;
  }
}

/** How far a branch that had `shown` steps has grown towards `step` after some milliseconds. */
export function grown(shown, step, elapsed) {
  const left = step - shown;
  return left <= 0.01 ? step : shown + left * (1 - Math.exp((-4 * Math.max(elapsed, 8)) / GROWING));
}

/** The numbers of a tree, as a line. */
export function statusOf(tree) {
  const values = {
    step: tree.step,
    steps: tree.steps,
    clusters: tree.clusters,
    rows: tree.rows,
    standard: tree.standard,
    saved: percent(tree.saved),
  };
  const line = text({ running: "tree.status", done: "tree.done", stopped: "tree.stopped" }[tree.state], values);
  return [timeText(tree), line, verdictOf(tree)].filter(Boolean).join(" · ");
}

/** What was measured of the plan on this model, in words; empty where it saves nothing. */
export function verdictOf({ measured }) {
  return measured ? text(`tree.measured_${measured.verdict}`, measured) : "";
}

function stepsOf(tree, index) {
  const { start, stop } = tree.branches[index];
  return text("tree.steps", { first: start + 1, last: stop });
}

/** Where an arrow key leads; null: nowhere, undefined: not ours. */
export function neighbour(tree, index, key) {
  const branch = tree.branches[index ?? 0];
  const toRow = (row) => tree.at(row, branch.start);
  const moves = {
    ArrowLeft: () => (branch.parent >= 0 ? branch.parent : branch.index),
    ArrowRight: () => branch.children[0] ?? branch.index,
    ArrowUp: () => toRow(branch.first - 1) ?? branch.index,
    ArrowDown: () => toRow(branch.first + branch.leaves) ?? branch.index,
    Home: () => 0,
    End: () => tree.byRow[branch.first],
    Escape: () => null,
  };
  if (!(key in moves)) return undefined;
  return index === null && key !== "Escape" ? 0 : moves[key]();
}

// --- one tip for the page: it is not cut off by the node, and not scaled with the graph ---

let tip = null;
let tipOwner = null;

function hideTip(owner) {
  if (tip && tipOwner === owner) tip.hidden = true;
}

function showTip(owner, tree, index, point) {
  tip ??= element("div", "hierdiff-tip", document.body);
  tipOwner = owner;
  tip.replaceChildren();
  const picture = tree.pictures.get(index);
  if (picture) tip.append(enlarged(picture));
  const words = element("div", "", tip);
  const prompts = tree.promptsOf(index);
  const count = prompts.length === 1 ? text("tree.prompts_one") : text("tree.prompts", { count: prompts.length });
  element("strong", "", words).textContent = `${stepsOf(tree, index)} · ${count}`;
  const list = element("ul", "", words);
  for (const prompt of prompts.slice(0, TIP_PROMPTS)) element("li", "", list).textContent = prompt;
  const more = prompts.length - TIP_PROMPTS;
  if (more > 0) element("li", "", list).textContent = text("tree.more", { count: more });
  tip.hidden = false;
  const { x, y } = besides(point, tip.getBoundingClientRect(), { width: innerWidth, height: innerHeight });
  tip.style.left = `${x}px`;
  tip.style.top = `${y}px`;
}

/** Where a box stands that tells of a point: beside it, on the side that has room, and inside the window. */
export function besides(point, box, window) {
  const x = point.x + 16 + box.width < window.width ? point.x + 16 : point.x - 16 - box.width;
  const y = Math.min(point.y + 12, window.height - box.height - 8);
  return { x: Math.max(x, 8), y: Math.max(y, 8) };
}

function enlarged({ image, x, y, width, height }) {
  const canvas = element("canvas", "");
  const scale = TIP_PICTURE / Math.max(width, height);
  const context = sized(canvas, width * scale, height * scale);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, x, y, width, height, 0, 0, width * scale, height * scale);
  return canvas;
}

export { MIN_HEIGHT };
