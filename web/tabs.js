// Workflows in ComfyUI's tabs: each has an id of its own, by which the server's messages find it.

/** The workflows that are open in other tabs than that of `workflow`, which is the page's own, a name, or null. */
function others(app, workflow) {
  const path = typeof workflow === "object" ? workflow?.path : null;
  return (app.extensionManager?.workflow?.openWorkflows ?? []).filter((open) => !path || open.path !== path);
}

/**
 * Give a workflow that is opened an id of its own where another tab has the same one: a template that is opened twice,
 * a copy. Else it would show the other tab's runs.
 *
 * @param onOpen  called before a workflow is opened, with what the page calls it: null for one out of the history
 */
export function separateTabs(app, onOpen) {
  const { loadGraphData } = app;
  app.loadGraphData = function (data, clean, restoreView, workflow = null, ...rest) {
    onOpen(workflow);
    if (data?.id && others(app, workflow).some((open) => open.activeState?.id === data.id)) {
      data = { ...data, id: newId() };
    }
    return loadGraphData.call(this, data, clean, restoreView, workflow, ...rest);
  };
}

/** A random UUID; `crypto.randomUUID` is there on secure pages only, and ComfyUI is often opened over a plain network. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
