// Texts in the page's language, and numbers.

import assert from "node:assert/strict";
import { test } from "node:test";
import { loadTexts, percent, short, text } from "../../web/texts.js";

const ENGLISH = { menu: { all: "All" }, tree: { more: "{count} more of {prompts}", done: "done" } };
const serving = (answer, ok = true) => ({ fetchApi: async () => ({ ok, json: async () => answer }) });
const both = serving({ en: { hierdiff: ENGLISH }, zh: { hierdiff: { tree: { done: "完成" } } } });

test("a text is English where the language has none", async () => {
  await loadTexts(both, "zh");
  assert.equal(text("tree.done"), "完成");
  assert.equal(text("menu.all"), "All");
  await loadTexts(both, "fr");
  assert.equal(text("tree.done"), "done");
});

test("placeholders are filled in, and those without a value stay", async () => {
  await loadTexts(both, "en");
  assert.equal(text("tree.more", { count: 3, prompts: 0 }), "3 more of 0");
  assert.equal(text("tree.more", { count: 3 }), "3 more of {prompts}");
});

test("keys stand in for texts where the server is away, and where a text is not there", async () => {
  await loadTexts(both, "en");
  assert.equal(text("tree.nothing.like.it"), "tree.nothing.like.it");
  for (const away of [serving({}, false), { fetchApi: () => Promise.reject(new Error("away")) }]) {
    await loadTexts(away, "en");
    assert.equal(text("tree.done"), "tree.done");
  }
});

test("numbers are as short as they can be", () => {
  assert.deepEqual([0.614, 0, 1, 0.9999].map(percent), ["61.4 %", "0.0 %", "100.0 %", "100.0 %"]);
  assert.deepEqual([1.5, 0.123456, 12345.6, 0].map(short), ["1.5", "0.1235", "12350", "0"]);
});
