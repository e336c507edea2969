// The panel that shows a tree in a node: it grows, tells what is under the pointer, is searched, folded and zoomed.

import { TreeEdits } from "./edits_panel.js";
import { openLightbox } from "./lightbox.js";
import { makePanel, oncePerFrame, passToGraph, sized, themeColors, watch } from "./panel.js";
import { text } from "./texts.js";
import { draw } from "./tree_drawing.js";
import { foldedTo, withFolded } from "./tree_folding.js";
import { branchItem, countOf, leafItems, stepsOf } from "./tree_items.js";
import { hitAt, layout, placeAt, READABLE_ROW, SMALLEST_TEXT_ROW, xOf, yOf, zoomed } from "./tree_layout.js";
import { TreePictures } from "./tree_pictures.js";
import { statusOf } from "./tree_status.js";
import { found } from "./tree_texts.js";
import { hideTip, showTip } from "./tree_tip.js";
import { TreeTools } from "./tree_tools.js";

const MIN_HEIGHT = 240;
const GROWING = 350; // milliseconds that a branch takes to reach the step that was reported
const MARGIN = 40; // pixels around what is brought into sight
const DRAGGED = 4; // pixels from which a press is no click
const ZOOM = 1.5;
const WHEEL = 300; // pixels of the wheel that zoom by e

/**
 * Shows the tree that `find()` gives, or a note where there is none; `pictures` are the options of `TreePictures`, and
 * `memory` is where edits of the set are kept (edits_page.js); null: it cannot be edited.
 */
export class TreePanel {
  constructor(find, app, pictures, memory = null) {
    this.find = find;
    Object.assign(this, makePanel(text("tree.label")));
    this.forget(null);
    this.row = null; // pixels of a row; null: the whole tree is seen
    this.redraw = oncePerFrame(() => this.drawNow());
    this.pictures = new TreePictures({ ...pictures, redraw: this.redraw });
    this.tools = new TreeTools(this.bar, {
      search: (asked) => this.search(asked),
      next: (forward) => this.next(forward),
      leave: () => this.leaveSearch(),
      fold: () => this.foldAll(),
      zoom: (factor) => this.zoom(factor),
      toggle: () => this.setRow(this.row === null ? READABLE_ROW : null),
    });
    this.unwatch = watch(this.root, this.redraw);
    this.edits = memory && new TreeEdits(this, memory);
    this.listen(app);
    this.refresh();
  }

  listen(app) {
    const { view, root } = this;
    view.addEventListener("scroll", this.redraw, { passive: true });
    view.addEventListener("pointerdown", (event) => this.press(event));
    view.addEventListener("pointermove", (event) => this.hover(event));
    view.addEventListener("pointerleave", () => this.select(null));
    view.addEventListener("click", (event) => this.click(event));
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("blur", () => this.select(null));
    passToGraph(root, app, () => view.scrollHeight > view.clientHeight + 1, (event) => this.wheel(event));
  }

  remove() {
    this.unwatch();
    this.edits?.remove();
    hideTip(this);
  }

  /** Begin with another tree. */
  forget(tree) {
    this.tree = tree;
    this.folded = new Set();
    this.seen = tree; // the tree without what is folded away
    this.asked = "";
    this.found = null; // leaves that were looked for
    this.selected = null;
    this.shown = tree && tree.state === "running" && tree.step === 0 ? 0 : (tree?.step ?? 0); // steps grown on the screen
  }

  /** Look for the tree again and show its numbers. */
  refresh() {
    const tree = this.find();
    if (tree !== this.tree) {
      this.forget(tree);
      this.search(this.tools.input.value);
      hideTip(this);
    }
    this.note.textContent = tree ? "" : text("tree.waiting");
    this.status.textContent = tree ? statusOf(tree) : "";
    this.status.title = this.status.textContent; // a running tree's is cut off where the node is narrow
    if (tree && tree.state !== "running") this.announce.textContent = this.status.textContent;
    this.root.dataset.state = tree?.state ?? "none";
    this.root.dataset.step = tree?.step ?? 0;
    this.root.dataset.run = tree?.run ?? "";
    this.showTools();
    this.edits?.refresh();
    this.redraw();
  }

  showTools() {
    const row = this.place?.fitting ?? Infinity;
    const [crowded, readable] = [row < SMALLEST_TEXT_ROW, row >= READABLE_ROW];
    const state = { leaves: this.tree?.leaves ?? 0, fit: this.row === null, folded: this.folded.size > 0, crowded, readable };
    if (JSON.stringify(state) === this.toolsShown) return;
    this.toolsShown = JSON.stringify(state);
    this.tools.show(state);
  }

