// How a tree is drawn. Knows the tree, its layout and a 2D context only.

import { ACCENT, FAMILIES } from "./colors.js";
import { ticks } from "./ticks.js";
import { isTip } from "./tree_folding.js";
import { AXIS, hasHandle, LEFT, LINE, pictureBox, SMALLEST_TEXT_ROW, textLeft, xOf, yOf } from "./tree_layout.js";
import { broken, labelOf, linesOf, textY, tipsOf, written } from "./tree_texts.js";

const FADED = 0.3;
const THINNED = 11; // pixels of texts where not all are written
const MOST_REMEMBERED = 3000; // broken texts: a node that is made wider breaks all of them anew
const FONT = "Inter, system-ui, sans-serif";

/** Index of the family of each branch, for its colour: the clusters of the first step that has several. */
function families(tree) {
  if (tree.families) return tree.families;
  const roots = tree.branches.filter((branch) => branch.parent < 0);
  let shared = -1; // the only root, whose children begin the families
  if (roots.length === 1) shared = 0;
  tree.families = new Int32Array(tree.branches.length).fill(-1);
  let next = 0;
  for (const { index, parent } of tree.branches) {
    if (index === shared) continue;
    tree.families[index] = parent < 0 || parent === shared ? next++ : tree.families[parent];
  }
  return tree.families;
}

/**
 * Draw the visible part.
 *
 * @param context  2D context whose unit is a CSS pixel
 * @param at       from `layout`
 * @param view     {scroll, shown: steps that have grown (fractions while it moves), selected: branch index or null,
 *                 colors: {ink, muted, ground}}, and where there are: found (Set of branch indices that were looked
 *                 for), picture(branch, side) -> {image, x, y, width, height}, count(n) -> how many prompts, in words,
 *                 texts (Map of branch index -> what stands beside it instead of its prompts)
 */
export function draw(context, tree, at, view) {
  const { scroll, shown, selected, colors } = view;
  context.clearRect(0, 0, at.width, at.height);
  context.save();
  context.translate(0, -scroll);
  const visible = tree.branches.filter((branch) => {
    const top = AXIS + branch.first * at.row - scroll;
    return !branch.hidden && top < at.height && top + branch.leaves * at.row > AXIS;
  });
  const lit = litBranches(tree, view);
  const strength = (branch) => (lit && !lit.has(branch.index) ? FADED : 1);
  const grown = (branch) => tree.grown(branch.index, shown);
  const chosen = (branch) => branch.index === selected;
  for (const branch of visible) drawFuture(context, tree, at, branch, grown(branch), colors);
  for (const branch of visible) drawLine(context, tree, at, branch, grown(branch), colors, strength(branch), chosen(branch));
  for (const branch of visible) drawPicture(context, tree, at, branch, grown(branch), view, strength(branch));
  for (const branch of visible) drawSplit(context, tree, at, branch, grown(branch), colors, strength(branch), chosen(branch));
  if (at.text) drawTexts(context, tree, at, visible, view, strength);
  context.restore();
  drawAxis(context, tree, at, shown, colors);
}

/** The branches that do not fade: what is selected, or what was found; null for all. */
function litBranches(tree, { selected, found }) {
  if (selected !== null) return related(tree, [selected], true);
  return found ? related(tree, found, false) : null;
}

/** Branches with their ancestors and, where asked for, their descendants. */
function related(tree, indices, below) {
  const lit = new Set();
  for (const index of indices) for (let i = index; i >= 0 && !lit.has(i); i = tree.branches[i].parent) lit.add(i);
  const waiting = below ? [...indices] : [];
  while (waiting.length) {
    const i = waiting.pop();
    lit.add(i);
    waiting.push(...tree.branches[i].children);
  }
  return lit;
}

function drawFuture(context, tree, at, branch, shown, colors) {
  if (branch.stop <= shown) return;
  stroke(context, colors.muted, 1, 0.22);
  strokeBranch(context, tree, at, branch, Math.max(branch.start, shown), branch.stop, shown <= branch.start);
}

function drawLine(context, tree, at, branch, shown, colors, alpha, selected) {
  if (shown < branch.start || shown <= 0) return;
  const thick = Math.min(1.25 + 0.55 * Math.log2(branch.leaves), 6, Math.max((at.row * branch.leaves) / 3, 0.75));
  stroke(context, selected ? ACCENT : colorOf(tree, branch, colors), selected ? thick + 1 : thick, alpha);
  strokeBranch(context, tree, at, branch, branch.start, Math.min(branch.stop, shown), true);
  if (!branch.folded || branch.stop > shown) return;
  context.setLineDash([2, 4]); // what is folded goes on
  strokeBranch(context, tree, at, branch, branch.stop, tree.steps, false);
  context.setLineDash([]);
}

function colorOf(tree, branch, colors) {
  const family = families(tree)[branch.index];
  return family < 0 ? colors.ink : FAMILIES[family % FAMILIES.length];
}

