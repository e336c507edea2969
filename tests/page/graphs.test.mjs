// Nodes by the server's ids, in subgraphs too.

import assert from "node:assert/strict";
import { test } from "node:test";
import { allNodes, idsOf, latest, locatorOf, nodeOf } from "../../web/graphs.js";

function graph(id, ...nodes) {
  const made = { id, nodes, getNodeById: (wanted) => nodes.find((node) => node.id === wanted) };
  for (const node of nodes) node.graph = made;
  return made;
}

const inner = { id: 7 };
const shared = graph("sub", inner);
const outer = { id: 5 };
const root = graph("root", outer, { id: 3, subgraph: shared }, { id: 4, subgraph: shared });

test("a node is found by the server's id, in a subgraph by the ids that lead to it", () => {
  assert.equal(nodeOf(root, "5"), outer);
  assert.equal(nodeOf(root, 5), outer);
  assert.equal(nodeOf(root, "3:7"), inner);
  assert.equal(nodeOf(root, "3:8"), null);
  assert.equal(nodeOf(root, "5:7"), null);
  assert.equal(nodeOf(undefined, "5"), null);
});

test("a node of a subgraph that is used twice has two ids", () => {
  assert.deepEqual(idsOf(root, inner), ["3:7", "4:7"]);
  assert.deepEqual(idsOf(root, outer), ["5"]);
  assert.deepEqual(idsOf(undefined, outer), []);
});

test("of what is known of a node the latest counts", () => {
  const known = new Map([["root/3:7", { order: 2 }], ["root/4:7", { order: 5 }]]);
  const asked = { get: (workflow, id) => known.get(`${workflow}/${id}`) ?? null };
  assert.equal(latest(root, asked, inner).order, 5);
  assert.equal(latest(root, asked, outer), null);
});

test("the page names a node by its graph, but those of the root", () => {
  assert.deepEqual([locatorOf(root, outer), locatorOf(root, inner)], ["5", "sub:7"]);
});

test("all nodes are listed, those inside after their node", () => {
  assert.deepEqual(allNodes(root).map(({ id }) => id), [5, 3, 7, 4, 7]);
  assert.deepEqual(allNodes(null), []);
});
