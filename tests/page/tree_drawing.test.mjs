// Where the parts of a tree lie in a panel, and what is drawn of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ACCENT, FAMILIES } from "../../web/colors.js";
import { ticks } from "../../web/ticks.js";
import { Tree } from "../../web/tree.js";
import { draw } from "../../web/tree_drawing.js";
import { layout, placeAt, READABLE_ROW, xOf, yOf } from "../../web/tree_layout.js";
import { besides } from "../../web/tree_tip.js";
import { grown } from "../../web/tree_widget.js";
import { BEGIN, fan } from "./a_tree.mjs";

const COLORS = { ink: "ink", muted: "muted", ground: "ground" };

/** A 2D context that notes what is stroked, written and put into it, with the style of the moment. */
function recorder() {
  const noted = { strokes: [], texts: [], images: [] };
  let path = [];
  const context = {
    ...noted,
    beginPath: () => (path = []),
    moveTo: (x, y) => path.push([x, y]),
    lineTo: (x, y) => path.push([x, y]),
    quadraticCurveTo: (_x, _y, x, y) => path.push([x, y]),
    measureText: (text) => ({ width: 6 * text.length }),
    drawImage: (...args) => noted.images.push(args),
  };
  context.stroke = () => noted.strokes.push({ color: context.strokeStyle, alpha: context.globalAlpha, width: context.lineWidth, path });
  context.fillText = (text, x, y) => noted.texts.push({ text: String(text), x, y });
  for (const name of ["clearRect", "fillRect", "strokeRect", "save", "restore", "translate", "arc", "fill", "setLineDash"]) context[name] = () => {};
  return context;
}

function drawn(message, { shown = 10, selected = null, scroll = 0, width = 600, height = 300, row = null } = {}) {
  const tree = new Tree(message);
  const at = layout(tree, width, height, row);
  const context = recorder();
  draw(context, tree, at, { scroll, shown, selected, colors: COLORS });
  return { tree, at, ...context };
}

const lines = ({ strokes }) => strokes.filter(({ color }) => color !== "muted");

test("the whole tree fits, or its rows are readable and the panel scrolls", () => {
  const tree = new Tree(fan(100));
  const whole = layout(tree, 600, 300);
  assert.ok(whole.content <= 301);
  const rows = layout(tree, 600, 300, READABLE_ROW);
  assert.ok(rows.row >= 26);
  assert.ok(rows.content > 2600);
  assert.ok(rows.text > 0);
  const few = layout(new Tree(BEGIN), 600, 300);
  assert.ok(few.content >= 298 && few.content <= 301);
  assert.ok(layout(new Tree(BEGIN), 600, 300, 5).row === few.row); // never lower than what fits
});

test("texts and pictures get their room at the right where there is some", () => {
  const tree = new Tree(BEGIN);
  const wide = layout(tree, 600, 300);
  const narrow = layout(tree, 200, 300);
  assert.ok(wide.text > 0 && wide.right + wide.text < 600);
  assert.equal(narrow.text, 0);
  tree.pictures.set(0, {});
  assert.ok(layout(tree, 600, 300).right < wide.right);
  assert.ok(layout(tree, 20, 300).right > 40); // never turned inside out
});

test("a place in the panel is the step and the row that are drawn there", () => {
  const tree = new Tree(BEGIN);
  for (const row of [null, 200]) {
    const at = layout(tree, 600, 300, row);
    for (const branch of tree.branches) {
      const middle = (branch.start + branch.stop) / 2;
      const { row, step } = placeAt(tree, at, xOf(tree, at, middle), yOf(tree, at, branch));
      assert.ok(Math.abs(step - middle) < 1e-9);
      assert.equal(tree.at(row, step), branch.index);
    }
  }
  const at = layout(tree, 600, 300);
  assert.equal(placeAt(tree, at, -50, 50).step, 0);
  assert.ok(placeAt(tree, at, 9999, 50).step < 10);
});

test("clusters of the first split have a colour each, which their parts keep", () => {
  const all = lines(drawn(BEGIN));
  assert.deepEqual(all.map(({ color }) => color), ["ink", FAMILIES[0], FAMILIES[1], FAMILIES[1], FAMILIES[1]]);
  const apart = lines(drawn({ ...BEGIN, branches: [[0, 10, -1, [0]], [0, 10, -1, [1]]] }));
  assert.deepEqual(apart.map(({ color }) => color), FAMILIES.slice(0, 2));
});

test("a branch is the thicker the more pictures share it", () => {
  const [root, leaf] = lines(drawn(BEGIN));
  assert.ok(root.width > leaf.width);
});

