// What of a template is seen when it is opened.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { around, freeRoom, viewOf } from "../../web/fit.js";

test("a box around others holds all of them", () => {
  assert.deepEqual(around([[0, 0, 10, 10], [-5, 20, 4, 4]]), [-5, 0, 15, 24]);
  assert.equal(around([]), null);
});

test("a view shows its box in the middle of the room, and never larger than life", () => {
  for (const box of [[0, 0, 4000, 500], [-300, -60, 200, 100], [10, 10, 100, 9000]]) {
    const room = [60, 90, 1000, 500];
    const { scale, offset } = viewOf(box, room);
    const [left, top] = [(box[0] + offset[0]) * scale, (box[1] + offset[1]) * scale];
    const [right, bottom] = [left + box[2] * scale, top + box[3] * scale];
    assert.ok(scale <= 1);
    assert.ok(left >= room[0] - 1e-6 && right <= room[0] + room[2] + 1e-6);
    assert.ok(top >= room[1] - 1e-6 && bottom <= room[1] + room[3] + 1e-6);
    assert.ok(Math.abs(left - room[0] - (room[0] + room[2] - right)) < 1e-6);
  }
});

test("bars at the sides take no more room than they cover", () => {
  const bars = [[0, 0, 58, 720], [900, 44, 380, 44], [1020, 670, 260, 40]]; // a sidebar, the run button, the zoom
  const isFree = (x, y) => !bars.some(([left, top, w, h]) => x >= left && x < left + w && y >= top && y < top + h);
  const [left, top, width, height] = freeRoom([1280, 720], isFree);
  const covered = (box) => box[0] < left + width && box[0] + box[2] > left && box[1] < top + height && box[1] + box[3] > top;
  assert.deepEqual(bars.filter(covered), []);
  assert.ok(width > 1100 && height > 500);
  assert.deepEqual(freeRoom([1280, 720], () => true), [12, 12, 1256, 696]);
});

test("templates open at a zoom at which nodes that are elements show their texts, in a window of 1600 x 1000", () => {
  const [room, larger, texts] = [[64, 88, 1510, 838], 1.2, 8 / 14]; // of ComfyUI 0.3.75, which also enlarges such nodes
  const folder = new URL("../../workflows/", import.meta.url);
  const files = readdirSync(folder).filter((name) => name.endsWith(".json"));
  assert.ok(files.length > 4);
  for (const name of files) {
    const { nodes, groups } = JSON.parse(readFileSync(new URL(name, folder)));
    const boxes = [...nodes.map(({ pos, size }) => [...pos, ...size]), ...groups.map(({ bounding }) => bounding)];
    const { scale } = viewOf(around(boxes.map((box) => box.map((value) => larger * value))), room);
    assert.ok(scale > texts, `${name}: ${scale}`);
  }
});
