// What opens over the page to change a tree: the menu of a branch, the keys, and the input in the place of a prompt.

import { element } from "./panel.js";
import { text } from "./texts.js";
import { besides } from "./tree_tip.js";

let open = null; // the menu that is open

/** Close the menu, whoever opened it. */
export function closeMenu(focus = false) {
  const menu = open;
  open = null;
  menu?.close(focus);
}

/**
 * Open a menu over the page.
 *
 * @param title   what it is about
 * @param items   {name, label, key, note: why it cannot be chosen or "", run(), hint(): what else it does, price: a
 *                promise of a text and a title, or null, stepper: {words(), move(by)} for what has a number}; null for a line between two
 * @param point   {x, y} of the window
 * @param onClose called when it is gone; true where the focus goes back
 */
export function openMenu(title, items, point, onClose) {
  closeMenu();
  open = new Menu(title, items, point, onClose);
  return open;
}

class Menu {
  constructor(title, items, point, onClose) {
    this.gone = onClose;
    this.root = element("div", "hierdiff-menu hierdiff-own", document.body);
    this.root.setAttribute("role", "menu");
    this.root.setAttribute("aria-label", text("edits.menu_label"));
    const head = element("div", "hierdiff-menu-title", this.root);
    head.textContent = title;
    head.title = title;
    this.list = element("div", "", this.root);
    for (const item of items) this.add(item);
    this.point = point;
    this.place();
    this.root.addEventListener("keydown", (event) => this.key(event));
    for (const type of ["keyup", "keypress", "wheel", "pointerdown"]) this.root.addEventListener(type, (event) => event.stopPropagation());
    this.root.addEventListener("contextmenu", (event) => event.preventDefault());
    this.outside = (event) => this.root.contains(event.target) || closeMenu();
    window.addEventListener("pointerdown", this.outside, { capture: true });
    window.addEventListener("wheel", this.outside, { capture: true, passive: true });
    window.addEventListener("blur", this.outside);
    this.items[0]?.focus();
  }

  place() {
    const { x, y } = besides(this.point, this.root.getBoundingClientRect(), { width: innerWidth, height: innerHeight });
    Object.assign(this.root.style, { left: `${x}px`, top: `${y}px` });
  }

  get items() {
    return [...this.root.querySelectorAll("[role=menuitem]")];
  }

  get hasFocus() {
    return this.root.contains(document.activeElement);
  }

  /** Show other items; the focus stays at the one with the same name, or in the same place. */
  renew(items) {
    const [before, at] = [document.activeElement, this.items.indexOf(document.activeElement)];
    const name = before?.dataset.item;
    this.list.replaceChildren();
    for (const item of items) this.add(item);
    this.place();
    if (at < 0) return;
    (this.items.find((made) => name && made.dataset.item === name) ?? this.items[Math.min(at, this.items.length - 1)]).focus();
  }

  add(item) {
    if (!item) return element("hr", "", this.list);
    const row = element("div", "hierdiff-menu-row", this.list);
    const made = element("button", "", row);
    made.type = "button";
    made.tabIndex = -1;
    made.setAttribute("role", "menuitem");
    made.dataset.item = item.name ?? "";
    const label = element("span", "hierdiff-menu-label", made);
    label.textContent = item.label;
    if (item.checked !== undefined) made.dataset.checked = String(item.checked);
    const price = element("span", "hierdiff-menu-price", made);
    if (item.key) element("kbd", "", made).textContent = item.key;
    if (item.note) {
      made.setAttribute("aria-disabled", "true");
      element("small", "", made).textContent = item.note;
    } else if (item.stepper) this.addStepper(row, made, label, item, price);
    if (!item.note) {
      if (item.hint) price.hint = element("small", "hierdiff-menu-hint", made);
      this.showPrice(item, price);
    }
    made.addEventListener("click", () => this.choose(item));
    made.addEventListener("pointerenter", () => made.focus({ preventScroll: true }));
  }

  /** Buttons beside an item that change its number; the arrows left and right do so too. */
  addStepper(row, made, label, item, price) {
    const move = (by) => {
      item.stepper.move(by);
      label.textContent = item.stepper.words();
      this.showPrice(item, price);
    };
    made.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, "-": -1, ArrowRight: 1, "+": 1, "=": 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      move(by);
    });
    const sides = element("span", "hierdiff-stepper", row);
    for (const [sign, by, name] of [["−", -1, "less"], ["+", 1, "more"]]) {
      const side = element("button", "", sides);
      side.type = "button";
      side.tabIndex = -1;
      side.textContent = sign;
      side.setAttribute("aria-label", `${text(`edits.${name}`)}: ${item.label}`);
      side.addEventListener("click", () => (move(by), made.focus()));
    }
    label.textContent = item.stepper.words();
  }

  async showPrice(item, place) {
    if (place.hint) place.hint.textContent = item.hint();
    if (!item.price) return;
    const asked = item.price();
    place.asked = asked;
    place.textContent = text("edits.price_asked");
    const { words, whole } = await asked;
    if (place.asked !== asked) return;
    place.textContent = words;
    place.title = whole;
  }

  choose(item) {
    if (item.note) return;
    closeMenu(true);
    item.run();
  }

  key(event) {
    event.stopPropagation();
    if (event.key === "Escape" || event.key === "Tab") {
      event.preventDefault();
      return closeMenu(true);
    }
    const { items } = this;
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    items.at(to % items.length).focus();
  }

  close(focus) {
    window.removeEventListener("pointerdown", this.outside, { capture: true });
    window.removeEventListener("wheel", this.outside, { capture: true });
    window.removeEventListener("blur", this.outside);
    this.root.remove();
    this.gone?.(focus);
  }
}

