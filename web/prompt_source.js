// The node upstream that prompts come from, and changing a prompt in it: a line of Prompt Set, or a row of Prompt Table.
// No page: nodes and graphs are handed in.

import { blankRow, isBlank, isOn, rowsOfText, tableText } from "./prompt_table_text.js";

export const SET_NODE = "HierDiffPromptSet";
export const TABLE_NODE = "HierDiffPromptTable";
export const VARIANTS_NODE = "HierDiffVariants";
const WHOLE_NODE = "HierDiffSet"; // it has lines of its own, unless a set is connected
const WIDGETS = { [SET_NODE]: "text", [TABLE_NODE]: "table" };
const LINES = /\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]/; // as Python's splitlines has them
const LINES_WITH_ENDS = /(\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029])/;
const GROUPS = /(^|[^\\])[{}]|__[^\s_].*?__/; // alternatives, and wildcards
const OFF = [2, 4]; // modes of a node: muted, bypassed
const MOST_NODES = 2000;
const MOST_COMPARED = 4e6; // pairs of entries

// --- the way upstream ---

/** A link by its number, in any version of the page. */
export function linkOf(graph, id) {
  return id == null ? null : (graph?.getLink?.(id) ?? graph?.links?.get?.(id) ?? graph?.links?.[id] ?? null);
}

/**
 * Nodes that a node's input comes from: those that make it, the way out of a subgraph and through the edge into one
 * included.
 *
 * @param holders  graph -> the node that stands for it in the graph around it
 */
function makerOf(node, input, holders) {
  return madeBy(node.graph, linkOf(node.graph, node.inputs?.[input]?.link), holders);
}

function madeBy(graph, link, holders) {
  if (!link) return null;
  const origin = graph.getNodeById?.(link.origin_id);
  if (origin?.subgraph) return madeBy(origin.subgraph, linkOf(origin.subgraph, edgeLink(origin.subgraph, link.origin_slot)), holders);
  if (origin) return { node: origin, slot: link.origin_slot };
  const holder = holders.get(graph); // the edge of a subgraph
  return holder ? madeBy(holder.graph, linkOf(holder.graph, holder.inputs?.[link.origin_slot]?.link), holders) : null;
}

/** The link that leads to an output of a subgraph. */
function edgeLink(subgraph, slot) {
  return (subgraph.outputNode?.slots ?? subgraph.outputs)?.[slot]?.linkIds?.[0] ?? null;
}

/** Which node stands for each subgraph; null for one that is used twice, whose inside has no one outside. */
export function holdersOf(root) {
  const holders = new Map();
  const walk = (graph) => {
    for (const node of graph?.nodes ?? []) {
      if (!node.subgraph) continue;
      const seen = holders.has(node.subgraph);
      holders.set(node.subgraph, seen ? null : node);
      if (!seen) walk(node.subgraph);
    }
  };
  walk(root);
  return holders;
}

/**
 * All that is upstream of a node, the nearest first: {node, slot} of each output that is used.
 *
 * @param follows  function of an input: whether the way leads through it
 */
export function upstreamOf(node, holders, follows = () => true) {
  const found = [];
  const seen = new Set([node]);
  for (const waiting = [node]; waiting.length && seen.size < MOST_NODES; ) {
    const at = waiting.shift();
    for (const [place, input] of (at.inputs ?? []).entries()) {
      const maker = follows(input) ? makerOf(at, place, holders) : null;
      if (!maker || seen.has(maker.node)) continue;
      seen.add(maker.node);
      found.push(maker);
      waiting.push(maker.node);
    }
  }
  return found;
}

/**
 * Where the prompts of a tree come from: {node, widget, kind, variants: the nodes Variants behind it, in their order} or
 * {problem: key of a text}. `alone`: it is the tree's node itself, and no other can stand behind it.
 *
 * @param texts  prompts of the tree; of several nodes the one that has most of them
 */
