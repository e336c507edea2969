// What stands in the bar of a tree beside its numbers: the search, folding, zoom.

import { element } from "./panel.js";
import { text } from "./texts.js";

const ENOUGH_TO_SEARCH = 8; // leaves

/**
 * The tools of a tree's panel. They do nothing by themselves.
 *
 * @param does  {search(asked), next(forward), leave(), fold(), zoom(factor), toggle()}
 */
export class TreeTools {
  constructor(bar, does) {
    this.root = element("div", "hierdiff-tools", bar);
    this.find = element("div", "hierdiff-find", this.root);
    this.input = element("input", "", this.find);
    this.input.type = "search";
    this.input.spellcheck = false;
    this.input.placeholder = text("tree.search");
    this.input.setAttribute("aria-label", text("tree.search_label"));
    this.count = element("span", "hierdiff-count", this.find);
    this.count.setAttribute("role", "status");
    this.input.addEventListener("input", () => does.search(this.input.value));
    this.input.addEventListener("keydown", (event) => this.key(event, does));
    for (const type of ["keyup", "keypress", "copy", "paste", "cut", "pointerdown"]) {
      this.input.addEventListener(type, (event) => event.stopPropagation()); // they are the graph's too
    }
    this.fold = this.button("", () => does.fold());
    this.out = this.button("−", () => does.zoom(1 / 1.5), "hierdiff-zoom");
    this.into = this.button("+", () => does.zoom(1.5), "hierdiff-zoom");
    this.rows = this.button("", () => does.toggle(), "hierdiff-rows");
    name(this.out, text("tree.zoom_out"));
    name(this.into, text("tree.zoom_in"));
  }

  button(sign, run, className = "") {
    const made = element("button", className, this.root);
    made.type = "button";
    made.textContent = sign;
    made.addEventListener("click", run);
    return made;
  }

  key(event, does) {
    event.stopPropagation();
    const back = event.key === "ArrowUp" || (event.key === "Enter" && event.shiftKey);
    if (event.key === "Enter" || event.key === "ArrowDown" || event.key === "ArrowUp") does.next(!back);
    else if (event.key === "Escape") does.leave();
    else return;
    event.preventDefault();
  }

  /**
   * Show what there is to do.
   *
   * @param state  {leaves, fit, folded: whether anything is, crowded: whether the rows cannot be read where all are in
   *               sight, readable: whether there they are as high as they need be}
   */
  show({ leaves, fit, folded, crowded, readable }) {
    this.root.hidden = !leaves;
    this.find.hidden = leaves < ENOUGH_TO_SEARCH;
    this.fold.hidden = !(folded || crowded);
    say(this.fold, folded ? "unfold" : "fold");
    this.rows.hidden = fit && readable;
    say(this.rows, fit ? "rows" : "fit");
    this.out.disabled = fit;
  }

  /** How many leaves were found, and which of them is selected (from 0, or -1). */
  tell(found, index) {
    const words = found === null ? "" : index < 0 ? `${found}` : text("tree.found", { index: index + 1, count: found });
    this.count.textContent = words;
    this.find.dataset.none = String(found === 0);
  }
}

function say(button, key) {
  button.textContent = text(`tree.${key}`);
  name(button, text(`tree.${key}_tip`));
}

function name(button, words) {
  button.title = words;
  button.setAttribute("aria-label", words);
}
