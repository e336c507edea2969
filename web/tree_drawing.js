// Where the parts of a tree lie in a panel, and how they are drawn. Knows the tree and a 2D context only.

import { ACCENT, FAMILIES } from "./colors.js";
import { ticks } from "./ticks.js";

const AXIS = 18; // pixels above the first row
const LEFT = 10;
const GAP = 4;
const READABLE_ROW = 26;
const LARGEST_ROW = 64;
const SMALLEST_TEXT_ROW = 11;
const LARGEST_PICTURE = 56;
const SMALLEST_PICTURE = 9;
const LARGEST_TEXT = 240;

/**
 * Sizes for a tree in a panel of width x height pixels. With `fit` all rows share the height, else each row is
 * readable and the panel scrolls.
 */
export function layout(tree, width, height, fit) {
  const room = Math.max(height - AXIS - GAP, 1);
  const row = fit ? Math.min(LARGEST_ROW, room / tree.leaves) : Math.max(READABLE_ROW, Math.min(LARGEST_ROW, room / tree.leaves));
  const side = Math.min(row - 2, LARGEST_PICTURE);
  const picture = tree.pictures.size && side >= SMALLEST_PICTURE ? side : 0;
  const text = row >= SMALLEST_TEXT_ROW && width > 260 ? Math.min(LARGEST_TEXT, 0.36 * width) : 0;
  const right = LEFT + Math.max(width - LEFT - (picture ? picture + 2 * GAP : GAP) - (text ? text + GAP : GAP), 40);
  return { width, height, row, picture, text, right, content: Math.ceil(AXIS + tree.leaves * row + GAP) };
}

export function xOf(tree, at, step) {
  return LEFT + ((at.right - LEFT) * step) / tree.steps;
}

export function yOf(tree, at, branch) {
  return AXIS + (branch.first + branch.leaves / 2) * at.row;
}

/** Row and step (fractions) under a point of the content. */
export function placeAt(tree, at, x, y) {
  const step = (tree.steps * (x - LEFT)) / (at.right - LEFT);
  return { row: (y - AXIS) / at.row, step: Math.min(Math.max(step, 0), tree.steps - 1e-6) };
}

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
 *                 colors: {ink, muted, ground}}
 */
export function draw(context, tree, at, view) {
  const { scroll, shown, selected, colors } = view;
  context.clearRect(0, 0, at.width, at.height);
  context.save();
  context.translate(0, -scroll);
  const visible = tree.branches.filter((branch) => {
    const top = AXIS + branch.first * at.row - scroll;
    return top < at.height && top + branch.leaves * at.row > AXIS;
  });
  const lit = selected === null ? null : related(tree, selected);
  const strength = (branch) => (lit && !lit.has(branch.index) ? 0.3 : 1);
  const grown = (branch) => tree.grown(branch.index, shown);
  const chosen = (branch) => branch.index === selected;
  for (const branch of visible) drawFuture(context, tree, at, branch, grown(branch), colors);
  for (const branch of visible) drawLine(context, tree, at, branch, grown(branch), colors, strength(branch), chosen(branch));
  for (const branch of visible) drawPicture(context, tree, at, branch, grown(branch), strength(branch), chosen(branch));
  if (at.text) for (const branch of visible) drawText(context, tree, at, branch, colors, strength(branch));
  context.restore();
  drawAxis(context, tree, at, shown, colors);
}

/** The branch with its ancestors and its descendants. */
function related(tree, index) {
  const lit = new Set();
  for (let i = index; i >= 0; i = tree.branches[i].parent) lit.add(i);
  const waiting = [index];
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
  const family = families(tree)[branch.index];
  const color = selected ? ACCENT : family < 0 ? colors.ink : FAMILIES[family % FAMILIES.length];
  const thick = Math.min(1.25 + 0.55 * Math.log2(branch.leaves), 6, Math.max((at.row * branch.leaves) / 3, 0.75));
  stroke(context, color, selected ? thick + 1 : thick, alpha);
  strokeBranch(context, tree, at, branch, branch.start, Math.min(branch.stop, shown), true);
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

/** While a branch lives its picture leads its tip; later it stands before the split, where there is room. */
function drawPicture(context, tree, at, branch, shown, alpha, selected) {
  const picture = tree.pictures.get(branch.index);
  if (!picture || shown < branch.start || shown <= 0) return;
  const ended = branch.stop <= shown && branch.stop < tree.steps;
  const length = xOf(tree, at, branch.stop) - xOf(tree, at, branch.start);
  const room = Math.min(LARGEST_PICTURE, branch.leaves * at.row - 2, ended ? length - 3 * GAP : Infinity);
  if (room < SMALLEST_PICTURE) return;
  const scale = room / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const tip = xOf(tree, at, Math.min(branch.stop, shown));
  const x = ended ? tip - width - GAP : tip + GAP;
  const y = yOf(tree, at, branch) - height / 2;
  context.globalAlpha = alpha;
  context.drawImage(picture.image, picture.x, picture.y, picture.width, picture.height, x, y, width, height);
  if (selected) {
    stroke(context, ACCENT, 2, 1);
    context.strokeRect(x - 1, y - 1, width + 2, height + 2);
  }
}

function drawText(context, tree, at, branch, colors, alpha) {
  if (branch.stop !== tree.steps) return;
  const size = Math.min(12, Math.floor(at.row) - 2);
  context.font = `${size}px Inter, system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.fillStyle = colors.ink;
  context.globalAlpha = alpha;
  const x = at.right + (at.picture ? at.picture + 2 * GAP : GAP);
  const label = [...new Set(tree.promptsOf(branch.index))].join(" / ");
  context.fillText(shortened(context, tree, label, at.text), x, yOf(tree, at, branch));
}

/** A text cut to a width, with an ellipsis; remembered, since measuring is slow. */
function shortened(context, tree, label, width) {
  const cache = (tree.shortened ??= new Map());
  const key = `${context.font}|${Math.round(width)}|${label}`;
  if (!cache.has(key)) {
    let length = label.length;
    if (context.measureText(label).width > width) {
      let low = 0; // the longest beginning that fits
      while (low < length - 1) {
        const middle = (low + length) >> 1;
        if (context.measureText(`${label.slice(0, middle)}…`).width <= width) low = middle;
        else length = middle;
      }
      cache.set(key, `${label.slice(0, low)}…`);
    } else {
      cache.set(key, label);
    }
  }
  return cache.get(key);
}

function drawAxis(context, tree, at, shown, colors) {
  context.globalAlpha = 1;
  context.fillStyle = colors.ground;
  context.fillRect(0, 0, at.width, AXIS - 2);
  context.font = "10px Inter, system-ui, sans-serif";
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
