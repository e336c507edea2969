// The edits of a set's tree as data: what is asked for, what contradicts, what a branch stands for, what is offered.

import assert from "node:assert/strict";
import { test } from "node:test";
import { changeOf, countOf, difference, editsText, held, notRerolled, pinned, pinnedOf, plannedAnew, readEdits, reported, rerolled, splitMoved, splitOf, takenBack, withTreeOf } from "../../web/edits.js";
import { atMost, boundOf, together } from "../../web/edits_bound.js";
import { marksOf, offers, problemOf } from "../../web/edits_menu.js";
import { Prices, priceText } from "../../web/edits_price.js";
import { EditedTree } from "../../web/edits_tree.js";
import { writtenSince } from "../../web/prompt_source.js";
import { Tree } from "../../web/tree.js";
import { BEGIN, fan } from "./a_tree.mjs";

const hex = (n) => n.toString(16).padStart(16, "0");
const [A, B, C] = [1, 2, 3].map(hex);
const NONE = readEdits("");

test("edits are read, written, and refused where they are none of ours", () => {
  assert.equal(editsText(NONE), "");
  const asked = rerolled(NONE, [A], 4, 10);
  assert.deepEqual(readEdits(editsText(asked)), asked);
  assert.deepEqual(readEdits('{"version": 1, "changes": [], "later": 5}').later, 5); // what a newer version knows stays
  for (const text of ["no", "[]", "null", "5", '{"version": 2, "changes": []}', '{"version": 1, "changes": 3}', null]) {
    assert.equal(readEdits(text), null, text);
  }
  for (const change of [{}, { do: "fly", prompts: [A] }, { do: "pin", prompts: [""] }, { do: "split", prompts: [A], step: 4, of: 4 }, { do: "hold", prompts: [A] }]) {
    assert.equal(readEdits(JSON.stringify({ version: 1, changes: [change] })), null, JSON.stringify(change));
  }
});

test("numbers that are too large for the page, and texts that look like them, come back as they were", () => {
  const kept = '{"plan":{"prompt_keys":[2269376838640249610,-9223372036854775807,12],"prompts":["2269376838640249610 \\" 1","a"],"Z":[0.8054768785765836]}}';
  const text = `{"version":1,"kept":${kept},"changes":[]}`;
  assert.equal(editsText(readEdits(text)), text);
  assert.equal(editsText(withTreeOf(NONE, text)), text);
});

test("a reroll replaces the one of the same prompts, and what has run is rerolled once more", () => {
  const first = rerolled(NONE, [A], 4, 10);
  const moved = rerolled(first, [A], 2, 10);
  assert.deepEqual(moved.changes, [{ do: "reroll", prompts: [A], step: 2, of: 10, number: 1001 }]);
  const again = rerolled(moved, [A], 2, 10, moved.changes);
  assert.equal(again.changes[0].number, 1002);
  assert.equal(rerolled(again, [A], 3, 10, moved.changes).changes[0].number, 1002);
  assert.deepEqual(notRerolled(again, [A], moved.changes).changes, moved.changes);
  assert.deepEqual(notRerolled(moved, [A]).changes, []);
  assert.deepEqual(NONE.changes, []); // nothing is changed in its place
});

test("no two rerolls share a number, so that none becomes the picture of another", () => {
  const one = rerolled(NONE, [A], 4, 10);
  const two = rerolled(one, [B], 4, 10, one.changes);
  assert.deepEqual(two.changes.map(({ number }) => number), [1001, 1002]);
  const third = rerolled(two, [A], 4, 10, one.changes);
  assert.deepEqual(third.changes.map(({ number }) => number), [1002, 1003]);
  assert.deepEqual(rerolled(third, [A], 2, 10, one.changes).changes.at(-1), { do: "reroll", prompts: [A], step: 2, of: 10, number: 1003 });
});