  drawNow() {
    const [width, height] = [this.view.clientWidth, this.view.clientHeight];
    if (!width || !height) return; // collapsed, or scrolled off
    const now = performance.now();
    const { tree, seen } = this;
    this.place = tree?.leaves ? layout(seen, width, height, this.row) : null;
    const scrolls = Boolean(this.place && this.row !== null && this.place.content > height);
    this.view.style.overflowY = scrolls ? "auto" : "hidden";
    this.content.style.height = `${scrolls ? this.place.content : height}px`;
    const context = sized(this.canvas, width, height);
    this.showTools();
    if (!this.place) return context.clearRect(0, 0, width, height);
    const growing = this.grow(now);
    draw(context, seen, this.place, this.drawn());
    this.edits?.draw(context, themeColors(this.root));
    if (growing) this.redraw();
  }

  /** What is drawn of the tree, for `draw`. */
  drawn() {
    const { seen, shown, selected } = this;
    return {
      scroll: this.view.scrollTop,
      shown,
      selected,
      found: this.foundTips(),
      picture: (branch, side) => this.pictures.sharper(this.tree, branch.index, side, seen.pictures.get(branch.index)),
      count: countOf,
      texts: this.edits?.texts,
      colors: themeColors(this.root),
    };
  }

  /** The tips with what was looked for: folded branches stand for their leaves. */
  foundTips() {
    const tip = (index) => {
      while (this.seen.branches[index].hidden) index = this.seen.branches[index].parent;
      return index;
    };
    return this.found && new Set([...this.found].map(tip));
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

  // --- zoom, scrolling, folding ---

  /** Make the rows so high (null: show all), and leave what lies `anchor` pixels below the top where it is. */
  setRow(row, anchor = this.view.clientHeight / 2) {
    const before = this.place;
    const place = before && (this.view.scrollTop + anchor - yOf(this.seen, before, { first: 0, leaves: 0 })) / before.row;
    this.row = row;
    this.drawNow();
    if (place !== null && this.place) {
      this.view.scrollTop = yOf(this.seen, this.place, { first: place, leaves: 0 }) - anchor;
    }
    this.redraw();
  }

  zoom(factor, anchor) {
    if (this.place) this.setRow(zoomed(this.place, factor), anchor);
  }

  /** With Alt the wheel zooms the tree; without it is the graph's, or scrolls. True where it was for the tree. */
  wheel(event) {
    if (!event.altKey || !this.place) return false;
    this.zoom(Math.exp(-event.deltaY / WHEEL), this.pointOf(event).y);
    return true;
  }

  toggleFold(index) {
    if (!this.tree.branches[index].children.length) return;
    if (!this.folded.delete(index)) this.folded.add(index);
    this.fold(index);
  }

  /** Fold as much as it takes to read the rows, or nothing more. */
  foldAll() {
    const rows = Math.max(Math.floor((this.view.clientHeight - 30) / READABLE_ROW), 2);
    this.folded = this.folded.size ? new Set() : foldedTo(this.tree, rows);
    this.fold(null);
    const fits = this.place && layout(this.seen, this.place.width, this.place.height).row >= SMALLEST_TEXT_ROW;
    this.setRow(fits || !this.folded.size ? null : READABLE_ROW);
  }

  fold(selected) {
    this.seen = withFolded(this.tree, this.folded);
    hideTip(this);
    this.selected = selected;
    this.redraw();
    this.root.dataset.seen = this.seen.leaves; // rows
  }

  /** Bring a branch into sight, select it and tell of it. */
  reveal(index, margin = MARGIN) {
    for (let at = this.tree.branches[index].parent; at >= 0; at = this.tree.branches[at].parent) this.folded.delete(at);
    this.seen = withFolded(this.tree, this.folded);
    this.drawNow();
    const y = () => yOf(this.seen, this.place, this.seen.branches[index]);
    this.view.scrollTop = Math.min(this.view.scrollTop, Math.max(y() - margin, 0));
    this.view.scrollTop = Math.max(this.view.scrollTop, y() - this.view.clientHeight + margin);
    this.select(index, this.pointAt(index));
    this.announce.textContent = `${stepsOf(this.tree, index)}: ${this.tree.promptsOf(index).join("; ")}`;
  }

  /** Where a branch begins, on the window. */
  pointAt(index) {
    const branch = this.seen.branches[index];
    const box = this.view.getBoundingClientRect();
    const zoom = box.width / this.view.offsetWidth || 1;
    const [x, y] = [xOf(this.seen, this.place, branch.start), yOf(this.seen, this.place, branch) - this.view.scrollTop];
    return { x: box.left + x * zoom, y: box.top + y * zoom };
  }

  // --- the search ---

  search(asked) {
    this.asked = asked;
    this.found = this.tree ? found(this.tree, asked) : null;
    this.tools.tell(this.found ? this.found.size : null, -1);
    this.redraw();
  }

  /** Go on to the next leaf that was looked for. */
  next(forward) {
    if (!this.found?.size || !this.place) return;
    const leaves = [...this.tree.byRow].filter((index) => this.found.has(index));
    const at = leaves.indexOf(this.selected ?? -1);
    const next = at < 0 ? (forward ? 0 : leaves.length - 1) : (at + (forward ? 1 : leaves.length - 1)) % leaves.length;
    if (this.place.row < READABLE_ROW) this.row = READABLE_ROW;
    this.reveal(leaves[next], this.view.clientHeight / 2);
    this.tools.tell(leaves.length, next);
  }

  leaveSearch() {
    this.tools.input.value = "";
    this.search("");
    this.root.focus({ preventScroll: true });
  }

  // --- what is under the pointer, or chosen by the keys ---

  /** A point of the view in its own pixels, whatever the zoom of the graph. */
  pointOf(event) {
    const box = this.view.getBoundingClientRect();
    const zoom = box.width / this.view.offsetWidth || 1;
    return { x: (event.clientX - box.left) / zoom, y: (event.clientY - box.top) / zoom };
  }

  press(event) {
    if (event.button === 0) this.pressed = { ...this.pointOf(event), scroll: this.view.scrollTop, moved: false };
    if (this.place) this.edits?.press(event);
  }

  hover(event) {
    if (!this.place) return;
    if (this.edits?.drag(event)) return void (this.pressed.moved = true);
    const point = this.pointOf(event);
    if (event.buttons & 1 && this.pressed) {
      const moved = Math.abs(point.y - this.pressed.y) + Math.abs(point.x - this.pressed.x);
      if (moved > DRAGGED) this.pressed.moved = true;
      if (this.pressed.moved) this.view.scrollTop = this.pressed.scroll + this.pressed.y - point.y;
    }
    if (event.buttons) return;
    const { row, step } = placeAt(this.seen, this.place, point.x, point.y + this.view.scrollTop);
    this.view.style.cursor = this.hit(event) ? "pointer" : "";
    this.select(this.seen.at(row, step), { x: event.clientX, y: event.clientY });
  }

  hit(event) {
    const { x, y } = this.pointOf(event);
    const [shape] = this.tree.pictures.values();
    return hitAt(this.seen, this.place, x, y + this.view.scrollTop, this.shown, shape);
  }

  click(event) {
    if (!this.place || this.pressed?.moved) return;
    const hit = this.hit(event);
    if (hit?.kind === "split") this.toggleFold(hit.index);
    else if (hit) this.open(hit.index);
  }

  select(index, point) {
    if (index !== this.selected) {
      this.selected = index;
      this.redraw();
    }
    if (index === null || !point) hideTip(this);
    else showTip(this, this.tree, index, point);
  }

  /** Show a leaf among all the others, or a branch with its leaves, over the page. */
  open(index) {
    hideTip(this);
    const { tree, pictures } = this;
    const leaf = tree.branches[index].stop === tree.steps;
    const items = leaf ? leafItems(tree, pictures) : [branchItem(tree, pictures, index)];
    openLightbox(items, leaf ? tree.branches[index].first : 0, {
      label: text("lightbox.label"),
      onClose: (item) => {
        this.root.focus({ preventScroll: true });
        if (this.place && this.tree === tree) this.reveal(item.source.branch);
        hideTip(this);
      },
    });
  }

  key(event) {
    if (event.target !== this.root || !this.place) return;
    const done = event.ctrlKey || event.metaKey || event.altKey ? false : this.pressedKey(event.key);
    if (!done) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Do what a key is for; false where it is not ours. */
  pressedKey(key) {
    if (this.edits?.key(key, this.selected)) return true;
    const chosen = this.selected ?? 0;
    const { folded } = this.seen.branches[chosen];
    const does = {
      Enter: () => this.open(chosen),
      " ": () => this.toggleFold(chosen),
      "+": () => this.zoom(ZOOM),
      "=": () => this.zoom(ZOOM),
      "-": () => this.zoom(1 / ZOOM),
      0: () => this.setRow(null),
      "/": () => this.tools.input.focus(),
    }[key];
    if (does) return does() ?? true;
    if (key === "ArrowRight" && folded) return this.toggleFold(chosen) ?? true;
    const next = neighbour(this.seen, this.selected, key);
    if (next === undefined) return false;
    if (next === null) this.select(null);
    else this.reveal(next);
    return true;
  }
}

/** How far a branch that had `shown` steps has grown towards `step` after some milliseconds. */
export function grown(shown, step, elapsed) {
  const left = step - shown;
  return left <= 0.01 ? step : shown + left * (1 - Math.exp((-4 * Math.max(elapsed, 8)) / GROWING));
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

export { MIN_HEIGHT };
