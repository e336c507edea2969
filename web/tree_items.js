// What the lightbox shows of a tree: its leaves, and its branches with the leaves that grew out of them.

import { element } from "./panel.js";
import { safeName } from "./picture_files.js";
import { text } from "./texts.js";

const PROMPTS_OF_BRANCH = 4;
const THUMB = 64;

/** A line on the steps of a branch. */
export function stepsOf(tree, index) {
  const { start, stop } = tree.branches[index];
  return text("tree.steps", { first: start + 1, last: stop });
}

export function countOf(count) {
  return count === 1 ? text("tree.prompts_one") : text("tree.prompts", { count });
}

/** The leaves of a tree from above, or those of one of its branches. */
export function leafItems(tree, pictures, below = null) {
  const { first, leaves } = below === null ? { first: 0, leaves: tree.leaves } : tree.branches[below];
  return Array.from(tree.byRow.subarray(first, first + leaves), (index) => leafItem(tree, pictures, index));
}

function leafItem(tree, pictures, index) {
  const members = tree.branches[index].members;
  const words = [...new Set(tree.promptsOf(index))].join("\n");
  const numbers = members.map((member) => member + 1).join(", ");
  return pictured(tree, pictures, index, {
    title: text("lightbox.leaf", { numbers }),
    text: words,
    name: `${String(members[0] + 1).padStart(3, "0")} ${safeName(words)}`.trim() + ".png",
    source: sourceOf(tree, index, members),
  });
}

/** A branch before it splits, with its leaves. */
export function branchItem(tree, pictures, index) {
  const prompts = tree.promptsOf(index);
  const more = prompts.length - PROMPTS_OF_BRANCH;
  const lines = prompts.slice(0, PROMPTS_OF_BRANCH);
  const leaves = leafItems(tree, pictures, index);
  return pictured(tree, pictures, index, {
    title: `${text("lightbox.branch", { count: countOf(prompts.length) })} · ${stepsOf(tree, index)}`,
    text: [...lines, ...(more > 0 ? [text("tree.more", { count: more })] : [])].join("\n"),
    name: `${safeName(text("lightbox.branch", { count: countOf(prompts.length) }))}.png`,
    leaves,
    source: sourceOf(tree, index, leaves.flatMap(({ source }) => source.prompts)),
  });
}

function sourceOf({ run, node, workflow }, branch, prompts) {
  return { run, node, workflow, branch, prompts };
}

/** An item with {url, small, note, thumb}: found when they are asked for, since a set may have hundreds of leaves. */
function pictured(tree, pictures, index, item) {
  const leaf = tree.branches[index].stop === tree.steps;
  return Object.defineProperties(item, {
    url: { enumerable: true, get: () => pictures.of(tree, index)?.url ?? smallUrl(tree, index) },
    small: { enumerable: true, get: () => smallUrl(tree, index) },
    note: { enumerable: true, get: () => noteOf(tree, pictures.of(tree, index), leaf) },
    thumb: { enumerable: true, value: () => small(tree, index, THUMB) },
  });
}

/** What a picture is not, where it is not the final one in full. */
function noteOf(tree, file, leaf) {
  if (!file && !tree.pictures.size) return text("lightbox.none");
  if (tree.state === "running") return text("lightbox.running");
  if (!leaf) return text("lightbox.cut");
  return file?.whole ? "" : text("lightbox.preview");
}

function smallUrl(tree, index) {
  return small(tree, index)?.toDataURL("image/png") ?? "";
}

/** The picture of a branch that the tree came with, on a canvas of its own, or null. */
export function small(tree, index, most = Infinity) {
  const picture = tree.pictureOf(index);
  if (!picture) return null;
  const canvas = element("canvas", "");
  const scale = Math.min(most / Math.max(picture.width, picture.height), 1);
  canvas.width = Math.round(picture.width * scale);
  canvas.height = Math.round(picture.height * scale);
  const { x, y, width, height } = picture;
  canvas.getContext("2d").drawImage(picture.image, x, y, width, height, 0, 0, canvas.width, canvas.height);
  return canvas;
}