test("what is pinned takes back what would touch it, and only that", () => {
  const asked = rerolled(rerolled(NONE, [A, B], 2, 10), [C], 3, 10);
  const fixed = pinned(held(asked, [A, C], 2, 10), [A], true);
  assert.deepEqual(fixed.changes.map(({ do: does, prompts }) => [does, prompts]), [["reroll", [B]], ["reroll", [C]], ["pin", [A]]]);
  assert.deepEqual([...pinnedOf(fixed)], [A]);
  assert.deepEqual(pinned(fixed, [A], false).changes.map(({ do: does }) => does), ["reroll", "reroll"]);
});

test("what a run has drawn of a prompt stays when it is pinned", () => {
  const ran = splitMoved(rerolled(NONE, [A, B], 2, 10), [[A], [C]], 3, 10, 5);
  const fixed = pinned(rerolled(ran, [A], 4, 10, ran.changes), [A], true, ran.changes);
  assert.deepEqual(fixed.changes, [...ran.changes, { do: "pin", prompts: [A] }]);
  assert.equal(takenBack("pin", [A], ran, pinned(ran, [A], true, ran.changes)), "");
  const whole = edited(ran.changes);
  assert.deepEqual(whole.pin(ran, 3).changes, fixed.changes);
  const moved = splitMoved(fixed, [[C], [A]], 2, 10, 3, true);
  assert.deepEqual(moved.changes.at(-1), { do: "split", prompts: [C], step: 2, of: 10 });
  assert.deepEqual(moved.changes.slice(0, 3), fixed.changes); // its own split is how it was drawn
  const together = held(NONE, [A, B], 6, 10);
  assert.equal(edited(together.changes).canMoveSplit(edited(together.changes).pin(together, 3), 2), false);
});

test("a split goes earlier by parting, later by holding, and back to nothing", () => {
  const parts = [[A], [B, C]];
  const earlier = splitMoved(NONE, parts, 2, 10, 5);
  assert.deepEqual(earlier.changes, [{ do: "split", prompts: [A], step: 2, of: 10 }]);
  assert.equal(splitOf(earlier, parts), 2);
  const later = splitMoved(earlier, parts, 8, 10, 5);
  assert.deepEqual(later.changes, [{ do: "hold", prompts: [A, B, C], step: 8, of: 10 }]);
  assert.equal(splitOf(later, parts), 8);
  assert.deepEqual(splitMoved(later, parts, 5, 10, 5).changes, []);
});

test("of two that contradict the last word counts", () => {
  const apart = splitMoved(NONE, [[A], [B]], 2, 10, 5);
  assert.deepEqual(held(apart, [A, B, C], 6, 10).changes.map(({ do: does }) => does), ["hold"]);
  assert.deepEqual(held(apart, [A, B, C], 1, 10).changes.map(({ do: does }) => does), ["split", "hold"]);
  assert.deepEqual(splitMoved(held(NONE, [A, B, C], 6, 10), [[A], [B]], 2, 10, 5).changes.map(({ do: does }) => does), ["split"]);
  const together = held(NONE, [A, B], 6, 10);
  assert.deepEqual(rerolled(together, [A], 2, 10).changes.map(({ do: does }) => does), ["reroll"]);
  assert.deepEqual(rerolled(together, [A], 7, 10).changes.map(({ do: does }) => does), ["hold", "reroll"]);
  assert.deepEqual(rerolled(together, [A, B, C], 2, 10).changes.map(({ do: does }) => does), ["hold", "reroll"]); // all of them
  assert.deepEqual(held(rerolled(NONE, [A], 2, 10), [A, B], 6, 10).changes.map(({ do: does }) => does), ["hold"]);
});

test("what is new is told from what has run, and a split in three is one change", () => {
  const ran = rerolled(NONE, [A], 4, 10);
  const now = splitMoved(ran, [[A], [B], [C]], 2, 10, 5);
  assert.equal(difference(now, ran.changes).added.length, 2);
  assert.equal(countOf(now, ran.changes), 1);
  assert.equal(countOf(NONE, ran.changes), 1); // taken back
  assert.equal(countOf(rerolled(ran, [A], 4, 10, ran.changes), ran.changes), 1); // another number
  assert.equal(countOf(ran, ran.changes), 0);
});

