// What the two widgets have in common: a framed panel with a status bar and a canvas that is sharp at any zoom.

/** A panel's elements: {root, bar, status, view, content, canvas, note, announce}. */
export function makePanel(label) {
  const root = element("div", "hierdiff-panel widget-expands"); // the second is the page's own: it gets free room
  root.tabIndex = 0;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", label);
  const bar = element("div", "hierdiff-bar", root);
  const status = element("div", "hierdiff-status", bar);
  const view = element("div", "hierdiff-view", root);
  const content = element("div", "hierdiff-content", view); // as high as all rows; the canvas stays in sight
  const canvas = element("canvas", "", content);
  const note = element("div", "hierdiff-note", view);
  const announce = element("div", "hierdiff-hidden", root);
  announce.setAttribute("aria-live", "polite");
  return { root, bar, status, view, content, canvas, note, announce };
}

export function element(name, className, parent) {
  const made = document.createElement(name);
  if (className) made.className = className;
  parent?.append(made);
  return made;
}

/** Give a canvas a size in CSS pixels and return its context, whose unit is a CSS pixel. */
export function sized(canvas, width, height) {
  const scale = 2 * Math.min(window.devicePixelRatio || 1, 2); // the graph may be zoomed in
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}

/** The theme's colours, as they are now. */
export function themeColors(root) {
  const style = getComputedStyle(root);
  const muted = getComputedStyle(document.documentElement).getPropertyValue("--descrip-text").trim();
  return { ink: style.color, ground: style.backgroundColor, muted: muted || style.color };
}

/** Call `redraw` when the panel's size or the page's theme changes; returns a function that ends it. */
export function watch(root, redraw) {
  const sizes = new ResizeObserver(redraw);
  sizes.observe(root);
  sizes.observe(root.querySelector(".hierdiff-view")); // a text below it takes some of its room
  const theme = new MutationObserver(redraw);
  for (const target of [document.documentElement, document.body]) {
    theme.observe(target, { attributes: true, attributeFilter: ["class", "style"] });
  }
  return () => {
    sizes.disconnect();
    theme.disconnect();
  };
}

const wheels = new WeakMap(); // root of a panel -> what the wheel does over it
let listening = false;

/** Hear of the wheel over panels before the page does: where nodes are elements it takes the wheel on its way down. */
function listenToWheel() {
  if (!listening) globalThis.addEventListener?.("wheel", onWheel, { capture: true, passive: false });
  listening = true;
}

function onWheel(event) {
  let panel = event.target;
  while (panel && !wheels.has(panel)) panel = panel.parentElement;
  if (panel) wheels.get(panel)(event);
}

/**
 * Let the graph go on panning and zooming under a panel.
 *
 * @param keeps  function of a wheel's event: whether the panel scrolls
 * @param takes  function of a wheel's event: whether it was for the panel, which has done what was wanted
 */
export function passToGraph(root, app, keeps = () => false, takes = () => false) {
  listenToWheel();
  wheels.set(root, (event) => {
    const kept = keeps(event) && !event.ctrlKey;
    const taken = !event.ctrlKey && takes(event);
    if (!kept && !taken && root.closest(".lg-node")) return; // the page passes it on by itself
    event.stopPropagation();
    if (kept && !taken) return; // the browser scrolls
    event.preventDefault();
    if (!taken) app.canvas.processMouseWheel(event);
  });
  const pointer = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" };
  for (const [type, handler] of Object.entries(pointer)) {
    root.addEventListener(type, (event) => {
      // a node that is an element would move with the pointer, in some versions of the page
      if (type === "pointerdown" && event.button === 0 && root.closest(".lg-node")) event.stopPropagation();
      const middle = event.button === 1 || event.buttons & 4;
      if (middle || asksForMenu(root, event)) app.canvas[handler](event);
    });
  }
  root.addEventListener("contextmenu", (event) => {
    if (asksForMenu(root, event)) event.preventDefault(); // the node's own comes
  });
}

/** Whether a right click is one for the node's menu; where nodes are elements they get it by themselves. */
function asksForMenu(root, event) {
  const marked = getSelection();
  if (event.button !== 2 || root.closest(".lg-node")) return false;
  return marked.isCollapsed || !root.contains(marked.anchorNode); // else the browser's, which copies
}

/** Run `work` once in the next frame, however often it is asked for. */
export function oncePerFrame(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
}