function stroke(context, color, width, alpha) {
  context.strokeStyle = color;
  context.lineWidth = width;
  context.globalAlpha = alpha;
}

/** A branch from one step to another, with the bend from its parent where it begins. */
function strokeBranch(context, tree, at, branch, from, to, bend) {
  const y = yOf(tree, at, branch);
  const x = xOf(tree, at, from);
  const end = xOf(tree, at, to);
  context.beginPath();
  const parent = tree.branches[branch.parent];
  if (parent && bend) {
    const reach = Math.min(6, Math.max(end - x, 0));
    context.moveTo(x, yOf(tree, at, parent));
    context.quadraticCurveTo(x, y, x + reach, y);
  } else {
    context.moveTo(x, y);
  }
  context.lineTo(end, y);
  context.stroke();
}

function drawPicture(context, tree, at, branch, shown, view, alpha) {
  const small = tree.pictures.get(branch.index);
  if (!small || shown < branch.start || shown <= 0) return;
  const box = pictureBox(tree, at, branch, shown, small);
  if (!box) return;
  const picture = view.picture?.(branch, Math.max(box.width, box.height)) ?? small;
  context.globalAlpha = alpha;
  context.imageSmoothingQuality = "high";
  const { x, y, width, height } = picture;
  context.drawImage(picture.image, x, y, width, height, box.x, box.y, box.width, box.height);
  if (branch.index !== view.selected && !view.found?.has(branch.index)) return;
  stroke(context, ACCENT, 2, 1);
  context.strokeRect(box.x - 1, box.y - 1, box.width + 2, box.height + 2);
}

/** A dot where a branch splits; a ring with a plus where it is folded, and with a minus where it is pointed at. */
function drawSplit(context, tree, at, branch, shown, colors, alpha, selected) {
  if (branch.stop > shown || !hasHandle(tree, at, branch)) return;
  const [x, y] = [xOf(tree, at, branch.stop), yOf(tree, at, branch)];
  const ring = branch.folded || selected;
  const radius = ring ? Math.min(6, Math.max(at.row * branch.leaves * 0.45, 3)) : 3;
  context.globalAlpha = alpha;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = ring ? colors.ground : colorOf(tree, branch, colors);
  context.fill();
  if (!ring) return;
  stroke(context, selected ? ACCENT : colorOf(tree, branch, colors), 1.5, alpha);
  context.stroke();
  context.beginPath();
  context.moveTo(x - radius / 2, y);
  context.lineTo(x + radius / 2, y);
  if (branch.folded) {
    context.moveTo(x, y - radius / 2);
    context.lineTo(x, y + radius / 2);
  }
  context.stroke();
}

function drawTexts(context, tree, at, visible, view, strength) {
  const urgent = (branch) => branch.index === view.selected || view.found?.has(branch.index);
  const size = at.row < SMALLEST_TEXT_ROW ? THINNED : Math.min(12, Math.floor(at.row) - 2);
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.fillStyle = view.colors.ink;
  for (const branch of written(tree, at, tipsOf(tree, visible), (tip) => (urgent(tip) ? 0 : 1))) {
    context.font = `${urgent(branch) ? "600 " : ""}${size}px ${FONT}`;
    context.globalAlpha = urgent(branch) ? 1 : strength(branch);
    const label = view.texts?.get(branch.index) ?? labelOf(tree, branch, view.count ?? String);
    const lines = linesIn(context, tree, label, at.text, linesOf(at));
    const top = textY(tree, at, branch) - ((lines.length - 1) * LINE) / 2;
    lines.forEach((line, i) => context.fillText(line, textLeft(at), top + i * LINE));
  }
}

/** A text in lines; remembered, since measuring is slow. */
function linesIn(context, tree, label, width, lines) {
  const cache = (tree.broken ??= new Map());
  const key = `${context.font}|${Math.round(width)}|${lines}|${label}`;
  if (cache.size > MOST_REMEMBERED) cache.clear();
  if (!cache.has(key)) cache.set(key, broken(label, width, lines, (text) => context.measureText(text).width));
  return cache.get(key);
}

function drawAxis(context, tree, at, shown, colors) {
  context.globalAlpha = 1;
  context.fillStyle = colors.ground;
  context.fillRect(0, 0, at.width, AXIS - 2);
  context.font = `10px ${FONT}`;
  context.textBaseline = "middle";
  context.textAlign = "center";
  context.fillStyle = colors.muted;
  for (const step of ticks(tree.steps, at.right - LEFT)) context.fillText(step, xOf(tree, at, step), AXIS / 2 - 1);
  if (shown > 0 && shown < tree.steps) {
    const x = xOf(tree, at, shown);
    stroke(context, ACCENT, 1, 0.8);
    context.beginPath();
    context.moveTo(x, AXIS - 4);
    context.lineTo(x, at.height);
    context.stroke();
  }
}