test("another run's tree comes without its changes", () => {
  const asked = rerolled(NONE, [A], 4, 10);
  const told = JSON.stringify({ version: 1, kept: { plan: 1 }, changes: pinned(NONE, [B], true).changes });
  assert.deepEqual(withTreeOf(asked, told), { ...asked, kept: { plan: 1 } });
  assert.deepEqual(withTreeOf(asked, "broken"), asked);
});

test("a tree is planned anew around what is pinned", () => {
  const told = JSON.stringify({ version: 1, kept: { plan: 1 }, changes: [] });
  assert.equal(plannedAnew({ ...NONE, kept: { plan: 2 } }, told).kept, null);
  const fixed = pinned(NONE, [A], true);
  assert.deepEqual(plannedAnew(fixed, told).kept, { plan: 1, anew: true });
  assert.equal(plannedAnew(fixed, "").kept, null);
});

// --- branches ---

const tree = () => Object.assign(new Tree(BEGIN), { state: "done" });
const KEYS = [1, 2, 3, 2].map(hex); // the second and the fourth prompt are equal
const edited = (before = []) => new EditedTree(tree(), KEYS, before);

test("a branch is the keys below it", () => {
  const whole = edited();
  assert.deepEqual([0, 1, 2, 4].map((index) => whole.keysOf(index)), [[A, B, C], [C], [A, B], [B]]);
  assert.deepEqual(whole.partsOf(0), [[C], [A, B]]);
  assert.deepEqual([whole.branchesOf([A, B]), whole.branchesOf([B]), whole.branchesOf([A, C])], [[2], [4], []]);
  assert.deepEqual([whole.splitsOf([A]), whole.splitsOf([A, B]), whole.canSplit(4)], [[2], [0], false]);
});

test("a leaf is rerolled from where it parts, once more after a run, and not at all on the second press", () => {
  const whole = edited();
  const asked = whole.toggleReroll(NONE, 3);
  assert.deepEqual(asked.changes, [{ do: "reroll", prompts: [A], step: 7, of: 10, number: 1001 }]);
  assert.deepEqual(whole.toggleReroll(asked, 3).changes, []);
  const again = edited(asked.changes).toggleReroll(asked, 3);
  assert.equal(again.changes[0].number, 1002);
  assert.deepEqual(edited(asked.changes).toggleReroll(again, 3).changes, asked.changes);
  assert.equal(whole.reroll(NONE, 3, -4).changes[0].step, 0);
  assert.equal(whole.reroll(NONE, 3, 99).changes[0].step, 9);
});

test("pinned leaves stay out when a branch is rerolled", () => {
  const whole = edited();
  const fixed = whole.pin(NONE, 3);
  assert.deepEqual(whole.reroll(fixed, 0).changes.at(-1).prompts, [B, C]);
  assert.deepEqual(whole.pin(fixed, 3).changes, []);
  assert.equal(problemOf({ tree: whole.tree, edited: whole, edits: fixed, problem: "" }, "reroll", 3), "pinned");
  assert.equal(problemOf({ tree: whole.tree, edited: whole, edits: fixed, problem: "" }, "hold", 2), "pinned_below");
});

