import assert from "node:assert/strict";
import test from "node:test";
import { keepOldSheet } from "../../web/old_sheets.js";

function sheet() {
  const widgets = [
    { name: "columns", value: 0 },
    { name: "hierdiff_result", serialize: false },
    { name: "axes", value: "automatic" },
  ];
  const node = { comfyClass: "HierDiffContactSheet", widgets };
  keepOldSheet(node);
  return node;
}

for (const [name, values, expected] of [
  ["a sheet of an old workflow", [3], "off"],
  ["one whose values have names", { columns: 3 }, "off"],
  ["a sheet that knows axes", [0, "automatic"], "automatic"],
  ["one that knows them by name", { columns: 3, axes: "automatic" }, "automatic"],
  ["a sheet without values", undefined, "automatic"],
]) {
  test(`${name} has axes ${expected}`, () => {
    const node = sheet();
    node.onConfigure({ widgets_values: values });
    assert.equal(node.widgets[2].value, expected);
  });
}

test("other nodes and other hooks are left alone", () => {
  const other = { comfyClass: "HierDiffSaveSet" };
  keepOldSheet(other);
  assert.deepEqual(Object.keys(other), ["comfyClass"]);
  let heard = 0;
  const node = { comfyClass: "HierDiffContactSheet", widgets: [], onConfigure: () => heard++ };
  keepOldSheet(node);
  node.onConfigure({ widgets_values: [1] });
  assert.equal(heard, 1);
});
