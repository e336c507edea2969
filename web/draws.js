// Prompt Set: what belongs to random draws is there when they are chosen, else the text has its room.

import { after } from "./hooks.js";

const DRAW = "draw";
const RANDOM = "random";
const BETWEEN = 4; // pixels that the page adds between widgets
const OF_DRAWS = ["count", "draw_seed"];

/** Classic nodes leave a hidden widget out, but not its room; those that are elements ask its options. */
function hide(widget, hidden) {
  widget.hidden = hidden;
  widget.options ??= {};
  widget.options.hidden = hidden;
  if (hidden) widget.computeSize = () => [0, -BETWEEN];
  else delete widget.computeSize;
}

/** Front end 1.32.9 never takes a row away again that it has shown in a node that is an element. */
function hideRow(node, name, hidden) {
  const index = (node.inputs ?? []).findIndex((input) => input.widget?.name === name);
  const slot = document.querySelector(`.lg-node-widget [data-slot-key="${node.id}-in-${index}"]`);
  const row = slot?.closest(".lg-node-widget");
  if (row) row.style.display = hidden ? "none" : "";
}

export function showDraws(node) {
  if (node.comfyClass !== "HierDiffPromptSet") return;
  const widgetOf = (name) => node.widgets?.find((widget) => widget.name === name);
  const draw = widgetOf(DRAW);
  if (!draw) return;
  const show = () => {
    for (const name of OF_DRAWS) {
      const widget = widgetOf(name);
      if (widget) hide(widget, draw.value !== RANDOM);
    }
    node.widgets.push(node.widgets.pop()); // where nodes are elements the page has a copy, and takes another
    node.setDirtyCanvas?.(true, true);
  };
  const showRows = () => OF_DRAWS.forEach((name) => hideRow(node, name, draw.value !== RANDOM));
  after(draw, "callback", () => {
    show();
    showRows();
    const height = node.computeSize?.()[1] ?? 0;
    if (height > node.size?.[1]) node.setSize([node.size[0], height]);
  });
  after(node, "onConfigure", show);
  show();
}