test("a split moves around what is pinned: the other part leaves it earlier, or goes along with it for longer", () => {
  const whole = edited();
  for (const [pinned, other] of [[3, B], [4, A]]) {
    const fixed = whole.pin(NONE, pinned);
    const problems = (id) => problemOf({ tree: whole.tree, edited: whole, edits: fixed, problem: "" }, id, 2);
    assert.deepEqual(["earlier", "later"].map(problems), ["", ""]);
    for (const step of [5, 8]) {
      const moved = whole.moveSplit(fixed, 2, step);
      assert.deepEqual(moved.changes.at(-1), { do: "split", prompts: [other], step, of: 10 });
      assert.equal(whole.splitStep(moved, 2), step);
      assert.deepEqual(whole.moveSplit(moved, 2, 7).changes, fixed.changes); // where it was
    }
  }
  assert.equal(whole.latestSplit(whole.pin(NONE, 1), 0), 6); // what goes along splits at 7 itself
  assert.equal(whole.latestSplit(whole.pin(NONE, 3), 0), 9);
  const both = whole.pin(whole.pin(NONE, 3), 4);
  const problem = (id) => problemOf({ tree: whole.tree, edited: whole, edits: both, problem: "" }, id, 2);
  assert.deepEqual(["earlier", "later", "hold"].map(problem), Array(3).fill("pinned_below"));
  const three = new EditedTree(Object.assign(new Tree(fan(3)), { state: "done" }), [A, B, C]);
  const one = three.pin(NONE, 1);
  const { stop } = three.tree.branches[0];
  assert.deepEqual([three.canMoveSplit(one, 0), three.latestSplit(one, 0)], [true, stop]); // who would go along is not known
  assert.equal(problemOf({ tree: three.tree, edited: three, edits: one, problem: "" }, "later", 0), "pinned_below");
  assert.deepEqual(three.moveSplit(one, 0, stop + 1).changes, one.changes);
});

test("a reroll begins where it has an effect", () => {
  assert.equal(edited().ownStep(3), 7);
  assert.equal(new EditedTree(tree(), KEYS, [], 5).ownStep(3), 5);
  assert.equal(new EditedTree(tree(), KEYS, [], 5).ownStep(2), 4);
  for (const none of [null, undefined, -1, 10, "5"]) assert.equal(new EditedTree(tree(), KEYS, [], none).last, 8, none);
  assert.equal(new EditedTree(Object.assign(tree(), { steps: 1 }), KEYS).last, 0);
});

test("what a change takes back beside what it is about is said", () => {
  const asked = rerolled(NONE, [A], 2, 10);
  assert.equal(takenBack("hold", [A, B], asked, held(asked, [A, B], 6, 10)), "reroll");
  assert.equal(takenBack("hold", [A, B], asked, held(asked, [A, B], 1, 10)), "");
  assert.equal(takenBack("pin", [A], asked, pinned(asked, [A], true)), "reroll");
  assert.equal(takenBack("reroll", [A], asked, notRerolled(asked, [A])), "");
  const together = held(NONE, [A, B], 6, 10);
  assert.equal(takenBack("reroll", [A], together, rerolled(together, [A], 2, 10)), "apart");
  assert.equal(takenBack("split", [A, B], together, splitMoved(together, [[A], [B]], 2, 10, 5)), "");
  assert.equal(takenBack("hold", [A, B], together, held(together, [A, B], 7, 10)), "");
});

test("that prompts of a change are gone is said by one run, and once more where they come back and go", () => {
  const before = rerolled(rerolled(NONE, [A, B], 2, 10), [C], 3, 10);
  const gone = reported(before, before.changes, [B, C]);
  assert.deepEqual(gone.changes.map(({ said }) => said), [true, undefined]);
  assert.deepEqual(reported(gone, gone.changes, [B, C]), gone);
  assert.deepEqual(reported(gone, gone.changes, [A, B, C]), before);
  assert.deepEqual(reported(before, [], [B, C]), before); // no run has had it
  assert.equal(countOf(gone, before.changes), 0);
});

// --- what texts and variants cost ---

const textState = (value, before, variants = []) => {
  const source = { kind: "HierDiffPromptSet", widget: { name: "text", value }, variants: variants.map(({ node }) => node) };
  const { prompts } = tree();
  const written = writtenSince(source, prompts, before);
  return { tree: tree(), told: { seconds_per_row: 0.5 }, source, written, varied: variants.filter(({ ran, now }) => JSON.stringify(ran) !== JSON.stringify(now)) };
};
const variantsNode = (now, ran = null) => ({ node: { widgets: Object.entries(now).map(([name, v]) => ({ name, value: v })) }, now, ran });

