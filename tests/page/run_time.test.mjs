// Seconds in words, in both languages.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Tree } from "../../web/tree.js";
import { statusOf } from "../../web/tree_status.js";
import { about, inWords, timeText } from "../../web/run_time.js";
import { loadTexts } from "../../web/texts.js";
import { BEGIN, FakeImage } from "./a_tree.mjs";

globalThis.Image = FakeImage;
const locale = (name) => JSON.parse(readFileSync(new URL(`../../locales/${name}/main.json`, import.meta.url)));
const api = { fetchApi: async () => ({ ok: true, json: async () => ({ en: locale("en"), zh: locale("zh") }) }) };
const speak = (language) => loadTexts(api, language);
const running = (elapsed, left, full, share) => ({ state: "running", share, seconds: { elapsed, left, full } });

test("times are as exact as is of use", async () => {
  await speak("en");
  const words = [0.04, 4.25, 9.96, 41.2, 59.7, 119.7, 125, 3599.8, 3725].map(inWords);
  assert.deepEqual(words, [
    "0.0 s", "4.3 s", "10 s", "41 s", "1 min", "2 min", "2 min 5 s", "1 h", "1 h 2 min",
  ]);
  await speak("zh");
  assert.deepEqual([4.25, 125, 3725].map(inWords), ["4.3 秒", "2 分 5 秒", "1 小时 2 分钟"]);
});

test("estimates come in steps", async () => {
  await speak("en");
  assert.deepEqual([0, 4.4, 33, 58, 130, 3580, 4300].map(about), ["1 s", "4 s", "35 s", "1 min", "2 min", "1 h", "1 h 10 min"]);
});

test("a run tells the share of its work, its time and what is left", async () => {
  await speak("en");
  assert.equal(timeText(running(12, 131, 300, 0.317)), "31 % · 12 s · about 2 min left");
  assert.equal(timeText(running(0.4, null, null, 0)), "0 % · 0.4 s");
  await speak("zh");
  assert.equal(timeText(running(12, 131, 300, 0.317)), "31 % · 12 秒 · 约剩 2 分钟");
});

test("between two messages the clock goes on", async () => {
  await speak("en");
  const status = running(12, 30, 300, 0.5);
  assert.equal(timeText(status, 1000), "50 % · 12 s · about 30 s left");
  assert.equal(timeText(status, 21000), "50 % · 32 s · about 10 s left");
  assert.equal(timeText(status, 91000), "50 % · 1 min 42 s · about 1 s left");
});

test("a run that is over tells what full sampling would have taken", async () => {
  await speak("en");
  const over = (state, elapsed, full) => timeText({ state, share: 1, seconds: { elapsed, left: 0, full } });
  assert.equal(over("done", 41.3, 96.2), "41 s · full sampling: about 1 min 36 s");
  assert.equal(over("done", 41.3, 41.5), "41 s · full sampling takes as long");
  assert.equal(over("done", 41.3, null), "41 s");
  assert.equal(over("stopped", 41.3, 96.2), "41 s");
  await speak("zh");
  assert.equal(over("done", 41.3, 96.2), "41 秒 · 完整采样约需 1 分 36 秒");
});

test("nothing is said where nothing is known: of a server that tells no seconds", () => {
  assert.equal(timeText({ state: "running" }), "");
  assert.equal(timeText({ state: "done", seconds: { elapsed: null, left: null, full: null } }), "");
});

test("a tree's bar begins with its seconds", async () => {
  await speak("en");
  const tree = new Tree({ ...BEGIN, share: 0, seconds: { elapsed: 0, left: null, full: null } });
  await tree.update({ step: 5, clusters: 2, rows: 6, standard: 15, share: 0.25, seconds: { elapsed: 6, left: 18, full: 60 } });
  assert.match(statusOf(tree), /^25 % · 6\.0 s · about 20 s left · /);
});
