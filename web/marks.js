// The marks of the slider "saving", below it: what its positions are called, and one click to each.

import { after } from "./hooks.js";
import { element, passToGraph } from "./panel.js";
import { text } from "./texts.js";

export const SLIDER = "saving";
export const MARKS = ["off", "safe", "balanced", "draft"]; // at 0, 1, 2 and 3
export const HEIGHT = 24; // pixels

/** How near each mark is to a position: 1 at it, 0 where another one lies between. */
export function nearness(position) {
  return MARKS.map((_, mark) => Math.max(0, 1 - Math.abs(Number(position) - mark)));
}

/** The node's widget that the marks belong to, if it has one. */
export function sliderOf(node) {
  return node.widgets?.find((widget) => widget.name === SLIDER);
}

/** Whether something is connected to the slider, which then decides. */
function isLinked(node) {
  return node.inputs?.some((input) => input.widget?.name === SLIDER && input.link != null) ?? false;
}

export class MarksPanel {
  constructor(node, app, changed) {
    Object.assign(this, { node, changed });
    this.root = element("div", "hierdiff-marks");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", text("marks.label"));
    const slider = sliderOf(node);
    if (node.widgets.at(-1) !== slider) element("span", "", this.root).textContent = slider.label ?? slider.name; // others lie between
    this.buttons = MARKS.map((name, mark) => this.button(name, mark));
    passToGraph(this.root, app);
    for (const hook of ["onConfigure", "onConnectionsChange"]) after(node, hook, () => this.refresh());
    after(slider, "callback", () => this.refresh());
    this.refresh();
  }

  button(name, mark) {
    const button = element("button", "", this.root);
    button.type = "button";
    button.textContent = text(`marks.${name}`);
    button.title = text(`marks.${name}_tip`);
    button.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
    button.addEventListener("click", () => this.choose(mark));
    return button;
  }

  choose(mark) {
    const slider = sliderOf(this.node);
    slider.value = mark;
    slider.callback?.(mark);
    this.refresh();
    this.changed();
  }

  refresh() {
    const linked = isLinked(this.node);
    const near = nearness(sliderOf(this.node)?.value);
    this.buttons.forEach((button, mark) => {
      button.disabled = linked;
      button.setAttribute("aria-pressed", String(!linked && near[mark] === 1));
      button.style?.setProperty?.("--near", linked ? 0 : near[mark]);
    });
  }

  remove() {}
}