export function sourceOf(node, texts, root) {
  if (node.comfyClass === WHOLE_NODE && !isLinked(node, "prompts")) return { ...describe(node, "text"), alone: true };
  const holders = holdersOf(root);
  const upstream = upstreamOf(node, holders).filter((maker) => runs(maker.node, holders));
  const makers = upstream.filter(({ node: { comfyClass } }) => comfyClass in WIDGETS);
  if (!makers.length) return { problem: "source_none" };
  const wanted = new Set(texts.map(plain));
  const sources = makers.map(({ node }) => describe(node));
  const score = (source) => (source.problem ? 0 : entriesOf(source).filter(({ text }) => wanted.has(text)).length);
  const best = sources.map((source) => [score(source), source]).sort(([a], [b]) => b - a)[0][1];
  if (best.problem) return best;
  const behind = ({ node: other }) => other.comfyClass === VARIANTS_NODE && comesFrom(other, best.node, root);
  return { ...best, variants: upstream.filter(behind).map((maker) => maker.node).reverse() };
}

/** Whether a node, and each that stands for a subgraph around it, is neither muted nor bypassed. */
function runs(node, holders) {
  for (let at = node; at; at = holders.get(at.graph)) if (OFF.includes(at.mode)) return false;
  return true;
}

function comesFrom(node, source, root) {
  return upstreamOf(node, holdersOf(root)).some((maker) => maker.node === source);
}

const isLinked = (node, name) => Boolean(node.inputs?.some((input) => (input.widget?.name ?? input.name) === name && input.link != null));

function describe(node, name = WIDGETS[node.comfyClass]) {
  const widget = node.widgets?.find((each) => each.name === name);
  if (!widget || isLinked(node, name)) return { problem: "source_linked" };
  return { node, widget, kind: name === "table" ? TABLE_NODE : SET_NODE };
}

// --- its entries: what stands for one prompt each ---

/** A prompt as sets keep it: one line, with single spaces. */
export function plain(text) {
  return String(text).replace(/\uFEFF/g, " ").trim().split(/\s+/).join(" ");
}

/** {place, text, whole} of what stands for prompts in a source; text null for what stands for several or unknown ones. */
export function entriesOf({ kind, widget }, value = widget.value) {
  return kind === SET_NODE ? linesOf(value ?? "") : rowsIn(value ?? "");
}

