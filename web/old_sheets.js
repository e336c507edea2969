// Contact Sheets of workflows that were made before there were axes keep the sheet that they had.

import { before } from "./hooks.js";

const AXES = "axes";

/** A node that is added by hand has the schema's default; one whose workflow knows no axes gets none. */
export function keepOldSheet(node) {
  if (node.comfyClass !== "HierDiffContactSheet") return;
  before(node, "onConfigure", function (saved) {
    const values = saved?.widgets_values;
    if (!values) return;
    const widgets = this.widgets.filter((widget) => widget.serialize !== false);
    const place = widgets.findIndex((widget) => widget.name === AXES);
    const known = Array.isArray(values) ? place < values.length : AXES in values;
    if (place >= 0 && !known) widgets[place].value = "off";
  });
}
