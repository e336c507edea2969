// How what was asked of a tree is drawn over it, and where its handles are. Knows the tree, its layout and marks only.

import { ACCENT } from "./colors.js";
import { isTip } from "./tree_folding.js";
import { textLeft, xOf, yOf } from "./tree_layout.js";
import { textY } from "./tree_texts.js";

const HANDLE = 6; // pixels, half of a handle
const NEAR = 10; // pixels around a handle where it is meant
const LARGEST_BADGE = 7;
const SMALLEST_WITH_SIGN = 5;
const ABOVE = 2; // pixels of a line that is drawn over another

/** Where the handle of a reroll is: on the way to the branch, at the step. */
export function rerollPlace(tree, at, index, step) {
  const { first, leaves, start } = tree.branches[index];
  const on = step >= start ? index : (tree.at(first + leaves / 2, step) ?? index);
  return { x: xOf(tree, at, step), y: yOf(tree, at, tree.branches[on]) };
}

/** Where the handle of a split that is asked for is. */
export function splitPlace(tree, at, index, step) {
  return { x: xOf(tree, at, step), y: yOf(tree, at, tree.branches[index]) };
}

/** The handle at a point of the content: {kind: "reroll" or "split", index}, or null. */
export function handleAt(tree, at, marks, x, y) {
  for (const [index, { reroll, split }] of marks) {
    if (tree.branches[index].hidden) continue;
    const near = (place) => Math.abs(place.x - x) <= NEAR && Math.abs(place.y - y) <= NEAR;
    if (reroll && near(rerollPlace(tree, at, index, reroll.step))) return { kind: "reroll", index };
    if (split !== undefined && near(splitPlace(tree, at, index, split))) return { kind: "split", index };
  }
  return null;
}

/** The step at a place from left to right, whole. */
export function stepAt(tree, at, x) {
  const [left, right] = [xOf(tree, at, 0), xOf(tree, at, tree.steps)];
  return Math.min(Math.max(Math.round((tree.steps * (x - left)) / (right - left)), 0), tree.steps);
}

/** Draw marks (of `marksOf`) over a tree that is drawn. */
export function drawMarks(context, tree, at, marks, { scroll, colors }) {
  context.save();
  context.beginPath();
  context.rect(0, 18, at.width, at.height); // below the axis
  context.clip();
  context.translate(0, -scroll);
  for (const [index, mark] of marks) {
    const branch = tree.branches[index];
    if (branch.hidden) continue;
    if (mark.reroll) drawReroll(context, tree, at, branch, mark.reroll, colors);
    if (mark.split !== undefined) drawSplit(context, tree, at, branch, mark.split, colors);
    if (mark.removed) drawRemoved(context, tree, at, branch, colors);
    drawBadges(context, tree, at, branch, mark, colors);
  }
  context.restore();
}

function stroke(context, color, width, dash = []) {
  context.globalAlpha = 1;
  context.strokeStyle = color;
  context.lineWidth = width;
  context.setLineDash(dash);
}

function line(context, ...points) {
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
  context.setLineDash([]);
}

/** Half of a handle: where rows are low, handles must not hide the tree. */
function sizeOf(at, branch) {
  return Math.min(HANDLE, Math.max(0.6 * at.row * branch.leaves, 1));
}

function drawReroll(context, tree, at, branch, { step, ran }, colors) {
  const place = rerollPlace(tree, at, branch.index, step);
  const [y, color] = [yOf(tree, at, branch), ran ? colors.muted : ACCENT];
  const from = Math.max(place.x, xOf(tree, at, branch.start));
  const size = sizeOf(at, branch);
  stroke(context, color, Math.min(ABOVE, size), [4, 3]);
  if (place.y === y) line(context, [place.x, y], [xOf(tree, at, branch.stop), y]);
  else line(context, [place.x, place.y], [place.x + (from - place.x) / 2, y], [xOf(tree, at, branch.stop), y]);
  context.beginPath();
  context.moveTo(place.x, place.y - size);
  context.lineTo(place.x + size, place.y);
  context.lineTo(place.x, place.y + size);
  context.lineTo(place.x - size, place.y);
  context.closePath();
  context.fillStyle = ran ? colors.ground : color;
  context.fill();
  stroke(context, ran ? color : colors.ground, Math.min(1.5, size / 3));
  context.stroke();
}

function drawSplit(context, tree, at, branch, step, colors) {
  const { x, y } = splitPlace(tree, at, branch.index, step);
  const size = sizeOf(at, branch);
  stroke(context, ACCENT, ABOVE, [2, 3]);
  line(context, [xOf(tree, at, branch.stop), y], [x, y]);
  stroke(context, ACCENT, ABOVE);
  line(context, [x, y - 2 * size], [x, y + 2 * size]);
  context.beginPath();
  context.arc(x, y, Math.max(size - 1, 1), 0, 2 * Math.PI);
  context.fillStyle = ACCENT;
  context.fill();
  stroke(context, colors.ground, 1.5);
  context.stroke();
}

function drawRemoved(context, tree, at, branch, colors) {
  const y = textY(tree, at, branch);
  context.globalAlpha = 0.6;
  context.fillStyle = colors.ground;
  context.fillRect(xOf(tree, at, branch.start), y - at.row / 2, at.width, at.row);
  stroke(context, ACCENT, 1.5);
  line(context, [xOf(tree, at, branch.start), y], [textLeft(at) + at.text, y]);
}

/** What is asked for without a handle, as small rounds on the branch's end. */
function drawBadges(context, tree, at, branch, mark, colors) {
  const radius = Math.min(LARGEST_BADGE, at.row / 2 - 1);
  if (radius < 1.5 || !isTip(tree, branch)) return;
  const signs = [];
  if (mark.pinned) signs.push([drawPin, mark.pinned === "ran"]);
  if (mark.text) signs.push(["✎", false]);
  if (mark.removed) signs.push(["✕", false]);
  signs.forEach(([sign, ran], i) => {
    const [x, y] = [at.right - radius - 2 - i * (2 * radius + 3), yOf(tree, at, branch)];
    context.globalAlpha = 1;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = ran ? colors.ground : ACCENT;
    context.fill();
    stroke(context, ran ? colors.muted : colors.ground, 1);
    context.stroke();
    if (radius >= SMALLEST_WITH_SIGN) drawSign(context, sign, x, y, radius, ran ? colors.ink : "#1a1a1a");
  });
}

function drawSign(context, sign, x, y, radius, color) {
  context.fillStyle = color;
  if (typeof sign === "function") return sign(context, x, y, radius, color);
  context.font = `${Math.round(1.5 * radius)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(sign, x, y + 0.5);
}

/** A pin: its head, and its needle. */
function drawPin(context, x, y, radius, color) {
  context.beginPath();
  context.arc(x, y - radius * 0.2, radius * 0.42, 0, 2 * Math.PI);
  context.fill();
  stroke(context, color, 1.5);
  line(context, [x, y], [x, y + radius * 0.75]);
}
