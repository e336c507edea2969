// Questions of Pick as a page knows them, and the places of their pictures.

import assert from "node:assert/strict";
import test from "node:test";
import { Picks, layoutFor, placeAfter, rangesOf } from "../../web/picks.js";

const asked = (id, more = {}) => ({
  kind: "ask", id, node: "2", workflow: "w", prompt_id: "p", pictures: [{}, {}], texts: ["a", "b"], left: 60, ...more,
});

test("questions are found by workflow and node, the newest first, until they are closed or their run has ended", () => {
  const picks = new Picks(() => 0);
  const heard = [];
  picks.listeners.add((question) => heard.push(question.id));
  picks.receive(asked("1"));
  picks.receive(asked("2"));
  picks.receive(asked("3", { node: 7, workflow: "other", prompt_id: "q" }));
  assert.equal(picks.get("w", 2).id, "2");
  assert.equal(picks.get("w", "7"), null);
  assert.equal(picks.get("other", "7").id, "3");
  picks.receive({ kind: "closed", id: "2" });
  picks.receive({ kind: "closed", id: "never heard of" });
  assert.equal(picks.get("w", "2").id, "1");
  picks.end("p");
  assert.equal(picks.get("w", "2"), null);
  assert.deepEqual(heard, ["1", "2", "3", "2", "1"]);
});

test("a question that is heard again keeps what was begun, and takes the time that is left", () => {
  let now = 0;
  const picks = new Picks(() => now);
  picks.receive(asked("1", { workflow: null }));
  const question = picks.get("any", "2");
  now = 30_000;
  assert.equal(picks.left(question), 30);
  picks.receive(asked("1", { left: 50.2 }));
  assert.equal(picks.get("any", "2"), question);
  assert.equal(picks.left(question), 51);
  now = 200_000;
  assert.equal(picks.left(question), 0);
});

test("an answer closes the question, a refusal leaves it open and is told", async () => {
  const picks = new Picks();
  picks.receive(asked("1"));
  const question = picks.get("w", "2");
  const sent = [];
  const api = (ok, answer) => ({
    clientId: "me",
    fetchApi: async (route, options) => (sent.push([route, JSON.parse(options.body)]), { ok, json: async () => answer }),
  });
  assert.equal(await picks.answer(api(false, { error: "too late" }), question, [1]), "too late");
  assert.equal(picks.get("w", "2"), question);
  assert.equal(await picks.answer(api(true, {}), question, [0, 1]), "");
  assert.equal(picks.get("w", "2"), null);
  assert.deepEqual(sent[1], ["/hierdiff/pick", { clientId: "me", id: "1", chosen: [0, 1] }]);
  const away = { fetchApi: async () => Promise.reject(new Error("away")) };
  assert.equal(await picks.answer(away, question, [0]), "?");
});

test("numbers are written as the node reads them", () => {
  assert.equal(rangesOf([5, 3, 4, 0]), "0, 3-5");
  assert.equal(rangesOf([]), "");
});

test("keys lead from picture to picture and not beyond", () => {
  const to = (key, place) => placeAfter(key, place, 7, 3);
  assert.deepEqual(["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "Home", "End"].map((key) => to(key, 3)), [4, 2, 6, 0, 0, 6]);
  assert.deepEqual([to("ArrowLeft", 0), to("ArrowUp", 1), to("ArrowDown", 5), to("ArrowRight", 6), to("x", 2)], [0, 1, 5, 6, null]);
});

test("pictures are as large as their place lets them be, and scroll before they are too small", () => {
  assert.deepEqual(layoutFor(6, 370, 255, 1, 22, 88, 6), { columns: 3, width: 105 });
  assert.deepEqual(layoutFor(1, 370, 255, 1, 22, 88, 6), { columns: 1, width: 233 });
  assert.deepEqual(layoutFor(200, 400, 300, 1, 22, 88, 6), { columns: 4, width: 88 });
  assert.equal(layoutFor(5, 60, 300, 1, 22, 88, 6).columns, 1);
});
