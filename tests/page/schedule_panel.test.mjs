// What the plot of Threshold Schedule says of a plan.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { figuresOf, SchedulePanel, warningsOf } from "../../web/schedule_widget.js";
import { loadTexts } from "../../web/texts.js";
import { fakePage } from "./fake_page.mjs";

const PLAN = {
  tau: 0.41234,
  thresholds: [0.41234, 0.2, 0],
  clusters: [1, 2, 4],
  rows: 7,
  standard: 12,
  saved: 5 / 12,
  distortion: 0.5,
  different: 2,
  alike: false,
  missed: false,
};
const TEXTS = { saved: "saved", rows: "rows", distortion: "distortion", step: "step", clusters: "clusters" };
const WARNINGS = { alike: "about {count} of {prompts}", most: "{asked} is out of reach: {most} at most" };

before(() => {
  const texts = { en: { hierdiff: { schedule: { ...TEXTS, ...WARNINGS } } } };
  return loadTexts({ fetchApi: async () => ({ ok: true, json: async () => texts }) }, "en");
});

test("the figures are those of the plan, or of the step under the pointer", () => {
  assert.deepEqual(figuresOf(PLAN, null), ["saved 41.7 %", "rows 7 / 12", "τ 0.4123", "distortion 0.5"]);
  assert.deepEqual(figuresOf(PLAN, 1), ["step 2", "clusters 2", "φ 0.2", "distortion 0.5"]);
  assert.equal(figuresOf({ ...PLAN, distortion: null }, null).length, 3);
});

test("a plan that does what it seems to has no warnings", () => {
  assert.deepEqual(warningsOf(PLAN, 4, "41.7 %"), []);
});

test("pictures that will look alike and a budget out of reach are told of, once", () => {
  const plan = { ...PLAN, alike: true, missed: true };
  const most = "⚠ 99.0 % is out of reach: 41.7 % at most";
  assert.deepEqual(warningsOf(plan, 4, "99.0 %"), ["⚠ about 2 of 4", most]);
  assert.deepEqual(warningsOf(plan, 4, "99.0 %", "a report of this plan"), [most]);
  assert.deepEqual(warningsOf(plan, 4, "99.0 %", "99.0 % cannot be saved"), []);
});

test("a noise level leaves as many steps unshared as the last run's sigmas say, where they are of as many steps", async () => {
  fakePage();
  const asked = [];
  const fetchApi = async (_, { body }) => {
    asked.push(JSON.parse(body).private_steps);
    return { ok: false, json: async () => ({ error: "enough" }) };
  };
  const values = { steps: 4, shape: "trunk", private_steps: 1, power: 2, mode: "saving", value: 0.5, share_above: 0.5 };
  const widgets = Object.entries(values).map(([name, value]) => ({ name, value }));
  const widget = (name) => widgets.find((found) => found.name === name);
  const data = { heights: [0.5], errors: [0.1], metric: "chord", levels: [1, 0.75, 0.5, 0.25] };
  new SchedulePanel({ widgets }, {}, { fetchApi }, { get: () => data, set: () => {} });
  for (const [name, value] of [["share_above", 0], ["share_above", 0.2], ["private_steps", 3], ["share_above", 0.8], ["steps", 5]]) {
    widget(name).value = value;
    widget(name).callback(value);
  }
  assert.deepEqual(asked, [2, 1, 1, 3, 3, 3]); // another number of steps: not known, so only what is asked for
});
