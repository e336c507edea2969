// The texts beside a tree: which of them are written, and how they are broken into lines.

import { isTip } from "./tree_folding.js";
import { AXIS, LINE, SMALLEST_TEXT_ROW, yOf } from "./tree_layout.js";

const BETWEEN = 14; // pixels from one text to the next where not all are written
const EDGE = 6; // half of a text's height
const MOST_LINES = 12;

/**
 * The tips whose texts are written, so that none touches another: all where the rows are high enough, else as many as
 * there is room for, first those that `rank` puts first.
 *
 * @param tips    branches, from above
 * @param rank    function of a branch: 0 for what must be seen, more for what may be left out
 */
export function written(tree, at, tips, rank = () => 0) {
  if (at.row >= SMALLEST_TEXT_ROW) return tips;
  const taken = [];
  const free = (y) => {
    let low = 0; // first of `taken` that is not above y
    for (let high = taken.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (taken[middle].y < y) low = middle + 1;
      else high = middle;
    }
    if (taken[low]?.y - y < BETWEEN || y - taken[low - 1]?.y < BETWEEN) return -1;
    return low;
  };
  const order = tips.map((branch, i) => [rank(branch), i]).sort(([a, i], [b, j]) => a - b || i - j);
  for (const [, i] of order) {
    const y = textY(tree, at, tips[i]);
    const place = free(y);
    if (place >= 0) taken.splice(place, 0, { y, branch: tips[i] });
  }
  return taken.map(({ branch }) => branch);
}

/** Middle of a tip's text: beside it, and not cut off above or below. */
export function textY(tree, at, branch) {
  return Math.min(Math.max(yOf(tree, at, branch), AXIS + EDGE), at.content - EDGE);
}

/** What is written beside a tip: its prompts, each once; of a folded branch how many and the first. */
export function labelOf(tree, branch, count) {
  if (!branch.folded) return [...new Set(tree.promptsOf(branch.index))].join(" / ");
  const prompts = tree.promptsOf(branch.index);
  return `${count(prompts.length)}: ${prompts[0]} …`;
}

/** Lines that a row has room for. */
export function linesOf(at) {
  return Math.min(Math.max(Math.floor((at.row - 4) / LINE), 1), MOST_LINES);
}

/**
 * A text in lines of at most this width, the last one cut with an ellipsis where the text is longer.
 *
 * @param measure  width of a text in pixels
 */
export function broken(label, width, lines, measure) {
  const made = [];
  let rest = label.trim();
  while (rest && made.length < lines) {
    const length = longest(rest, width, measure);
    if (length >= rest.length) return [...made, rest];
    if (made.length === lines - 1) return [...made, `${rest.slice(0, longest(rest, width, (part) => measure(`${part}…`)))}…`];
    const cut = breakAt(rest, length);
    made.push(rest.slice(0, cut).trimEnd());
    rest = rest.slice(cut).trimStart();
  }
  return made;
}

/** Letters of the longest beginning that fits; one at least. */
function longest(text, width, measure) {
  if (measure(text) <= width) return text.length;
  let [low, high] = [0, text.length];
  while (low < high - 1) {
    const middle = (low + high) >> 1;
    if (measure(text.slice(0, middle)) <= width) low = middle;
    else high = middle;
  }
  if (low && /[\ud800-\udbff]/.test(text[low - 1])) low--; // not within a letter of two halves
  return Math.max(low, 1);
}

/** Where a line ends that has room for so many letters: after its last word, or anywhere where words have no spaces. */
function breakAt(text, length) {
  if (/\s/.test(text[length])) return length;
  const space = text.slice(0, length).search(/\s\S*$/);
  return space > length / 3 ? space : length;
}

/** Leaves whose prompts hold all words that are looked for, as a Set of branch indices; null where nothing is asked. */
export function found(tree, asked) {
  const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const holds = (text) => words.every((word) => text.toLowerCase().includes(word));
  const leaves = tree.branches.filter((branch) => branch.stop === tree.steps);
  return new Set(leaves.filter((branch) => tree.promptsOf(branch.index).some(holds)).map(({ index }) => index));
}

/** The tips among branches, from above. */
export function tipsOf(tree, branches) {
  return branches.filter((branch) => isTip(tree, branch)).sort((a, b) => a.first - b.first);
}
