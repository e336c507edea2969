// What panels do to the nodes that they stand in: widgets of their own, widgets that are hidden, colours and sizes.

import { before } from "./hooks.js";
import { stageColor } from "./stages.js";

/** A panel as a widget of a node, which neither the workflow nor what is queued has in it. */
export function addPanel(node, name, label, panel, options) {
  const widget = node.addDOMWidget(name, name, panel.root, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    ...options,
  });
  widget.label = label; // where the page lists a node's widgets
  widget.serialize = false; // nor in the workflow's file
  before(widget, "onRemove", () => panel.remove());
  return widget;
}

/** A widget that keeps its value, and its place in workflows, out of sight in every kind of node. */
export function hideWidget(widget) {
  widget.hidden = true;
  if (widget.options) widget.options.hidden = true;
  widget.computeSize = () => [0, -4]; // the page adds these between widgets
  widget.computeLayoutSize = undefined;
}

/**
 * A panel takes the place of the pictures that the page itself shows below a node's widgets, which are those of the
 * tree and the plot again. The page asks for the node's `imgs` where it draws them on the canvas; as elements they are
 * hidden by the stylesheet.
 */
export function hidePictures(node) {
  node.hideOutputImages = true;
  for (const name of ["imgs", "previewMediaType"]) {
    Object.defineProperty(node, name, { configurable: true, get: () => undefined, set: () => {} });
  }
}

/** A new node gets its stage's colour; one from a workflow keeps what the workflow says, also none. */
export function colorByStage(node) {
  const color = stageColor(node.comfyClass);
  if (!color) return;
  node.color ??= color;
  before(node, "onConfigure", function (saved) {
    if (!saved?.color) this.color = undefined;
  });
}

export function growToFit(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, 360), Math.max(node.size[1], height)]);
  node.setDirtyCanvas?.(true, true);
}
