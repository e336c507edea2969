// Variants of a prompt by the node Variants: which prompt of its input is meant, and a node that is put behind a source.

import { linkOf, VARIANTS_NODE } from "./prompt_source.js";

const GAP = 40; // pixels

/** The numbers, from 0, that a text such as "0, 3-5" names; null for all, undefined for a text that names none. */
export function numbersIn(which) {
  if (!String(which).trim()) return null;
  const found = [];
  for (const part of String(which).split(/[,;，、；]|(?<=\d)\s+(?=\d)/)) {
    if (!part.trim()) continue;
    const [, first, last] = /^\s*(\d+)\s*(?:[-–~]\s*(\d+)\s*)?$/.exec(part) ?? [];
    if (first === undefined || Number(last ?? first) - Number(first) > 1e5) return undefined;
    for (let number = Number(first); number <= Number(last ?? first); number++) found.push(number);
  }
  return found;
}

/** The text that names numbers. */
export function whichOf(numbers) {
  const sorted = [...new Set(numbers)].sort((a, b) => a - b);
  const runs = [];
  for (const number of sorted) {
    if (runs.at(-1)?.[1] === number - 1) runs.at(-1)[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (last > first + 1 ? `${first}-${last}` : last > first ? `${first}, ${last}` : first)).join(", ");
}

/**
 * The first prompts behind nodes Variants, as the server orders them: {of: number of the prompt, variant: whether it is one}.
 *
 * @param nodes  {which, count} of each, in their order
 * @param size   prompts before them, from the first on
 */
function behind(nodes, size) {
  let rows = Array.from({ length: size }, (_, of) => ({ of, variant: false }));
  for (const { which, count } of nodes) {
    const chosen = numbersIn(which);
    const has = new Set(chosen ?? []);
    const more = new Set(rows.flatMap(({ of, variant }, at) => (!variant && (chosen === null || has.has(at)) ? [of] : [])));
    rows = rows.flatMap((row, at) => {
      const isLast = rows[at + 1]?.of !== row.of; // further variants come after those that are there
      return isLast && more.has(row.of) ? [row, ...Array.from({ length: Math.max(count, 0) }, () => ({ of: row.of, variant: true }))] : [row];
    });
  }
  return rows;
}

/** Which prompt before nodes Variants a prompt behind them is, or is a variant of. Both from 0. */
export const originalOf = (nodes, number) => behind(nodes, number + 1)[number].of;

/** The place of a prompt behind nodes Variants. */
export const placeOf = (nodes, number) => behind(nodes, number + 1).findIndex(({ of, variant }) => of === number && !variant);

export const settingsOf = (node) => Object.fromEntries(["which", "count", "part_at"].map((name) => [name, widgetOf(node, name)?.value]));

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

function set(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget) return;
  widget.value = value;
  widget.callback?.(value);
}

/**
 * Ask for variants of a prompt: by a node that is there with the same settings, else by one more behind it.
 *
 * @param source  of `sourceOf`
 * @param asked   {number: of the prompt in the tree, from 0; count; part_at: share of the steps}
 * @param create  makes a node of a type
 * @returns       the node, or null where it could not be made
 */
export function addVariants(source, { number, count, part_at }, create) {
  const nodes = source.variants;
  const before = nodes.map(settingsOf);
  const of = originalOf(before, number);
  for (let i = nodes.length - 1; i >= 0; i--) {
    const place = placeOf(before.slice(0, i), of);
    const chosen = numbersIn(before[i].which);
    const alone = chosen?.length === 1 && chosen[0] === place;
    const same = before[i].count === count && Math.abs(before[i].part_at - part_at) < 1e-6;
    if (!chosen || !(same || alone)) continue;
    set(nodes[i], "which", whichOf([...chosen, place]));
    set(nodes[i], "count", count);
    set(nodes[i], "part_at", part_at);
    renumber(nodes, before, i + 1);
    return nodes[i];
  }
  return inserted(nodes.at(-1) ?? source.node, { which: whichOf([placeOf(before, of)]), count, part_at }, create);
}

