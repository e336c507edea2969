// Compare with unshared: asked for, queued, followed, cancelled; the slider's arithmetic.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fitted, movedBy } from "../../web/ab_slider.js";
import { differenceOf, saidOf, shortened } from "../../web/compare.js";
import { Comparison, messageOf, promptsBelow, shareOf, typicalOf } from "../../web/comparison.js";
import { loadTexts } from "../../web/texts.js";
import { Tree } from "../../web/tree.js";
import { BEGIN, FakeImage } from "./a_tree.mjs";

globalThis.Image = FakeImage;
const IMAGES = [{ filename: "a.png", subfolder: "", type: "temp" }, { filename: "b c.png", subfolder: "s", type: "temp" }];
const TOLD = { word: "slight", mean: 3.14, share: 0.25 };
const RESULT = { images: IMAGES, hierdiff_compare: [TOLD] };

/** A page's api whose server answers by route; `sent` are the requests. */
function server(answers = {}) {
  const heard = new Map();
  const sent = [];
  const known = {
    "/hierdiff/compare": { prompt: { 5: {} }, targets: ["hierdiff-compare"], extra_pnginfo: { workflow: { id: "w" } }, kept: true },
    "/prompt": { prompt_id: "p" },
    "/queue": {},
    "/interrupt": {},
    ...answers,
  };
  return {
    sent,
    clientId: "page",
    apiURL: (route) => `/api${route}`,
    addEventListener: (type, listener) => heard.set(type, [...(heard.get(type) ?? []), listener]),
    removeEventListener: (type, listener) => heard.set(type, (heard.get(type) ?? []).filter((other) => other !== listener)),
    listening: () => [...heard.values()].flat().length,
    tell: (type, detail) => (heard.get(type) ?? []).forEach((listener) => listener({ type, detail })),
    fetchApi: async (route, options) => {
      sent.push([route, options?.body ? JSON.parse(options.body) : null]);
      const answer = await known[route];
      if (answer instanceof Error) throw answer;
      return { ok: !answer?.status, status: answer?.status ?? 200, json: async () => answer };
    },
  };
}

function started(api) {
  const states = [];
  const comparison = new Comparison(api, (state) => states.push(state));
  return { comparison, states, ready: comparison.start("r", 3) };
}

test("a prompt is asked for, queued behind nothing of the user's, and followed to its result", async () => {
  const api = server();
  const { states, ready } = started(api);
  await ready;
  assert.deepEqual(api.sent, [
    ["/hierdiff/compare", { clientId: "page", run: "r", prompt: 3 }],
    ["/prompt", {
      client_id: "page", prompt: { 5: {} }, partial_execution_targets: ["hierdiff-compare"],
      extra_data: { extra_pnginfo: { workflow: { id: "w" } } },
    }],
  ]);
  api.tell("progress_state", { prompt_id: "other", nodes: {} }); // somebody else's
  api.tell("executing", { prompt_id: "p", node: "hierdiff-5-alone" });
  api.tell("progress_state", { prompt_id: "p", nodes: { "hierdiff-5-alone": { value: 10, max: 40 } } });
  api.tell("executed", { prompt_id: "p", node: "7", output: { images: [] } });
  api.tell("executed", { prompt_id: "p", node: "hierdiff-compare", output: RESULT });
  assert.deepEqual(states, [
    { state: "asking" },
    { state: "waiting" },
    { state: "running", share: null },
    { state: "running", share: 0.25 },
    { state: "done", shared: "/api/view?filename=a.png&subfolder=&type=temp", unshared: "/api/view?filename=b+c.png&subfolder=s&type=temp", ...TOLD },
  ]);
  assert.equal(api.listening(), 0);
});

test("events that are faster than the queue's answer are not lost", async () => {
  let answer;
  const api = server({ "/prompt": new Promise((done) => (answer = done)) });
  const { states, ready } = started(api);
  await new Promise((done) => setImmediate(done));
  api.tell("executed", { prompt_id: "p", node: "hierdiff-compare", output: RESULT });
  answer({ prompt_id: "p" });
  await ready;
  assert.equal(states.at(-1).state, "done");
});

test("where the host has let the set go, the user is asked before anything is drawn", async () => {
  const api = server({ "/hierdiff/compare": { prompt: {}, targets: [], extra_pnginfo: {}, kept: false } });
  const { comparison, states, ready } = started(api);
  await ready;
  assert.equal(states.at(-1).state, "asks");
  assert.equal(api.sent.length, 1);
  await comparison.queue();
  assert.equal(states.at(-1).state, "waiting");
});

test("cancelling takes it out of the queue and stops it, and nothing is told afterwards", async () => {
  const api = server();
  const { comparison, states, ready } = started(api);
  await ready;
  comparison.cancel();
  api.tell("executed", { prompt_id: "p", node: "hierdiff-compare", output: RESULT });
  assert.equal(states.at(-1).state, "cancelled");
  assert.deepEqual(api.sent.slice(2), [["/queue", { delete: ["p"] }], ["/interrupt", { prompt_id: "p" }]]);
});

