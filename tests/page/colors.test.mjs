// Colours have one source each: stages.js for titles of nodes, colors.js for the panels.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { ACCENT, FAMILIES } from "../../web/colors.js";
import { COLORS, stageColor, STAGES } from "../../web/stages.js";

const ROOT = new URL("../../", import.meta.url);
const read = (path) => readFileSync(new URL(path, ROOT), "utf8");
const types = Object.keys(JSON.parse(read("node_list.json")));

test("every node has a stage, and every stage a colour of its own", () => {
  assert.deepEqual(Object.values(STAGES).flat().sort(), types.sort());
  assert.deepEqual(Object.keys(STAGES).sort(), Object.keys(COLORS).sort());
  assert.equal(new Set(Object.values(COLORS)).size, Object.keys(COLORS).length);
  assert.equal(stageColor("HierDiffPromptSet"), COLORS.prompts);
  assert.equal(stageColor("KSampler"), undefined);
});

test("our nodes in the templates have the colours of their stages", () => {
  const templates = readdirSync(new URL("workflows/", ROOT)).filter((name) => name.endsWith(".json"));
  assert.ok(templates.length >= 3);
  for (const name of templates) {
    for (const { type, color } of JSON.parse(read(`workflows/${name}`)).nodes) {
      if (type.startsWith("HierDiff")) assert.equal(color, stageColor(type), `${type} in ${name}`);
    }
  }
});

test("what builds the templates takes the colours from stages.js", () => {
  const script = read("scripts/build_workflows.py");
  for (const color of Object.values(COLORS)) assert.ok(!script.includes(color));
});

test("the stylesheet's accent is that of the canvas, and the scripts name no colour twice", () => {
  const style = read("web/hierdiff.css");
  assert.deepEqual(style.match(/--hierdiff-accent: (#\w+);/)[1], ACCENT);
  const ours = [ACCENT, ...FAMILIES];
  assert.equal(new Set(ours).size, ours.length);
  for (const color of ours) assert.equal(style.split(color).length - 1, color === ACCENT ? 1 : 0, color);
  for (const name of readdirSync(new URL("web/", ROOT)).filter((name) => name.endsWith(".js") && name !== "colors.js")) {
    for (const color of ours) assert.ok(!read(`web/${name}`).includes(color), `${color} in ${name}`);
  }
});
