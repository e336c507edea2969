// Where the parts of a tree lie in a panel. Knows the tree alone.

import { isTip } from "./tree_folding.js";

export const AXIS = 18; // pixels above the first row
export const LEFT = 10;
export const GAP = 4;
export const READABLE_ROW = 26;
export const LINE = 15; // pixels of a line of text
export const SMALLEST_TEXT_ROW = 11;
export const LARGEST_INNER_PICTURE = 64;
export const SMALLEST_PICTURE = 9;
const LARGEST_ROW = 320;
const LARGEST_PICTURE = 256;
const LARGEST_TEXT = 420;
const NARROWEST_WITH_TEXT = 260;
const HANDLE = 9; // pixels around a split where a click folds it
const NEAR = 6; // pixels around a line where it is meant

/**
 * Sizes for a tree in a panel of width x height pixels.
 *
 * @param row  pixels of a row, in which case the panel may scroll; null: all rows share the height
 */
export function layout(tree, width, height, row = null) {
  const room = Math.max(height - AXIS - GAP, 1);
  const fitting = Math.min(LARGEST_ROW, room / tree.leaves);
  const each = row === null ? fitting : Math.min(Math.max(row, fitting), LARGEST_ROW);
  const side = Math.min(each - 2, LARGEST_PICTURE, 0.3 * width);
  const picture = tree.pictures.size && side >= SMALLEST_PICTURE ? side : 0;
  const text = width > NARROWEST_WITH_TEXT ? Math.min(LARGEST_TEXT, 0.36 * width) : 0;
  const right = LEFT + Math.max(width - LEFT - (picture ? picture + 2 * GAP : GAP) - (text ? text + GAP : GAP), 40);
  return { width, height, row: each, fitting, picture, text, right, content: Math.ceil(AXIS + tree.leaves * each + GAP) };
}

/** The row height after zooming by a factor; null where that shows the whole tree. */
export function zoomed(at, factor) {
  const row = Math.min(at.row * factor, LARGEST_ROW);
  return row <= at.fitting * 1.02 ? null : row;
}

export function xOf(tree, at, step) {
  return LEFT + ((at.right - LEFT) * step) / tree.steps;
}

export function yOf(tree, at, branch) {
  return AXIS + (branch.first + branch.leaves / 2) * at.row;
}

/** Left end of the texts. */
export function textLeft(at) {
  return at.right + (at.picture ? at.picture + 2 * GAP : GAP);
}

/** Row and step (fractions) under a point of the content. */
export function placeAt(tree, at, x, y) {
  const step = (tree.steps * (x - LEFT)) / (at.right - LEFT);
  return { row: (y - AXIS) / at.row, step: Math.min(Math.max(step, 0), tree.steps - 1e-6) };
}

/**
 * Where a branch's picture stands, or null where there is no room. While a branch lives it leads its tip; later it
 * stands before the split.
 *
 * @param shape  the picture's {width, height}
 */
export function pictureBox(tree, at, branch, shown, shape) {
  const ended = branch.stop <= shown && !isTip(tree, branch);
  const atEnd = !ended && branch.stop <= shown; // a tip that is done
  const length = xOf(tree, at, branch.stop) - xOf(tree, at, branch.start);
  const most = isTip(tree, branch) ? at.picture || LARGEST_INNER_PICTURE : LARGEST_INNER_PICTURE;
  const room = Math.min(most, branch.leaves * at.row - 2, ended ? length - 4 * GAP : Infinity);
  if (room < SMALLEST_PICTURE) return null;
  const scale = room / Math.max(shape.width, shape.height);
  const [width, height] = [shape.width * scale, shape.height * scale];
  const tip = atEnd ? at.right : xOf(tree, at, Math.min(branch.stop, shown));
  const x = ended ? tip - width - 2 * GAP : tip + GAP;
  return { x, y: yOf(tree, at, branch) - height / 2, width, height };
}

/** Whether a split has room for the ring that folds it. */
export function hasHandle(tree, at, branch) {
  return (branch.children.length > 0 || branch.folded) && (branch.folded ? at.row >= 7 : branch.leaves * at.row >= 14);
}

/**
 * What a click at a point of the content is for: {kind: "split" or "branch", index}, or null for the ground.
 *
 * @param shape  {width, height} of the pictures
 */
export function hitAt(tree, at, x, y, shown, shape) {
  const { row, step } = placeAt(tree, at, x, y);
  const region = tree.at(row, step);
  if (region === null) return null;
  for (let index = region; index >= 0; index = tree.branches[index].parent) {
    const branch = tree.branches[index];
    const [toX, toY] = [Math.abs(x - xOf(tree, at, branch.stop)), Math.abs(y - yOf(tree, at, branch))];
    if (hasHandle(tree, at, branch) && toX <= HANDLE && toY <= HANDLE) return { kind: "split", index };
    const box = shape && branch.start < shown ? pictureBox(tree, at, branch, shown, shape) : null;
    if (box && x >= box.x && x <= box.x + box.width && y >= box.y && y <= box.y + box.height) return { kind: "branch", index };
  }
  const branch = tree.branches[region];
  const meant = x >= at.right || Math.abs(y - yOf(tree, at, branch)) <= NEAR || branch.leaves * at.row <= 2 * NEAR;
  return meant ? { kind: "branch", index: region } : null;
}
