// The panel of Compare Pictures: its two pictures below a slider.

import { AbSlider } from "./ab_slider.js";
import { element, passToGraph } from "./panel.js";
import { text } from "./texts.js";

export const MIN_HEIGHT = 220;

export class ComparePanel {
  /** @param find  gives {shared, unshared}, addresses of pictures, or null */
  constructor(find, app) {
    this.find = find;
    this.root = element("div", "hierdiff-panel hierdiff-compare-panel widget-expands");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", text("compare.title"));
    const view = element("div", "hierdiff-view", this.root);
    this.note = element("div", "hierdiff-note", view);
    this.note.textContent = text("compare.waiting_node");
    this.slider = new AbSlider(view);
    passToGraph(this.root, app);
    this.refresh();
  }

  refresh() {
    const found = this.find();
    this.note.hidden = Boolean(found);
    this.slider.root.hidden = !found;
    if (found) this.slider.show(found.shared, found.unshared);
    this.slider.fit();
  }

  remove() {
    this.slider.remove();
  }
}
