// The marks below the slider: what they show, and what a click on one does.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fakePage } from "./fake_page.mjs";

fakePage();
const { MarksPanel, nearness } = await import("../../web/marks.js");

function nodeWith(value) {
  const slider = { name: "saving", value, callback: () => {} };
  return { widgets: [slider], inputs: [{ widget: { name: "saving" }, link: null }], slider };
}

test("a position between two marks is near both", () => {
  assert.deepEqual(nearness(1), [0, 1, 0, 0]);
  assert.deepEqual(nearness(1.5), [0, 0.5, 0.5, 0]);
  assert.deepEqual(nearness("3"), [0, 0, 0, 1]);
  assert.deepEqual(nearness(undefined).some(Boolean), false);
});

test("a click moves the slider, and says so", () => {
  const node = nodeWith(1);
  const told = [];
  node.slider.callback = (value) => told.push(value);
  let changed = 0;
  const panel = new MarksPanel(node, { canvas: {} }, () => changed++);
  panel.buttons[3].listeners.click();
  assert.equal(node.slider.value, 3);
  assert.deepEqual(told, [3]);
  assert.equal(changed, 1);
});

test("marks of a slider that something is connected to cannot be chosen", () => {
  const node = nodeWith(1);
  const panel = new MarksPanel(node, { canvas: {} }, () => {});
  node.inputs[0].link = 7;
  node.onConnectionsChange();
  assert.ok(panel.buttons.every((button) => button.disabled));
  node.inputs[0].link = null;
  node.onConnectionsChange();
  assert.ok(!panel.buttons.some((button) => button.disabled));
});
