// What was asked of a set's tree, as data: the text of a sampler's input `edits` (hierdiff_core/plan/edits.py). No page.

const VERSION = 1;
const LONGEST = 64e6; // characters that are read
const LONGEST_KEY = 80;
const FIRST_NUMBER = 1001; // of rerolls: those of variants are lower, and none may be drawn as another one is
const DOES = ["reroll", "split", "hold", "pin"];
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g; // of JSON: texts and numbers
const LARGE = /^-?\d{16,}$/;
const MARK = "\\u0001#"; // as JSON has it
const MARKED = /"\\u0001#(-?\d+)"/g;
const MOST_REMEMBERED = 8;
const EMPTY = { version: VERSION, kept: null, changes: [] };

const remembered = new Map(); // texts -> edits, which nobody changes in their place

/** {version, kept, changes} of a text; null for one that is none of ours, which nobody here may change. */
export function readEdits(text) {
  if (!remembered.has(text)) {
    if (remembered.size >= MOST_REMEMBERED) remembered.delete(remembered.keys().next().value);
    remembered.set(text, readAnew(text));
  }
  return remembered.get(text);
}

function readAnew(text) {
  if (typeof text !== "string" || text.length > LONGEST) return null;
  if (!text.trim()) return { ...EMPTY };
  let read;
  try {
    read = parsed(text);
  } catch {
    return null;
  }
  if (read?.version !== VERSION || !Array.isArray(read.changes ?? [])) return null;
  const changes = read.changes ?? [];
  return changes.every(isChange) ? { ...read, kept: read.kept ?? null, changes } : null;
}

/** The text of edits; nothing for none, as in a node that is new. */
export function editsText(edits) {
  return edits.kept || edits.changes.length ? written({ ...edits, version: VERSION }) : "";
}

/** JSON with its large integers, such as keys of prompts, as marked texts: a number of the page would round them. */
function parsed(text) {
  return JSON.parse(text.replace(TOKENS, (token) => (LARGE.test(token) ? `"${MARK}${token}"` : token)));
}

function written(data) {
  return JSON.stringify(data).replace(MARKED, "$1");
}

function isChange(change) {
  const { do: does, prompts, step, of } = change ?? {};
  if (!DOES.includes(does) || !Array.isArray(prompts) || !prompts.length) return false;
  if (!prompts.every((key) => typeof key === "string" && key && key.length <= LONGEST_KEY)) return false;
  return does === "pin" || (Number.isInteger(step) && Number.isInteger(of) && step >= 0 && step < of);
}

/**
 * Edits for the next run, which says once of a change that prompts of it are gone. The change itself stays: branches
 * that such prompts were in are still made of them.
 *
 * @param before  changes that the last run had
 * @param keys    of its prompts
 */
export function reported(edits, before, keys) {
  const known = new Set(keys);
  const isSaid = (change) => !change.prompts.every((key) => known.has(key)) && before.some((each) => alike(each, change));
  const changes = edits.changes.map(({ said, ...change }) => (isSaid(change) ? { ...change, said: true } : change));
  return with_(edits, changes);
}

/** Two changes that ask for the same. */
export function alike(a, b) {
  return nameOf(a) === nameOf(b);
}

function nameOf({ do: does, prompts, step = null, of = null, number = null }) {
  return JSON.stringify([does, [...prompts].sort(), step, of, number]);
}

export function sameKeys(a, b) {
  return a.length === b.length && isWithin(a, b);
}

function isWithin(some, all) {
  const known = new Set(all);
  return some.every((key) => known.has(key));
}

const shares = (a, b) => {
  const known = new Set(b);
  return a.some((key) => known.has(key));
};

/** Keys that are pinned. */
export function pinnedOf({ changes }) {
  return new Set(changes.filter((change) => change.do === "pin").flatMap(({ prompts }) => prompts));
}

const with_ = (edits, changes) => ({ ...edits, changes });

/** Edits without what is asked of exactly these prompts. */
export function without(edits, does, keys) {
  return with_(edits, edits.changes.filter((change) => change.do !== does || !sameKeys(change.prompts, keys)));
}

/** The change of this kind that is asked of exactly these prompts, or null. */
export function changeOf({ changes }, does, keys) {
  return changes.findLast((change) => change.do === does && sameKeys(change.prompts, keys)) ?? null;
}

/** Pin prompts, or give them free. What was asked of a pinned prompt is taken back: the two would contradict. */
export function pinned(edits, keys, on) {
  const free = edits.changes.flatMap((change) => (change.do === "pin" ? less(change, keys) : [change]));
  if (!on) return with_(edits, free);
  const rest = free.flatMap((change) => {
    if (change.do === "reroll") return less(change, keys);
    return ["split", "hold"].includes(change.do) && shares(change.prompts, keys) ? [] : [change];
  });
  return with_(edits, [...rest, { do: "pin", prompts: keys }]);
}

/** A change without some of its prompts, in a list; an empty one where none is left. */
function less(change, keys) {
  const gone = new Set(keys);
  const prompts = change.prompts.filter((key) => !gone.has(key));
  if (prompts.length === change.prompts.length) return [change];
  return prompts.length ? [{ ...change, prompts }] : [];
}

