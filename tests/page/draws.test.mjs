import assert from "node:assert/strict";
import test from "node:test";
import { showDraws } from "../../web/draws.js";

globalThis.document ??= { querySelector: () => null };

function promptSet(heard = []) {
  const widgets = ["text", "draw", "count", "draw_seed"].map((name) => ({ name, value: "", hidden: undefined }));
  widgets[1].callback = (value) => heard.push(value);
  const node = {
    comfyClass: "HierDiffPromptSet",
    widgets,
    size: [300, 100],
    computeSize: () => [300, 160],
    setSize: (size) => (node.size = size),
  };
  showDraws(node);
  return node;
}

const hidden = (node) =>
  node.widgets.map((widget) => {
    assert.equal(Boolean(widget.options?.hidden), Boolean(widget.hidden)); // for nodes that are elements
    return Boolean(widget.hidden);
  });

test("count and seed are there for random draws alone", () => {
  const heard = [];
  const node = promptSet(heard);
  assert.deepEqual(hidden(node), [false, false, true, true]);
  assert.deepEqual(node.widgets[2].computeSize(), [0, -4]);
  node.widgets[1].value = "random";
  node.widgets[1].callback("random");
  assert.deepEqual(hidden(node), [false, false, false, false]);
  assert.equal(node.widgets[2].computeSize, undefined);
  assert.deepEqual(node.size, [300, 160]);
  assert.deepEqual(heard, ["random"]);
  node.widgets[1].value = "all combinations";
  node.widgets[1].callback("all combinations");
  assert.deepEqual(hidden(node), [false, false, true, true]);
});

test("a workflow's own choice counts", () => {
  const node = promptSet();
  node.widgets[1].value = "random";
  node.onConfigure({});
  assert.deepEqual(hidden(node), [false, false, false, false]);
});

test("other nodes are left alone", () => {
  const node = { comfyClass: "HierDiffSaveSet", widgets: [{ name: "count" }] };
  showDraws(node);
  assert.deepEqual(node.widgets, [{ name: "count" }]);
  assert.deepEqual(Object.keys(node), ["comfyClass", "widgets"]);
});
