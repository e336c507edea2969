// Editing a set from its tree: what the menu, the keys and the handles of a tree's panel do. What they change is in the
// hands of `memory` (edits_page.js).

import { countOf, difference } from "./edits.js";
import { boundOf, together } from "./edits_bound.js";
import { drawMarks, handleAt, stepAt } from "./edits_drawing.js";
import { alsoOf, keyOf, labelOf, menuItems, saidOf, shortened } from "./edits_items.js";
import { knownOf, marksOf, numberOf, offers, problemOf } from "./edits_menu.js";
import { askText, closeMenu, openMenu, PendingLine, showKeys } from "./edits_popup.js";
import { priceText, wholePrice } from "./edits_price.js";
import { offerAgain } from "./lightbox.js";
import { text } from "./texts.js";
import { countOf as promptsText } from "./tree_items.js";
import { hitAt, READABLE_ROW, textLeft, xOf, yOf } from "./tree_layout.js";
import { hideTip } from "./tree_tip.js";

const DRAGGED = 3; // pixels from which a press on a handle moves it
const WAIT = 150; // milliseconds after the last change before a price is asked for
const SAID = 6000; // milliseconds that an answer stays
const NARROWEST_INPUT = 240; // pixels

/** What a tree's panel has for editing; `memory` is what edits_page.js gives for the node. */
export class TreeEdits {
  constructor(panel, memory) {
    Object.assign(this, { panel, memory, state: null, marks: new Map(), held: null, said: "", count: 4 });
    this.line = new PendingLine(panel.bar, { run: () => memory.run(), undo: () => this.undo() });
    const { view, root } = panel;
    for (const type of ["pointerdown", "pointerup"]) view.addEventListener(type, (event) => this.right(event));
    view.addEventListener("contextmenu", (event) => this.asked(event));
    view.addEventListener("pointerup", () => this.drop());
    view.addEventListener("pointercancel", () => this.drop());
    root.addEventListener("contextmenu", (event) => event.target === root && this.askedByKey(event));
    for (const type of ["focus", "pointerenter"]) root.addEventListener(type, () => this.refresh());
  }

  remove() {
    clearTimeout(this.timer);
    closeMenu();
  }

  // --- what is asked for ---

  /** Look again at what the node and the prompts say. */
  refresh() {
    const { tree } = this.panel;
    this.state = tree?.leaves ? this.memory.state(tree) : null;
    this.holdOn();
    this.marks = this.state ? marksOf(this.state) : new Map();
    this.texts = new Map([...this.marks].filter(([, { text: words }]) => words).map(([index, { text: words }]) => [index, words]));
    this.panel.root.dataset.told = this.state?.edited ? (this.state.told.promptId ?? "") : "";
    this.tell();
    this.renew();
    this.panel.redraw();
  }

  /** A handle that is held stays where it was dragged to, if its tree is there still. */
  holdOn() {
    const { held, state } = this;
    if (!held) return;
    if (!state?.edited || state.tree !== held.tree) this.held = null;
    else if (held.moved) this.state = this.memory.tried(state, this.dragged(held.step));
  }

  /** How many changes no run has had yet: of branches, and of texts and variants. */
  pending() {
    const { edits, edited, written, varied, isAnew } = this.state;
    const asked = edits && edited ? countOf(edits, edited.before) : 0;
    return { asked: asked + Number(isAnew), texts: written.changed.size + written.removed.size + written.added + varied.length };
  }