/** Let nodes Variants mean the prompts that they meant, after one before them was changed. */
function renumber(nodes, before, from) {
  for (let i = from; i < nodes.length; i++) {
    const chosen = numbersIn(before[i].which);
    if (!chosen?.length) continue;
    const meant = behind(before.slice(0, i), Math.max(...chosen) + 1);
    const now = nodes.slice(0, i).map(settingsOf);
    const numbers = chosen.flatMap((number) => (meant[number].variant ? [] : [placeOf(now, meant[number].of)]));
    if (numbers.length) set(nodes[i], "which", whichOf(numbers));
  }
}

/**
 * Let nodes Variants mean the prompts that they meant, when a prompt before all of them comes or goes.
 *
 * @param source  of `sourceOf`, not changed yet
 * @param entry   the prompt's, or the one that it comes after
 * @param comes   whether it comes
 */
export function shifted({ variants: nodes }, entries, entry, comes) {
  const at = entries.findIndex(({ place }) => place === entry.place);
  if (entries.slice(0, at + 1).some(({ text, one }) => text === null || one === false)) return; // who knows its number
  const to = (number) => (number <= at ? (number === at && !comes ? null : number) : number + (comes ? 1 : -1));
  const before = nodes.map(settingsOf);
  const chosen = before.map(({ which }) => numbersIn(which));
  const meant = chosen.map((numbers, i) => {
    const all = numbers?.length ? behind(before.slice(0, i), Math.max(...numbers) + 1) : [];
    return (numbers ?? []).flatMap((number) => (all[number].variant ? [] : [to(all[number].of)])).filter((number) => number !== null);
  });
  nodes.forEach((node, i) => {
    const now = nodes.slice(0, i).filter((_, j) => !chosen[j]?.length || meant[j].length).map(settingsOf);
    if (chosen[i]?.length && meant[i].length) set(node, "which", whichOf(meant[i].map((number) => placeOf(now, number))));
  });
  nodes.filter((_, i) => chosen[i]?.length && !meant[i].length).forEach((node) => removed(node, null));
}

/** A node Variants right behind another: all that took the other's prompts takes its. */
function inserted(source, settings, create) {
  const node = create(VARIANTS_NODE);
  if (!node) return null;
  const { graph } = source;
  const links = [...(source.outputs?.[0]?.links ?? [])].map((id) => linkOf(graph, id)).filter(Boolean);
  node.pos = [source.pos[0], source.pos[1] + source.size[1] + GAP + 30];
  graph.add(node);
  for (const [name, value] of Object.entries(settings)) set(node, name, value);
  source.connect(0, node, node.inputs.findIndex((input) => input.name === "prompts"));
  for (const { target_id, target_slot } of links) {
    const target = graph.getNodeById(target_id);
    if (target) node.connect(0, target, target_slot);
    else graph.outputNode?.slots?.[target_slot]?.connect(node.outputs[0], node);
  }
  return node;
}

/**
 * Take back what was asked of a node Variants since a run.
 *
 * @param ran  its inputs in that run; null: it was not there, and goes
 */
export function removed(node, ran) {
  if (ran) {
    for (const name of ["which", "count", "part_at"]) if (name in ran) set(node, name, ran[name]);
    return;
  }
  const { graph } = node;
  const from = linkOf(graph, node.inputs.find((input) => input.name === "prompts")?.link);
  const origin = from && graph.getNodeById(from.origin_id);
  const links = [...(node.outputs[0].links ?? [])].map((id) => linkOf(graph, id)).filter(Boolean);
  for (const { target_id, target_slot } of links) {
    const target = graph.getNodeById(target_id);
    if (target) origin?.connect(from.origin_slot, target, target_slot);
    else if (origin) graph.outputNode?.slots?.[target_slot]?.connect(origin.outputs[from.origin_slot], origin);
  }
  graph.remove(node);
}
