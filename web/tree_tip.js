// One tip for the page that tells of a branch: it is not cut off by the node, and not scaled with the graph.

import { element, sized } from "./panel.js";
import { text } from "./texts.js";
import { countOf, stepsOf } from "./tree_items.js";

const TIP_PICTURE = 96;
const TIP_PROMPTS = 8;

let tip = null;
let tipOwner = null;

export function hideTip(owner) {
  if (tip && tipOwner === owner) tip.hidden = true;
}

export function showTip(owner, tree, index, point) {
  tip ??= element("div", "hierdiff-tip", document.body);
  tipOwner = owner;
  tip.replaceChildren();
  const picture = tree.pictures.get(index);
  if (picture) tip.append(enlarged(picture));
  const words = element("div", "", tip);
  const prompts = tree.promptsOf(index);
  element("strong", "", words).textContent = `${stepsOf(tree, index)} · ${countOf(prompts.length)}`;
  const list = element("ul", "", words);
  for (const prompt of prompts.slice(0, TIP_PROMPTS)) element("li", "", list).textContent = prompt;
  const more = prompts.length - TIP_PROMPTS;
  if (more > 0) element("li", "", list).textContent = text("tree.more", { count: more });
  tip.hidden = false;
  const { x, y } = besides(point, tip.getBoundingClientRect(), { width: innerWidth, height: innerHeight });
  tip.style.left = `${x}px`;
  tip.style.top = `${y}px`;
}

/** Where a box stands that tells of a point: beside it, on the side that has room, and inside the window. */
export function besides(point, box, window) {
  const x = point.x + 16 + box.width < window.width ? point.x + 16 : point.x - 16 - box.width;
  const y = Math.min(point.y + 12, window.height - box.height - 8);
  return { x: Math.max(x, 8), y: Math.max(y, 8) };
}

function enlarged({ image, x, y, width, height }) {
  const canvas = element("canvas", "");
  const scale = TIP_PICTURE / Math.max(width, height);
  const context = sized(canvas, width * scale, height * scale);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, x, y, width, height, 0, 0, width * scale, height * scale);
  return canvas;
}
