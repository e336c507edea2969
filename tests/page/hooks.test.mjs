// What other extensions hang on a node goes on working beside ours.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { after, before } from "../../web/hooks.js";
import { SchedulePanel } from "../../web/schedule_widget.js";
import { separateTabs } from "../../web/tabs.js";
import { fakePage } from "./fake_page.mjs";

const WEB = new URL("../../web/", import.meta.url);
// what the page calls on a node or a widget, and what it asks of them
const HOOK = /\.(on[A-Z]\w*|getExtraMenuOptions|callback)\s*=[^=>]|["'](on[A-Z]\w*|getExtraMenuOptions)["']\s*,\s*\{/;

test("what was there is called with all it was given, and its answer counts", () => {
  for (const [chain, order] of [[before, ["ours", "theirs"]], [after, ["theirs", "ours"]]]) {
    const calls = [];
    class Node {
      onConfigure(...args) {
        calls.push(["theirs", this, args]);
        return "answer";
      }
    }
    const node = new Node();
    chain(node, "onConfigure", function (...args) {
      calls.push(["ours", this, args]);
      return "not this";
    });
    assert.equal(node.onConfigure(1, 2), "answer");
    assert.deepEqual(calls, order.map((whose) => [whose, node, [1, 2]]));
    assert.equal(Object.hasOwn(Node.prototype, "onConfigure") && new Node().onConfigure(), "answer");
  }
});

test("where nothing was there ours is called alone", () => {
  for (const chain of [before, after]) {
    const node = {};
    let called = 0;
    chain(node, "onRemoved", () => called++);
    assert.equal(node.onRemoved(), undefined);
    assert.equal(called, 1);
  }
});

test("the plot's panel leaves a node's hooks and its widgets' callbacks to those who had them", () => {
  fakePage();
  const calls = [];
  const noting = (name) => (...args) => {
    calls.push([name, ...args]);
    return `${name} answers`;
  };
  const widget = { name: "steps", value: 12, callback: noting("callback") };
  const node = { widgets: [widget], onConfigure: noting("onConfigure"), onExecuted: noting("onExecuted") };
  new SchedulePanel(node, {}, {}, { get: () => null, set: () => {} });
  assert.equal(node.onConfigure({ id: 1 }, "more"), "onConfigure answers");
  assert.equal(node.onExecuted({ text: [] }, "more"), "onExecuted answers");
  assert.equal(widget.callback(12, "canvas", node), "callback answers");
  assert.deepEqual(calls, [["onConfigure", { id: 1 }, "more"], ["onExecuted", { text: [] }, "more"], ["callback", 12, "canvas", node]]);
});

test("hooks are set by hooks.js alone", () => {
  const found = [];
  for (const name of readdirSync(WEB).filter((name) => name.endsWith(".js"))) {
    const lines = readFileSync(new URL(name, WEB), "utf8").split("\n");
    lines.forEach((line, i) => HOOK.test(line) && found.push(`${name}:${i + 1}: ${line.trim()}`));
  }
  assert.deepEqual(found, []);
  for (const line of ["node.onDrawBackground = function () {", 'Object.defineProperty(node, "onResize", { value })', "w.callback = f;"]) {
    assert.match(line, HOOK);
  }
  assert.doesNotMatch("if (node.onResize === null) return;", HOOK);
});

test("a workflow is opened by the page itself, under an id of its own where another tab has the same", async () => {
  const opened = [];
  const app = {
    extensionManager: { workflow: { openWorkflows: [{ path: "a", activeState: { id: "1" } }] } },
    loadGraphData(...args) {
      opened.push([this, ...args]);
      return "loaded";
    },
  };
  const heard = [];
  separateTabs(app, (workflow) => heard.push(workflow));
  const other = { id: "1", nodes: [] };
  assert.equal(app.loadGraphData({ id: "2" }, true, true, "b", { more: 1 }), "loaded");
  app.loadGraphData(other, true, true, { path: "b" });
  app.loadGraphData(other, true, true, { path: "a" }); // the tab itself
  app.loadGraphData(other);
  assert.deepEqual(opened[0], [app, { id: "2" }, true, true, "b", { more: 1 }]);
  assert.match(opened[1][1].id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(opened[2][1].id, "1");
  assert.notEqual(opened[3][1].id, "1");
  assert.equal(other.id, "1");
  assert.deepEqual(heard, ["b", { path: "b" }, { path: "a" }, null]);
});