test("what is selected stands out with its ancestors and its parts, and the others fade", () => {
  const all = lines(drawn(BEGIN, { selected: 2 }));
  assert.equal(all[2].color, ACCENT);
  assert.deepEqual(all.slice(0, 5).map(({ alpha }) => alpha), [1, 0.3, 1, 1, 1]);
  assert.deepEqual(all.slice(5).map(({ color }) => color), [ACCENT, ACCENT]); // the ring that folds it, and its minus
});

test("steps to come are faint, and branches that have not begun have no line", () => {
  const running = drawn(BEGIN, { shown: 5 });
  const { at, tree } = running;
  const future = running.strokes.filter(({ color }) => color === "muted");
  assert.equal(lines(running).filter(({ color }) => color !== ACCENT).length, 3); // 3 and 4 begin at step 7
  assert.equal(future.length, 4);
  const ends = lines(running)[1].path.at(-1);
  assert.equal(ends[0], xOf(tree, at, 5));
  assert.equal(drawn(BEGIN, { shown: 10 }).strokes.length, 5);
});

test("only what is in sight is drawn", () => {
  const { strokes, texts } = drawn(fan(500), { scroll: 5000, row: READABLE_ROW });
  assert.ok(strokes.length < 20);
  const seen = texts.filter(({ text }) => text.startsWith("prompt")).map(({ text }) => Number(text.slice(7)));
  assert.ok(seen.length >= 8 && seen.length < 20);
  assert.deepEqual(seen, seen.map((_, i) => seen[0] + i));
});

test("a prompt is written once, shortened to its room", () => {
  const long = { ...BEGIN, prompts: ["x".repeat(500), "dog", "owl", "dog"] };
  const { texts, at } = drawn(long);
  const words = texts.map(({ text }) => text).filter((text) => !/^\d+$/.test(text));
  assert.deepEqual(words.filter((text) => text === "dog"), ["dog"]);
  const [cut] = words.filter((text) => text.endsWith("…"));
  assert.ok(6 * cut.length <= at.text);
  assert.ok(6 * (cut.length + 1) > at.text); // the longest that fits
});

test("a picture leads its branch, and stands before the split once that has ended", () => {
  const tree = new Tree(BEGIN);
  tree.pictures.set(0, { image: "sheet", x: 1, y: 2, width: 10, height: 10 });
  const at = layout(tree, 600, 300);
  const left = (shown) => {
    const context = recorder();
    draw(context, tree, at, { scroll: 0, shown, selected: null, colors: COLORS });
    const [[image, x, y, width, height, left]] = context.images;
    assert.deepEqual([image, x, y, width, height], ["sheet", 1, 2, 10, 10]);
    return left;
  };
  assert.ok(left(2) > xOf(tree, at, 2));
  assert.ok(left(6) < xOf(tree, at, 4));
});

test("an axis has round numbers that do not touch", () => {
  assert.deepEqual(ticks(6, 600), [0, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual(ticks(40, 300), [0, 5, 10, 15, 20, 25, 30, 35, 40]);
  assert.deepEqual(ticks(7, 100), [0, 2, 4, 6]);
  assert.deepEqual(ticks(7, 80), [0, 5]);
  for (const steps of [1, 13, 250, 1000]) {
    for (const width of [40, 200, 900]) {
      const marked = ticks(steps, width);
      assert.ok(marked.length === 1 || (marked[1] * width) / steps >= 28);
      assert.ok(marked.at(-1) <= steps);
    }
  }
});

test("a branch grows towards its step, never back and never beyond", () => {
  let shown = 0;
  for (let frame = 0; frame < 120 && shown < 5; frame++) {
    const next = grown(shown, 5, 16);
    assert.ok(next > shown && next <= 5);
    shown = next;
  }
  assert.equal(shown, 5);
  assert.equal(grown(5, 2, 16), 2); // another run
  assert.ok(grown(0, 5, 350) > 4.5);
  assert.ok(grown(0, 5, 0) > 0); // a frame counts as 8 ms at least
});

test("a tip stands beside the pointer and inside the window", () => {
  const [box, window] = [{ width: 300, height: 100 }, { width: 1000, height: 600 }];
  assert.deepEqual(besides({ x: 100, y: 100 }, box, window), { x: 116, y: 112 });
  assert.deepEqual(besides({ x: 900, y: 590 }, box, window), { x: 584, y: 492 });
  assert.deepEqual(besides({ x: 100, y: 5 }, { width: 990, height: 700 }, window), { x: 8, y: 8 });
});