test("a new text costs at most all steps, a removed one nothing, and alternatives are not known", () => {
  const texts = tree().prompts.join("\n");
  const rowsOf = (value) => boundOf(textState(value, texts))?.rows;
  assert.equal(rowsOf(texts), 0);
  assert.equal(rowsOf(`${texts}\na lion`), 10);
  assert.equal(rowsOf(`${texts}\na lion\na bear`), 20);
  assert.equal(rowsOf(texts.split("\n").slice(1).join("\n")), 0);
  assert.equal(rowsOf(`${texts}\na {lion|bear}`), undefined);
  const { seconds, bound } = boundOf(textState(`${texts}\na lion`, texts));
  assert.deepEqual([seconds, bound], [5, true]);
  assert.equal(boundOf({ ...textState(`${texts}\na lion`, texts), told: null }).seconds, null);
});

test("variants cost at most their steps after they part, each", () => {
  const texts = tree().prompts.join("\n");
  const rowsOf = (...nodes) => boundOf(textState(texts, texts, nodes))?.rows;
  const four = { which: "0", count: 4, part_at: 0.5 };
  assert.equal(rowsOf(variantsNode(four)), 20);
  assert.equal(rowsOf(variantsNode(four, four)), 0);
  assert.equal(rowsOf(variantsNode({ ...four, count: 6 }, four)), 10);
  assert.equal(rowsOf(variantsNode({ ...four, which: "0, 2" }, four)), 20);
  assert.equal(rowsOf(variantsNode({ ...four, part_at: 0.8 }, four)), 8);
  assert.equal(rowsOf(variantsNode({ ...four, part_at: 1 })), 4);
  const late = textState(texts, texts, [variantsNode({ ...four, part_at: 1 })]);
  assert.equal(boundOf({ ...late, told: { ...late.told, last_reroll: 6 } }).rows, 16); // they begin where they have an effect
  assert.equal(rowsOf(variantsNode({ ...four, which: "" })), 80); // of all four prompts
  assert.equal(rowsOf(variantsNode({ ...four, which: "x" })), undefined);
  assert.equal(rowsOf(variantsNode({ ...four, count: 5 }, four), variantsNode(four, four)), 45); // the later ones get other numbers
});

test("a bound and a price are one bound", () => {
  const price = { rows: 12, reused: 8, seconds: 2 };
  assert.deepEqual(together(price, atMost(10, 0.5)), { rows: 14, reused: 0, seconds: 7, bound: true });
  assert.equal(together(price, atMost(10, null)).seconds, null);
  assert.deepEqual(together(price, null), { ...price, open: true });
  assert.equal(together(null, atMost(1, 1)), null);
  assert.deepEqual(together({ error: "no" }, atMost(1, 1)), { error: "no" });
  assert.equal(priceText(atMost(0, null)), priceText({ rows: 3, reused: 3, seconds: 0 }));
  assert.notEqual(priceText(atMost(3, 1)), priceText({ rows: 3, reused: 0, seconds: 3 }));
});

test("a branch is held up to the next split, and half of the way where there is none", () => {
  const whole = edited();
  assert.equal(whole.hold(NONE, 2).changes[0].step, 9);
  assert.equal(whole.hold(NONE, 0).changes[0].step, 7);
  assert.deepEqual(whole.hold(whole.hold(NONE, 0), 0).changes, []);
  assert.equal(whole.splitStep(whole.moveSplit(NONE, 2, 5), 2), 5);
  assert.equal(whole.splitStep(whole.moveSplit(NONE, 2, 1), 2), 4); // no earlier than the branch begins
});

test("changes of a run with other steps are shown where they belong", () => {
  assert.equal(edited().stepHere({ step: 10, of: 20 }), 5);
  assert.equal(edited().stepHere({ step: 3, of: 10 }), 3);
});