  /** Show how much is asked for, and what it costs. */
  tell() {
    const running = !this.state || this.state.tree.state === "running";
    const { asked, texts } = running ? { asked: 0, texts: 0 } : this.pending();
    const count = asked + texts;
    const changes = count === 1 ? text("edits.changes_one") : text("edits.changes", { count });
    const show = (words, title) => this.line.show([this.said, words].filter(Boolean).join(" · "), title, count > 0);
    if (!count) return show("", "");
    const { told, text: asks, source, varied } = this.state;
    // a run's price is known when it has told
    const name = JSON.stringify([told?.promptId, asks, texts, source.widget?.value, varied.map(({ now }) => now)]);
    if (this.priced?.name !== name) {
      this.priced = { name, price: undefined };
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.ask(name), WAIT);
    }
    const { price } = this.priced;
    const known = price === undefined ? text("edits.price_asked") : price?.error ? shortened(wholePrice(price)) : priceText(price);
    show(text("edits.changes_cost", { changes, price: known }), price ? wholePrice(price) : "");
  }

  async ask(name) {
    const price = await this.total();
    if (this.priced?.name !== name) return;
    this.priced.price = price;
    this.tell();
    if (price) this.announce(wholePrice(price));
  }

  /** What all that is asked for costs: at most so much where texts or variants are among it; null: it is not known. */
  async total() {
    const { state } = this;
    if (!state) return null;
    const { asked, texts } = this.pending();
    const bound = texts && !state.isAnew ? boundOf(state) : null;
    if (!asked) return bound;
    const price = await this.memory.price(state, state.edits);
    return texts ? together(price, bound) : price;
  }

  announce(words) {
    this.panel.announce.textContent = words;
  }

  /** Answer a person who has asked for something: it is read out, and stands in the line for a while. */
  say(words) {
    this.said = words;
    this.announce(words);
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      this.said = "";
      if (this.state) this.tell();
    }, SAID);
    this.tell();
  }

  // --- doing it ---

  /** Do one of `offers` with a branch, or say why not. True where it was done. */
  do(id, index, options = {}) {
    this.refresh();
    if (!this.state) return false;
    const problem = problemOf(this.state, id, index);
    if (problem) return this.say(text(`edits.why_${problem}`)) ?? false;
    const { edited, edits, tree } = this.state;
    const split = edited && ["earlier", "later"].includes(id) && edited.splitStep(edits, index);
    const asks = {
      pin: () => this.write("pin", index, edited.pin(edits, index)),
      reroll: () => this.write("reroll", index, this.rerolled(index, options.step)),
      earlier: () => this.write(id, index, edited.moveSplit(edits, index, split - 1)),
      later: () => this.write(id, index, edited.moveSplit(edits, index, split + 1)),
      hold: () => this.write(id, index, edited.hold(edits, index)),
      edit: () => this.askText(index, false),
      duplicate: () => this.askText(index, true),
      variants: () => this.vary(index, options.count ?? this.count, options.step ?? this.variantStep(index)),
      remove: () => this.writeText(numberOf(this.state, index), null, false, text("edits.done_remove")),
    };
    asks[id]();
    return true;
  }

  rerolled(index, step) {
    const { edited, edits } = this.state;
    return step === undefined ? edited.toggleReroll(edits, index) : edited.reroll(edits, index, step);
  }

  /** Keep changes, and say what they are and what else they take back. */
  write(id, index, edits) {
    const before = this.state.edits;
    const { added, removed } = difference(edits, before.changes);
    const also = alsoOf(this.state, id, index, edits);
    this.memory.write(this.state, edits);
    this.refresh();
    const pinned = id === "pin" && text(this.state.edited?.isPinned(edits, index) ? "edits.done_pin" : "edits.done_unpin");
    const done = pinned || saidOf(this.state, added.at(-1), removed.at(-1));
    this.say([done, also].filter(Boolean).join(" · "));
  }

  writeText(number, words, after, done) {
    this.memory.writeText(this.state, number, words, after);
    this.refresh();
    this.say(done);
  }

  vary(index, count, step) {
    this.count = count;
    const { tree } = this.state;
    if (!this.memory.vary(this.state, { number: numberOf(this.state, index), count, part_at: step / tree.steps })) return;
    this.refresh();
    this.say(text("edits.done_variants", { count, step: step + 1 }));
  }

  /** Where variants of a leaf part if nobody says: where it parts from the others, but while there is noise to be other. */
  variantStep(index) {
    const { tree, edited } = this.state;
    const { branches, steps } = tree;
    return Math.max(Math.min(branches[index].start, Math.floor(steps / 2), edited?.last ?? steps), Math.min(1, steps - 1));
  }

  undo() {
    this.memory.undo(this.state);
    this.refresh();
    this.say(text("edits.done_undo"));
    this.panel.root.focus({ preventScroll: true });
  }

  anew() {
    this.memory.anew(this.state);
    this.refresh();
    this.say(text("edits.done_anew"));
  }

  /** An input in the place of a leaf's prompt; `after`: for one more. */
  askText(index, after) {
    const { panel } = this;
    const { tree } = this.state;
    if (panel.place.row < READABLE_ROW) panel.row = READABLE_ROW;
    panel.reveal(index, panel.view.clientHeight / 2);
    hideTip(panel);
    const number = numberOf(this.state, index);
    const now = this.texts.get(index) ?? tree.prompts[number];
    const [seen, place] = [panel.seen, panel.place];
    const wide = place.text >= NARROWEST_INPUT;
    const left = wide ? textLeft(place) - 4 : Math.max(xOf(seen, place, tree.steps) - NARROWEST_INPUT, 4);
    const box = { left, top: yOf(seen, place, seen.branches[index]) - 12, width: Math.max(place.width - left - 6, 80), height: 24 };
    const label = text(after ? "edits.input_duplicate" : "edits.input_label");
    askText(panel.content, box, now, label, (answer) => {
      if (panel.tree === tree && answer?.trim() && (after || answer !== now)) {
        this.refresh();
        this.writeText(number, answer, after, text(after ? "edits.done_duplicate" : "edits.done_edit"));
      }
      this.back(index);
    });
  }

  /** The keys are the tree's again, at the branch where they were. */
  back(index) {
    const { panel } = this;
    panel.root.focus({ preventScroll: true });
    if (index < (panel.tree?.branches.length ?? 0)) panel.select(index);
  }

  // --- keys ---

  /** Do what a key is for; false where it is not ours. */
  key(key, selected) {
    if (key === "?") return this.help(selected) && true;
    const pressed = key === "Backspace" ? "delete" : key.toLowerCase();
    if (selected === null || !this.state) return pressed === "delete" && Boolean(this.state); // never the node instead
    if (key === "m" || key === "ContextMenu") return this.menu(selected) ?? true;
    const asked = this.state.edited && this.state.edits && this.state.edited.rerollOf(this.state.edits, selected);
    const by = { "+": 1, "=": 1, "-": -1 }[key];
    if (by && asked && !asked.ran) return this.do("reroll", selected, { step: asked.step + by }) || true;
    const offer = offers(this.state, selected).find((each) => each.key.toLowerCase() === pressed);
    if (offer) this.do(offer.id, selected);
    return Boolean(offer) || pressed === "delete"; // the graph must not take it for the node
  }

  async help(index) {
    await showKeys();
    this.back(index ?? Infinity);
  }

  // --- the menu ---

  /** A right click on a branch is for the tree; elsewhere for the node. */
  right(event) {
    if (event.button === 2 && this.branchAt(event) !== null) event.stopPropagation();
  }

  branchAt(event) {
    const { panel } = this;
    return panel.place ? (panel.hit(event)?.index ?? null) : null;
  }

  asked(event) {
    const index = this.branchAt(event);
    if (index === null) return;
    event.preventDefault();
    event.stopPropagation();
    this.panel.select(index);
    this.menu(index, { x: event.clientX, y: event.clientY });
  }

  /** The key for menus, where the tree has the focus. */
  askedByKey(event) {
    if (this.panel.selected === null || !this.panel.place) return;
    event.preventDefault();
    event.stopPropagation();
    this.menu(this.panel.selected);
  }

  menu(index, point = this.panel.pointAt(index)) {
    this.refresh();
    if (!this.state) return;
    hideTip(this.panel);
    const { prompts } = this.state.tree;
    const leaf = this.state.tree.branches[index].stop === this.state.tree.steps;
    const name = leaf ? prompts[numberOf(this.state, index)] : text("edits.branch", { count: promptsText(this.panel.tree.promptsOf(index).length) });
    const open = { index, tree: this.state.tree, chosen: {} };
    open.menu = openMenu(shortened(name), menuItems(this, index, open.chosen), point, (focus) => {
      if (this.open === open) this.open = null;
      if (focus) this.back(index);
    });
    this.open = open;
  }

  /** The menu that is open and the buttons of the lightbox say what can be done: again where that has changed. */
  renew() {
    const before = this.known;
    this.known = knownOf(this.state);
    if (before && before.length === this.known.length && before.every((each, i) => each === this.known[i])) return;
    if (this.open && this.open.tree !== this.state?.tree) closeMenu(this.open.menu.hasFocus);
    else this.open?.menu.renew(menuItems(this, this.open.index, this.open.chosen));
    offerAgain();
  }

  // --- handles ---

  /** A press may be on a handle, or on a split that can be moved. */
  press(event) {
    if (event.button !== 0 || !this.state || this.state.problem || this.state.tree.state === "running") return;
    const { panel } = this;
    const { x, y } = panel.pointOf(event);
    const on = handleAt(panel.seen, panel.place, this.marks, x, y + panel.view.scrollTop) ?? this.splitUnder(x, y + panel.view.scrollTop);
    if (on) this.held = { ...on, x, moved: false, edits: this.state.edits, tree: this.state.tree, pointer: event.pointerId };
  }

  splitUnder(x, y) {
    const { seen, place, shown } = this.panel;
    const hit = hitAt(seen, place, x, y, shown);
    const free = hit?.kind === "split" && !seen.branches[hit.index].folded && this.canMove(hit.index);
    return free ? hit : null;
  }

  canMove(index) {
    const { edited, edits, problem } = this.state;
    return !problem && edited.canMoveSplit(edits, index);
  }

  /** Move what is held with the pointer; true while it is. */
  drag(event) {
    const { held, panel } = this;
    if (!held || !(event.buttons & 1)) return false;
    const { x } = panel.pointOf(event);
    if (!held.moved && Math.abs(x - held.x) <= DRAGGED) return false;
    if (!held.moved) panel.view.setPointerCapture?.(held.pointer);
    held.moved = true;
    held.step = stepAt(panel.seen, panel.place, x);
    this.state = this.memory.tried(this.state, this.dragged(held.step));
    this.marks = marksOf(this.state);
    this.tell();
    hideTip(panel);
    panel.view.style.cursor = "ew-resize";
    panel.redraw();
    return true;
  }

  dragged(step) {
    const { kind, index, edits } = this.held;
    const { edited } = this.state;
    return kind === "split" ? edited.moveSplit(edits, index, step) : edited.reroll(edits, index, step);
  }

  /** Keep where a handle was let go. */
  drop() {
    const { held } = this;
    this.held = null;
    if (!held?.moved) return;
    const { edits } = this.state;
    this.refresh();
    if (!this.state?.edited) return;
    this.write(held.kind === "split" ? "earlier" : "reroll", held.index, edits);
  }

  draw(context, colors) {
    const { panel } = this;
    if (this.marks.size) drawMarks(context, panel.seen, panel.place, this.marks, { scroll: panel.view.scrollTop, colors });
  }

  /** What the lightbox offers for a picture of this tree. */
  actions(index) {
    this.refresh();
    if (!this.state || problemsAll(this.state, index)) return [];
    const leaf = this.state.tree.branches[index].stop === this.state.tree.steps;
    return offers(this.state, index).filter(({ problem }) => !problem).map(({ id, key, on }) => ({
      label: labelOf(id, on, leaf, this.count),
      key: keyOf(id),
      pressed: key,
      run: (item, lightbox) => this.inLightbox(id, index, lightbox),
    }));
  }

  inLightbox(id, index, lightbox) {
    const asksText = ["edit", "duplicate"].includes(id);
    if (asksText) lightbox.close(); // the input is in the tree
    this.do(id, index);
    if (asksText) return;
    const { said } = this;
    lightbox.say(said);
    const { asked, texts } = this.pending();
    if (asked + texts) this.total().then((price) => lightbox.say([said, priceText(price)].join(" · ")));
  }
}

function problemsAll(state, index) {
  return offers(state, index).every(({ problem }) => problem);
}