function linesOf(text) {
  const found = [];
  let comment = false;
  for (const [place, line] of text.split(LINES).entries()) {
    const stripped = line.replace(/\uFEFF/g, " ").trim();
    const inside = comment;
    if (!comment && stripped.startsWith("/*")) comment = true;
    if (comment) {
      if (stripped.slice(inside ? 0 : 2).endsWith("*/")) comment = false;
      continue;
    }
    if (!stripped || /^(#|\/\/)/.test(stripped)) continue;
    found.push({ place, text: GROUPS.test(stripped) ? null : plain(unescaped(stripped)) });
  }
  return found;
}

function rowsIn(value) {
  const rows = rowsOfText(value) ?? [];
  return rows.flatMap((row, place) => {
    if (!isOn(row) || isBlank(row)) return [];
    const one = !row.pictures.trim() || row.pictures.trim() === "1";
    return [{ place, text: GROUPS.test(row.prompt) ? null : plain(unescaped(row.prompt)), one }];
  });
}

const unescaped = (line) => line.replace(/^\\(?=\/\/|\/\*)/, "").replace(/\\([{|}#])/g, "$1");

/** A prompt as it is written into a line, so that it is read as it is. */
export function escaped(text) {
  return plain(text)
    .replace(/[{|}]/g, "\\$&")
    .replace(/^(#|\/\/|\/\*)/, "\\$1");
}

/**
 * The entry that a prompt of a tree stands in: {entry} or {problem: key of a text}. Of equal prompts each has its own,
 * in their order.
 *
 * @param texts    prompts of the tree
 * @param number   of one of them
 * @param written  of `writtenSince`: what was written since the tree's run
 */
export function entryOf(source, texts, number, written = null) {
  const rewritten = written?.entries.get(number);
  if (rewritten) return { entry: rewritten };
  const text = plain(texts[number]);
  const entries = entriesOf(source);
  const equal = entries.filter((entry) => entry.text === text);
  if (written?.removed.has(number) || !equal.length) {
    return { problem: entries.some((entry) => entry.text === null) ? "source_expanded" : "source_gone" };
  }
  const before = texts.slice(0, number).filter((other, i) => plain(other) === text && !gone(written, i));
  return { entry: equal[Math.min(before.length, equal.length - 1)] };
}

const gone = (written, number) => Boolean(written?.removed.has(number) || written?.changed.has(number));

/** The value of a source with an entry changed: `text` null removes it; `after` puts the text behind it instead. */
export function withEntry({ kind, widget }, { place }, text, after = false) {
  const value = widget.value ?? "";
  return kind === SET_NODE ? withLine(value, place, text, after) : withRow(value, place, text, after);
}

function withLine(value, place, text, after) {
  const parts = value.split(LINES_WITH_ENDS); // lines, and between them their ends
  const at = 2 * place;
  const end = parts.find((part, i) => i % 2) ?? "\n";
  if (text === null) parts.splice(at ? at - 1 : 0, 2);
  else if (after) parts.splice(at + 1, 0, end, escaped(text));
  else parts[at] = escaped(text);
  return parts.join("");
}

function withRow(value, place, text, after) {
  const rows = rowsOfText(value);
  const prompt = text === null ? "" : escaped(text).replace(/^\\(?=#|\/)/, ""); // a cell is never a comment
  if (text === null) rows.splice(place, 1);
  else if (after) rows.splice(place + 1, 0, { ...blankRow(rows[place]), prompt });
  else rows[place] = { ...rows[place], prompt };
  return tableText(rows);
}

/**
 * What has been written since a run: {changed: Map of prompt number -> new text, entries: Map of these numbers -> the
 * entry that they stand in now, removed: Set of numbers, added: how many prompts are new, open: whether a new entry
 * stands for who knows how many}.
 *
 * @param texts   prompts of the run's tree
 * @param before  the source's value in that run
 */
export function writtenSince(source, texts, before) {
  const written = { changed: new Map(), entries: new Map(), removed: new Set(), added: 0, open: false };
  if (before === undefined || before === source.widget.value) return written;
  const old = entriesOf(source, before);
  const numbers = numbersOf(old, texts);
  for (const [gone, come] of hunksOf(old, entriesOf(source))) {
    const kept = Math.min(gone.length, come.length);
    gone.forEach((entry, i) => {
      for (const number of numbers.get(entry) ?? []) {
        if (i >= kept) written.removed.add(number);
        else written.changed.set(number, come[i].text ?? "…"), written.entries.set(number, come[i]);
      }
    });
    written.added += come.length - kept;
    written.open ||= come.some(({ text, one }) => text === null || one === false);
  }
  return written;
}

/** Pieces in which two lists of entries differ: [[entries that are gone, entries that have come]]. */
function hunksOf(old, now) {
  let first = 0;
  let [oldEnd, nowEnd] = [old.length, now.length];
  while (first < oldEnd && first < nowEnd && old[first].text === now[first].text) first++;
  while (oldEnd > first && nowEnd > first && old[oldEnd - 1].text === now[nowEnd - 1].text) oldEnd--, nowEnd--;
  const [gone, come] = [old.slice(first, oldEnd), now.slice(first, nowEnd)];
  return gone.length * come.length > MOST_COMPARED ? [[gone, come]] : commonParted(gone, come);
}

/** The pieces between the longest common sequence of two lists of entries. */
function commonParted(old, now) {
  const longest = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = now.length - 1; j >= 0; j--) {
      const skipped = Math.max(longest[i + 1][j], longest[i][j + 1]);
      longest[i][j] = old[i].text === now[j].text ? longest[i + 1][j + 1] + 1 : skipped;
    }
  }
  const hunks = [[[], []]];
  for (let [i, j] = [0, 0]; i < old.length || j < now.length; ) {
    const common = i < old.length && j < now.length && old[i].text === now[j].text;
    if (common) hunks.push([[], []]), i++, j++;
    else if (j >= now.length || (i < old.length && longest[i + 1][j] >= longest[i][j + 1])) hunks.at(-1)[0].push(old[i++]);
    else hunks.at(-1)[1].push(now[j++]);
  }
  return hunks.filter(([gone, come]) => gone.length || come.length);
}

/** Map: entry -> numbers of the prompts that it stands for: of equal entries each for its own, one alone for all. */
function numbersOf(entries, texts) {
  const grouped = (items, textOf) => {
    const groups = new Map();
    for (const [i, item] of items.entries()) groups.set(textOf(item), [...(groups.get(textOf(item)) ?? []), i]);
    return groups;
  };
  const numbers = grouped(texts, plain);
  const found = new Map();
  for (const [text, places] of grouped(entries, (entry) => entry.text)) {
    const own = (text !== null && numbers.get(text)) || [];
    places.forEach((place, turn) => found.set(entries[place], places.length > 1 ? own.slice(turn, turn + 1) : own));
  }
  return found;
}
