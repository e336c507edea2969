// The panel that shows what a node said: warnings first, and the rest in full or folded to its first line.

import { element, oncePerFrame, passToGraph } from "./panel.js";
import { shownOf } from "./results.js";
import { text } from "./texts.js";

const BORDER = 2; // pixels, above and below together
const LARGEST = 220; // pixels that a text takes before it scrolls
const SHORTEST = 100; // of a text that shares the room of a node with others
const LINE = 28; // the first line below the warnings
const DRAWN = 100; // milliseconds: some versions of the page draw a node before they make room in it, and not again

/** A text in a node. It is set as text, never as HTML: prompts, names of files and settings are among it. */
export class ResultPanel {
  /**
   * @param folding  {get(), set(folded)}: whether the node wants one line only
   * @param room     "inside" another panel, which gives what is needed; or where it stands for itself: "fixed", or
   *                 "shared" with others, which use what it can do without
   * @param onSize   called when the panel needs more or less room
   */
  constructor(app, folding, room, onSize) {
    Object.assign(this, { folding, room, onSize });
    this.root = element("div", "hierdiff-result");
    this.root.hidden = true;
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", text("result.label"));
    const view = element("div", "hierdiff-result-view", this.root);
    this.body = element("div", "hierdiff-result-body", view);
    this.warnings = element("div", "hierdiff-warnings", this.body);
    this.warnings.setAttribute("role", "alert");
    const words = element("div", "hierdiff-words", this.body);
    this.button = element("button", "hierdiff-fold", words);
    this.button.type = "button";
    this.button.addEventListener("click", () => this.toggle());
    this.lines = element("div", "hierdiff-lines", words);
    this.text = "";
    this.height = 0;
    this.shortest = SHORTEST;
    // a text can be marked and copied: its node does not move under the pointer meanwhile
    this.lines.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
    passToGraph(this.root, app, () => view.scrollHeight > view.clientHeight + 1);
    this.measure = oncePerFrame(() => this.measureNow());
    this.sizes = new ResizeObserver(this.measure);
    this.sizes.observe(this.body);
  }

  remove() {
    clearTimeout(this.again);
    this.sizes.disconnect();
  }

  toggle() {
    this.folding.set(!this.folding.get());
    this.show(this.text, this.root.dataset.state);
  }

  show(said, state) {
    if (said && !this.text) this.atFirst?.();
    this.text = said;
    const { warnings, words, whole, one, folded } = shownOf(said, this.folding.get());
    this.root.hidden = !said;
    this.root.dataset.state = state;
    this.root.dataset.folded = folded;
    this.warnings.replaceChildren(...warnings.map(paragraph));
    this.lines.parentElement.hidden = !whole;
    this.lines.textContent = words;
    this.lines.title = folded ? whole : "";
    this.button.hidden = one;
    this.button.title = text(folded ? "result.unfold" : "result.fold");
    this.button.setAttribute("aria-label", this.button.title);
    this.button.setAttribute("aria-expanded", String(!folded));
    this.measureNow();
  }

  /** Height of the whole text; out of sight it is guessed, and known once it is seen. */
  measureNow() {
    const guess = this.root.dataset.folded === "true" ? 24 : 17 * this.text.split("\n").length + 8;
    const seen = this.body.offsetHeight;
    const height = this.text ? (seen ? seen + BORDER : this.height || guess) : 0;
    const shortest = Math.max(SHORTEST, this.warnings.offsetHeight + LINE); // warnings are never scrolled away
    if (height === this.height && shortest === this.shortest) return;
    Object.assign(this, { height, shortest });
    if (this.room !== "inside") this.root.style.minHeight = `${this.least}px`;
    this.root.classList.toggle("widget-expands", this.room === "shared" && this.most > this.least); // the page's own
    this.onSize();
    clearTimeout(this.again);
    this.again = setTimeout(() => this.onSize(), DRAWN);
  }

  /** Pixels that the panel needs where it stands for itself. */
  get least() {
    return roomOf(this.room, this.root.dataset.folded === "true", this).least;
  }

  /** Pixels that it can use. */
  get most() {
    return roomOf(this.room, this.root.dataset.folded === "true", this).most;
  }
}

/** {least, most} pixels of a text of this height, of which `shortest` must be seen. */
export function roomOf(room, folded, { height, shortest }) {
  const least = Math.min(height, room === "fixed" || folded ? LARGEST : shortest, LARGEST);
  return { least, most: room === "fixed" ? least : height };
}

function paragraph(line) {
  const made = element("div", "hierdiff-warning");
  made.textContent = line;
  return made;
}