test("what is offered says why it cannot be done", () => {
  const whole = edited();
  const state = { tree: whole.tree, edited: whole, edits: NONE, problem: "", source: { problem: "source_linked" }, noVariants: true };
  assert.deepEqual(offers(state, 3).map(({ id }) => id), ["pin", "reroll", "edit", "duplicate", "variants", "remove"]);
  assert.deepEqual(offers(state, 3).map(({ problem }) => problem), ["", "", ...Array(4).fill("source_linked")]);
  assert.deepEqual(offers(state, 2).map(({ id }) => id), ["earlier", "later", "hold", "reroll", "pin"]);
  assert.equal(problemOf({ ...state, problem: "not_told" }, "reroll", 3), "not_told");
  whole.tree.state = "running";
  assert.ok(offers(state, 3).every(({ problem }) => problem === "running"));
});

test("marks stand on the branches that are meant", () => {
  const whole = edited([{ do: "pin", prompts: [C] }]);
  const edits = whole.moveSplit(whole.toggleReroll(whole.pin(NONE, 1), 3), 2, 5);
  const written = { changed: new Map([[0, "a lion"]]), removed: new Set([1, 3, 2]), added: 0 };
  const marks = marksOf({ tree: whole.tree, edited: whole, edits, written });
  assert.deepEqual(marks.get(1), { pinned: "ran", removed: true });
  assert.deepEqual(marks.get(3), { reroll: { step: 7, number: 1001, ran: false }, text: "a lion" });
  assert.deepEqual(marks.get(2), { split: 5 });
  assert.deepEqual(marks.get(4), { removed: true });
  assert.ok(!marksOf({ tree: whole.tree, edited: whole, edits, written: { changed: new Map(), removed: new Set([3]) } }).get(4));
});

test("hundreds of leaves are marked, each for itself", () => {
  const many = Object.assign(new Tree(fan(500)), { state: "done" });
  const whole = new EditedTree(many, Array.from({ length: 500 }, (_, i) => hex(i)));
  const edits = { ...NONE, changes: Array.from({ length: 500 }, (_, i) => whole.reroll(NONE, i + 1).changes[0]) };
  assert.equal(marksOf({ tree: many, edited: whole, edits }).size, 500);
});

test("of a change that has run again only the new one counts", () => {
  const ran = rerolled(NONE, [A], 4, 10).changes;
  assert.equal(changeOf({ changes: ran }, "reroll", [A]).number, 1001);
  assert.equal(changeOf({ changes: ran }, "reroll", [B]), null);
});

test("a run that evaluates nothing has no seconds to tell", () => {
  assert.equal(priceText({ rows: 5, reused: 5, seconds: 0 }), priceText({ rows: 5, reused: 5, seconds: null }));
  assert.notEqual(priceText({ rows: 5, reused: 2, seconds: 3 }), priceText({ rows: 5, reused: 2, seconds: null }));
});

test("a reroll that has run is rerolled once more, one that has not is taken back", () => {
  const tree = new Tree(BEGIN);
  const keys = tree.prompts.map((_, number) => hex(number + 1));
  const leaf = tree.branches.find(({ stop }) => stop === tree.steps).index;
  const asked = new EditedTree(tree, keys, []).reroll(NONE, leaf, 1);
  const onIn = (before) => offers({ tree, edited: new EditedTree(tree, keys, before), edits: asked, source: { problem: "source_linked" } }, leaf).find(({ id }) => id === "reroll").on;
  assert.deepEqual([onIn([]), onIn(asked.changes)], [true, false]);
});

test("a price that is told is asked for once, and one that is refused or not known again", async () => {
  const asked = [];
  const answers = [null, { error: "this run is no longer known" }, { rows: 5, reused: 2, seconds: 1 }];
  const prices = new Prices(({ run, edits }) => (asked.push(`${run} ${edits}`), answers.shift()));
  assert.equal(await prices.of("r", "e"), null);
  assert.match((await prices.of("r", "e")).error, /no longer/);
  assert.equal((await prices.of("r", "e")).rows, 5);
  assert.equal((await prices.of("r", "e")).rows, 5);
  assert.deepEqual(asked, ["r e", "r e", "r e"]);
});