/**
 * Ask for a prompt in the place of another.
 *
 * @param parent   element that it lies in
 * @param place    {left, top, width, height} in it
 * @param value    to begin with
 * @param onDone   called once with the text, or null where it was given up
 */
export function askText(parent, place, value, label, onDone) {
  const input = element("input", "hierdiff-inplace", parent);
  input.type = "text";
  input.value = value;
  input.spellcheck = false;
  input.setAttribute("aria-label", label);
  for (const [name, pixels] of Object.entries(place)) input.style[name] = `${pixels}px`;
  let over = false;
  const end = (answer) => {
    if (over) return;
    over = true;
    input.remove();
    onDone(answer);
  };
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.isComposing) return; // Enter chooses a word of an input method
    if (event.key === "Enter") end(input.value);
    if (event.key === "Escape") end(null);
  });
  for (const type of ["keyup", "keypress", "copy", "paste", "cut", "pointerdown", "pointermove", "click", "contextmenu"]) {
    input.addEventListener(type, (event) => event.stopPropagation());
  }
  input.addEventListener("blur", () => end(input.value === value ? null : input.value));
  input.focus({ preventScroll: true });
  input.setSelectionRange(value.length, value.length);
  return input;
}

const HELP = {
  help_leaf: [["P", "help_pin"], ["R", "help_reroll"], ["+ −", "help_reroll_step"], ["E", "help_edit"], ["D", "help_duplicate"], ["V", "help_variants"], ["Del", "help_remove"]],
  help_branch: [["[ ]", "help_split"], ["H", "help_hold"], ["R", "help_reroll_below"], ["P", "help_pin"]],
  help_tree: [["M", "help_menu"], ["← ↑ → ↓", "help_walk"], ["Enter", "help_open"], ["␣", "help_fold"], ["+ − 0 /", "help_zoom"], ["Ctrl Z", "help_undo"]],
};

/** A window with all keys; resolves when it is closed. */
export function showKeys() {
  const dialog = element("dialog", "hierdiff-keys hierdiff-own", document.body);
  dialog.setAttribute("aria-label", text("edits.help_title"));
  const head = element("div", "hierdiff-keys-head", dialog);
  element("h2", "", head).textContent = text("edits.help_title");
  const close = element("button", "", head);
  close.type = "button";
  close.textContent = text("edits.close");
  element("kbd", "", close).textContent = "Esc";
  close.addEventListener("click", () => dialog.close());
  const body = element("div", "hierdiff-keys-body", dialog);
  for (const [section, keys] of Object.entries(HELP)) {
    const part = element("section", "", body);
    element("h3", "", part).textContent = text(`edits.${section}`);
    const list = element("dl", "", part);
    for (const [key, name] of keys) {
      element("kbd", "", element("dt", "", list)).textContent = key;
      element("dd", "", list).textContent = text(`edits.${name}`);
    }
  }
  for (const type of ["keydown", "keyup", "keypress", "wheel"]) dialog.addEventListener(type, (event) => event.stopPropagation());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return new Promise((done) => {
    dialog.addEventListener("close", () => (dialog.remove(), done()));
    dialog.showModal();
  });
}

/** The line below a panel's bar that tells what is asked for and has not run. */
export class PendingLine {
  constructor(bar, { run, undo }) {
    this.root = element("div", "hierdiff-pending");
    this.words = element("span", "hierdiff-pending-words", this.root);
    this.words.setAttribute("role", "status");
    const button = (name, work) => {
      const made = element("button", "", this.root);
      made.type = "button";
      made.dataset.action = name;
      made.textContent = text(`edits.${name}`);
      made.title = text(`edits.${name}_tip`);
      made.addEventListener("click", work);
      return made;
    };
    this.buttons = [button("run", run), button("undo", undo)];
    this.root.hidden = true;
    bar.after?.(this.root);
  }

  /** Show words, or nothing for none; `changes`: whether there is anything to run or to take back. */
  show(words, title, changes) {
    this.words.textContent = words;
    this.words.title = title;
    for (const button of this.buttons) button.hidden = !changes;
    this.root.hidden = !words;
  }
}