test("one that is cancelled while it is put into the queue is taken out again", async () => {
  let answer;
  const api = server({ "/prompt": new Promise((done) => (answer = done)) });
  const { comparison, ready } = started(api);
  await new Promise((done) => setImmediate(done));
  comparison.cancel();
  answer({ prompt_id: "p" });
  await ready;
  assert.deepEqual(api.sent.slice(2).map(([route]) => route), ["/queue", "/interrupt"]);
});

test("a result out of the host's cache is found in its history", async () => {
  const api = server({ "/history/p": { p: { outputs: { "hierdiff-compare": RESULT } } } });
  const { states, ready } = started(api);
  await ready;
  api.tell("execution_success", { prompt_id: "p" });
  await new Promise((done) => setImmediate(done));
  assert.equal(states.at(-1).state, "done");
});

test("refusals and errors are told in the server's words", async () => {
  const refused = async (answers) => {
    const { states, ready } = started(server(answers));
    await ready;
    return states.at(-1);
  };
  assert.deepEqual(await refused({ "/hierdiff/compare": { status: 400, error: "no plan" } }), { state: "failed", message: "no plan" });
  assert.deepEqual(await refused({ "/hierdiff/compare": new Error("away") }), { state: "failed", message: "" });
  const error = { message: "Required input is missing", details: "vae" };
  assert.equal(messageOf({ error: { message: "invalid" }, node_errors: { 3: { errors: [error] } } }), "Required input is missing: vae");
  assert.equal(messageOf({ error: { message: "invalid", details: "" } }), "invalid");
  assert.equal(messageOf(null), "");
  const api = server();
  const { states, ready } = started(api);
  await ready;
  api.tell("execution_error", { prompt_id: "p", exception_message: "out of memory" });
  assert.deepEqual(states.at(-1), { state: "failed", message: "out of memory" });
});

test("progress is that of the sampler that draws the prompt alone", () => {
  const nodes = { "hierdiff-3-alone": { value: 1, max: 1 }, "hierdiff-5-alone": { value: 3, max: 12 }, 5: { value: 1, max: 2 } };
  assert.equal(shareOf(nodes), 0.25);
  assert.equal(shareOf({ 5: { value: 1, max: 2 } }), null);
  assert.equal(shareOf(undefined), null);
});

test("the prompt that stands for a branch is at the end of its thickest boughs", () => {
  const tree = new Tree(BEGIN);
  assert.deepEqual([0, 1, 2, 4].map((branch) => typicalOf(tree, branch)), [0, 2, 0, 1]);
  assert.deepEqual([0, 2, 1].map((branch) => promptsBelow(tree, branch)), [[2, 0, 1, 3], [0, 1, 3], [2]]);
});

test("what is said, in both languages", async () => {
  const locale = (name) => JSON.parse(readFileSync(new URL(`../../locales/${name}/main.json`, import.meta.url)));
  const api = { fetchApi: async () => ({ ok: true, json: async () => ({ en: locale("en"), zh: locale("zh") }) }) };
  await loadTexts(api, "en");
  assert.equal(differenceOf(TOLD), "Slight difference · 25.0 % of the pixels differ visibly, mean colour difference 3.1");
  assert.equal(saidOf({ state: "running", share: 0.259 }), "Drawing this prompt unshared: 25 %");
  assert.equal(saidOf({ state: "failed", message: "" }), "Drawing failed. ComfyUI's log says why.");
  assert.match(saidOf({ state: "asks" }, { drawing: 41 }), /Last time that took 41 s\.$/);
  for (const state of ["asking", "waiting", "running", "cancelled"]) assert.doesNotMatch(saidOf({ state }), /compare\./);
  await loadTexts(api, "zh");
  assert.equal(saidOf({ state: "done", ...TOLD, word: "none visible" }, { took: 12 }), "无可见差异 · 25.0 % 的像素有可见差异，平均色差 3.1 · 绘制用时 12 秒");
  assert.equal(shortened("x".repeat(500)).length, 120);
});

test("keys move the line, and stop at the edges", () => {
  assert.deepEqual(["ArrowLeft", "ArrowRight", "PageUp", "Home", "End", "Tab"].map((key) => movedBy(50, key)), [48, 52, 60, 0, 100, undefined]);
  assert.deepEqual([movedBy(1, "ArrowLeft"), movedBy(95, "PageUp")], [0, 100]);
});

test("pictures are as large as their room, in their shape", () => {
  assert.deepEqual(fitted(512, 256, 1000, 400), { width: 800, height: 400 });
  assert.deepEqual(fitted(128, 128, 640, 1000), { width: 640, height: 640 });
  assert.deepEqual(fitted(0, 0, 640, 480), { width: 0, height: 0 });
});
