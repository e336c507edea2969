// What nodes said: parts of a text, how it is folded, and what is known of which workflow's node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { partsOf, Results, shownOf } from "../../web/results.js";
import { roomOf } from "../../web/result_panel.js";

const said = { node: "5", workflow: "w", prompt_id: "p", state: "running", text: "first", data: {} };

test("warnings are parted from the other lines, which keep their order", () => {
  const text = "12 rows\n⚠ too few\n\nmore\n⚠ too many\n \n";
  assert.deepEqual(partsOf(text), { warnings: ["⚠ too few", "⚠ too many"], lines: ["12 rows", "", "more"] });
});

test("a text is folded to its first line, a short one never", () => {
  assert.deepEqual(shownOf("a\nb\n⚠ c", true), { warnings: ["⚠ c"], words: "a", whole: "a\nb", one: false, folded: true });
  assert.equal(shownOf("a\nb", false).words, "a\nb");
  const short = "s".repeat(40);
  assert.deepEqual(shownOf(short, true), { warnings: [], words: short, whole: short, one: true, folded: false });
  assert.equal(shownOf(`${short}s`, true).folded, true);
  assert.deepEqual(shownOf("", true), { warnings: [], words: "", whole: "", one: true, folded: false });
});

test("a text that shares the room of a node can do with less, and no text takes more than 220 pixels", () => {
  const sizes = { height: 150, shortest: 100 };
  assert.deepEqual(roomOf("shared", false, sizes), { least: 100, most: 150 });
  assert.deepEqual(roomOf("shared", true, sizes), { least: 150, most: 150 });
  assert.deepEqual(roomOf("fixed", false, sizes), { least: 150, most: 150 });
  assert.deepEqual(roomOf("fixed", false, { height: 900, shortest: 100 }), { least: 220, most: 220 });
  assert.deepEqual(roomOf("shared", false, { height: 900, shortest: 400 }), { least: 220, most: 900 });
  assert.deepEqual(roomOf("shared", false, { height: 0, shortest: 100 }), { least: 0, most: 0 });
});

test("what a node said is kept for its workflow, or for any where it was queued without one", () => {
  const results = new Results();
  results.receive({ ...said, workflow: null, text: "of none" });
  assert.equal(results.get("other", "5").text, "of none");
  results.receive(said);
  assert.equal(results.get("w", "5").text, "first");
  assert.equal(results.get("other", "5").text, "of none");
  assert.equal(results.get("w", "6"), null);
  assert.ok(results.get("w", "5").order > results.get("other", "5").order);
});

test("of a node's output only ours is kept, and only of the run that spoke", () => {
  const results = new Results();
  const heard = [];
  results.receive(said);
  results.listeners.add((result) => heard.push(result.data));
  results.receiveOutput(5, "another", { hierdiff_schedule: [{ rows: 1 }] });
  results.receiveOutput(5, undefined, { hierdiff_schedule: [{ rows: 1 }] });
  results.receiveOutput(6, "p", { hierdiff_schedule: [{ rows: 1 }] });
  results.receiveOutput(5, "p", { hierdiff_schedule: [{ rows: 2 }], images: ["x"] });
  assert.deepEqual(heard, [{ hierdiff_schedule: { rows: 2 } }]);
});

test("an output out of the history counts where nothing else is known", () => {
  const results = new Results();
  results.restore("w", "5", { text: ["old"], hierdiff_schedule: [1] });
  results.restore("w", "5", { text: ["older"] });
  results.restore("w", "6", { images: [] });
  results.restore("w", "7", undefined);
  const { text, state, data } = results.get("w", "5");
  assert.deepEqual({ text, state, data }, { text: "old", state: "done", data: { hierdiff_schedule: 1 } });
  assert.equal(results.get("w", "6") ?? results.get("w", "7"), null);
});

test("at the end of a run what is still running is over", () => {
  const results = new Results();
  const heard = [];
  results.receive(said);
  results.receive({ ...said, node: "6", state: "done" });
  results.receive({ ...said, node: "7", prompt_id: "another" });
  results.listeners.add(({ node }) => heard.push(node));
  results.end("p");
  assert.deepEqual(heard, ["5"]);
  assert.deepEqual([results.get("w", "5").text, results.get("w", "6").text, results.get("w", "7").state], ["", "first", "running"]);
});
