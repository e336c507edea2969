// A template that is opened is seen as a whole, whatever the window: between the page's bars, not below them.

const MARK = "hierdiff_fit"; // in the extra of a shipped template; gone once it has been opened
const FREE = "#graph-canvas, .lg-node, .dom-widget, [data-testid='transform-pane']";
const STEP = 8; // pixels
const DEEPEST = 120; // pixels that bars at one side reach into the window
const SLICES = 9; // places along a side at which bars are looked for
const MARGIN = 12; // pixels
const TITLE = 30; // of a node, above its place; groups have theirs inside
const SETTLED = 700; // milliseconds: nodes that are elements have their sizes by then

/** The smallest box around others: [left, top, width, height]; null around none. */
export function around(boxes) {
  if (!boxes.length) return null;
  const left = Math.min(...boxes.map(([x]) => x));
  const top = Math.min(...boxes.map(([, y]) => y));
  const right = Math.max(...boxes.map(([x, , width]) => x + width));
  const bottom = Math.max(...boxes.map(([, y, , height]) => y + height));
  return [left, top, right - left, bottom - top];
}

/** The view that shows a box in a room of the window: {scale, offset}; never larger than life. */
export function viewOf([left, top, width, height], room) {
  const scale = Math.min(1, room[2] / width, room[3] / height);
  const space = [room[2] - width * scale, room[3] - height * scale];
  return { scale, offset: [(room[0] + space[0] / 2) / scale - left, (room[1] + space[1] / 2) / scale - top] };
}

/**
 * The room between the page's bars: [left, top, width, height] in pixels of the canvas.
 *
 * @param size    [width, height] of the canvas
 * @param isFree  whether the canvas is seen at a point
 */
export function freeRoom([width, height], isFree) {
  const covered = (across, pointAt) => {
    const places = Array.from({ length: SLICES }, (_, i) => ((i + 0.5) * across) / SLICES);
    let depth = 0;
    for (let at = 1; at < DEEPEST; at += STEP) if (!places.every((place) => isFree(...pointAt(at, place)))) depth = at;
    return depth;
  };
  const top = covered(width, (at, x) => [x, at]);
  const bottom = covered(width, (at, x) => [x, height - at]);
  const between = (at) => top + (at * (height - top - bottom)) / height; // bars above and below are no bars at the sides
  const left = covered(height, (at, y) => [at, between(y)]);
  const right = covered(height, (at, y) => [width - at, between(y)]);
  return [left + MARGIN, top + MARGIN, width - left - right - 2 * MARGIN, height - top - bottom - 2 * MARGIN];
}

/** Boxes of all that is to be seen in a graph. */
function boxesOf(graph) {
  const nodes = graph.nodes.map(({ pos, size }) => [pos[0], pos[1] - TITLE, size[0], size[1] + TITLE]);
  return [...nodes, ...(graph.groups ?? []).map(({ pos, size }) => [pos[0], pos[1], size[0], size[1]])];
}

function fit(canvas, graph) {
  const box = around(boxesOf(graph));
  const seen = canvas.canvas.getBoundingClientRect();
  if (!box || !seen.width) return null;
  const isFree = (x, y) => Boolean(document.elementFromPoint(seen.left + x, seen.top + y)?.closest(FREE));
  const { scale, offset } = viewOf(box, freeRoom([seen.width, seen.height], isFree));
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = offset[0];
  canvas.ds.offset[1] = offset[1];
  canvas.setDirty(true, true);
  return [scale, ...offset];
}

/**
 * Show all of a template that has just been opened; again when its nodes have their sizes, if nobody has moved it.
 *
 * At once, before the page draws the nodes: front end 1.32.9 takes places of nodes that are elements from the screen,
 * and a view that changes between two frames tears them apart.
 */
export function fitTemplate(app, graph) {
  if (!graph?.extra?.[MARK]) return;
  delete graph.extra[MARK]; // a copy that is saved keeps the view that it is saved with
  const { canvas } = app;
  const first = fit(canvas, graph);
  const still = () => [canvas.ds.scale, ...canvas.ds.offset].every((value, i) => value === first[i]);
  if (first) setTimeout(() => canvas.graph === graph && still() && fit(canvas, graph), SETTLED);
}
