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
 * Which prompt of its input a prompt behind Variants is, or is a variant of. Both from 0.
 *
 * @param settings  {which, count}
 */
export function originalOf({ which, count }, number) {
  const chosen = numbersIn(which);
  const has = chosen && new Set(chosen);
  for (let [at, place] = [0, 0]; ; at++) {
    const taken = 1 + (!has || has.has(at) ? Math.max(count, 0) : 0);
    if (number < place + taken) return at;
    place += taken;
  }
}

/** The place of a prompt behind Variants. */
export function placeOf({ which, count }, number) {
  const chosen = numbersIn(which);
  const before = chosen ? new Set(chosen.filter((each) => each < number)).size : number;
  return number + before * Math.max(count, 0);
}

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
  let at = number;
  for (const node of [...nodes].reverse()) {
    const settings = settingsOf(node);
    at = originalOf(settings, at);
    const chosen = numbersIn(settings.which);
    const alone = chosen?.length === 1 && chosen[0] === at;
    const same = settings.count === count && Math.abs(settings.part_at - part_at) < 1e-6;
    if (!chosen || !(same || alone)) continue;
    set(node, "which", whichOf([...chosen, at]));
    set(node, "count", count);
    set(node, "part_at", part_at);
    return node;
  }
  const place = nodes.reduce((found, node) => placeOf(settingsOf(node), found), at);
  return inserted(nodes.at(-1) ?? source.node, { which: whichOf([place]), count, part_at }, create);
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