/**
 * Other noise for prompts, from a step on.
 *
 * @param before  changes of the run that is seen: what it rerolled is rerolled once more
 */
export function rerolled(edits, keys, step, of, before = []) {
  const asked = changeOf(edits, "reroll", keys);
  const numbers = [...edits.changes, ...before].map((change) => change.number ?? 0);
  const moved = asked && !before.some((change) => alike(change, asked) || change.number === asked.number);
  const number = moved ? asked.number : Math.max(FIRST_NUMBER - 1, ...numbers) + 1;
  const rest = without(edits, "reroll", keys).changes.filter((change) => !holdsBeyond(change, keys, step));
  return with_(edits, [...rest, { do: "reroll", prompts: keys, step, of, number }]);
}

/**
 * Take back the reroll of prompts that no run has drawn yet: what the run had stays.
 */
export function notRerolled(edits, keys, before = []) {
  const ran = changeOf({ changes: before }, "reroll", keys);
  const rest = without(edits, "reroll", keys).changes;
  return with_(edits, ran ? [...rest, ran] : rest);
}

/**
 * Move the split of a branch to a step.
 *
 * @param parts  keys of what grows out of it, a list for each
 * @param at     the step at which it splits in the run that is seen; there nothing is asked for
 * @param fixed  whether the last part must stay what it is: another goes along with it, instead of all being held
 */
export function splitMoved(edits, parts, step, of, at, fixed = false) {
  const all = parts.flat();
  const rest = edits.changes.filter((change) => {
    if (change.do === "hold") return !sameKeys(change.prompts, all);
    return change.do !== "split" || !parts.some((part) => sameKeys(change.prompts, part));
  });
  if (step === at) return with_(edits, rest);
  if (step > at && !fixed) return held(with_(edits, rest), all, Math.min(step, of - 1), of);
  // what is apart from all others leaves the last part alone
  const apart = parts.slice(0, -1).map((prompts) => ({ do: "split", prompts, step, of }));
  return with_(edits, [...rest.filter((change) => !apart.some(({ prompts }) => holdsBeyond(change, prompts, step))), ...apart]);
}

/** Whether a change holds some prompts together with others for longer than until a step: both cannot be. */
function holdsBeyond(change, keys, step) {
  return change.do === "hold" && change.step > step && shares(keys, change.prompts) && !isWithin(change.prompts, keys);
}

/** Keep prompts together until a step; what parts some of them before it is taken back. */
export function held(edits, keys, step, of) {
  const asked = { do: "hold", prompts: keys, step, of };
  const parts = ({ do: does }) => does === "split" || does === "reroll";
  const rest = without(edits, "hold", keys).changes.filter((change) => !parts(change) || !holdsBeyond(asked, change.prompts, change.step));
  return with_(edits, [...rest, asked]);
}

/** Where the split of a branch has been asked for, or null: as for `splitMoved`. */
export function splitOf(edits, parts) {
  const hold = changeOf(edits, "hold", parts.flat());
  if (hold) return hold.step;
  return parts.map((part) => changeOf(edits, "split", part)).find(Boolean)?.step ?? null;
}

/** What edits ask for beyond what a run had, and what they no longer ask for: {added, removed}. */
export function difference(edits, before = []) {
  const [now, then] = [edits.changes.map(nameOf), before.map(nameOf)];
  return {
    added: edits.changes.filter((_, i) => !then.includes(now[i])),
    removed: before.filter((_, i) => !now.includes(then[i])),
  };
}

/**
 * What a change takes back beside what it is about: "reroll" for rerolls, "apart" for splits and holds; or "".
 *
 * @param does  what the change is: "pin", "reroll", "split" or "hold"
 * @param keys  of the branch that it is about
 */
export function takenBack(does, keys, before, after) {
  const { removed } = difference(after, before.changes);
  if (does !== "reroll" && removed.some((change) => change.do === "reroll")) return "reroll";
  const about = ({ prompts }) => (does === "hold" ? sameKeys(prompts, keys) : does === "split" && isWithin(prompts, keys));
  return removed.some((change) => ["split", "hold"].includes(change.do) && !about(change)) ? "apart" : "";
}

/** How many changes a person has made: parts of a split that is moved, and another reroll of the same, are one. */
export function countOf(edits, before = []) {
  const { added, removed } = difference(edits, before);
  const places = (changes) => new Set(changes.map(({ do: does, prompts, step, of }) => (does === "split" ? `split ${step}/${of}` : `${does} ${[...prompts].sort()}`)));
  return new Set([...places(added), ...places(removed)]).size;
}

/**
 * Edits whose tree is planned anew, but for what is pinned, which keeps its place.
 *
 * @param told  text of the last run's edits
 */
export function plannedAnew(edits, told) {
  const kept = edits.kept ?? readEdits(told)?.kept;
  return { ...edits, kept: kept && pinnedOf(edits).size ? { ...kept, anew: true } : null };
}

/** Edits with the tree of another run: {kept} of the text that it told. The changes stay what they are. */
export function withTreeOf(edits, told) {
  const kept = readEdits(told)?.kept;
  return kept ? { ...edits, kept } : edits;
}
