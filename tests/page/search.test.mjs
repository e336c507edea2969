// A page that searches names alone finds our nodes by their other words too.

import assert from "node:assert/strict";
import { test } from "node:test";
import { extend, keysOf } from "../../web/search.js";

const NODES = [
  { name: "HierDiffWardLinkage", display_name: "Ward Linkage" },
  { name: "Cluster", display_name: "Clustering of colours" },
  { name: "Fuzzy", display_name: "Claustering" },
  { name: "HierDiffKSampler", display_name: "Hierarchical KSampler" },
];
const WORDS = { HierDiffWardLinkage: ["clustering", "tree"], HierDiffKSampler: ["batch"] };

function service() {
  class Search {
    searchNode(query, filters, options) {
      this.asked ??= [];
      this.asked.push([query, filters, options]);
      const found = query ? NODES.filter(({ name }) => ["Cluster", "Fuzzy"].includes(name)) : NODES;
      return found.slice(0, options?.limit ?? Infinity);
    }
  }
  extend(Search.prototype, WORDS);
  return new Search();
}

const names = (nodes) => nodes.map(({ name }) => name);

test("what is named as asked comes first, then what has the word, then what the page found besides", () => {
  assert.deepEqual(names(service().searchNode("clustering", [])), ["Cluster", "HierDiffWardLinkage", "Fuzzy"]);
  assert.deepEqual(names(service().searchNode(" CLUSTERING ", [])), ["Cluster", "HierDiffWardLinkage", "Fuzzy"]);
  assert.deepEqual(names(service().searchNode("clust", [], { limit: 2 })), ["Cluster", "HierDiffWardLinkage"]);
});

test("the page's filters count for ours too", () => {
  const asked = service();
  asked.searchNode("tree", ["a filter"], { limit: 5 });
  assert.deepEqual(asked.asked, [["tree", ["a filter"], { limit: 5 }], ["", ["a filter"], undefined]]);
});

test("short and empty questions are the page's alone", () => {
  assert.deepEqual(names(service().searchNode("ba", [])), ["Cluster", "Fuzzy"]);
  assert.equal(service().searchNode("", []).length, NODES.length);
  assert.equal(service().searchNode(undefined, []).length, NODES.length);
});

test("a search is extended once", () => {
  const once = service();
  const { searchNode } = Object.getPrototypeOf(once);
  extend(Object.getPrototypeOf(once), WORDS);
  assert.equal(Object.getPrototypeOf(once).searchNode, searchNode);
});

test("a page that is built in another way is left alone", () => {
  assert.deepEqual(keysOf({ nodeFuseSearch: { keys: ["name", { name: "display_name" }] } }), ["name", "display_name"]);
  assert.deepEqual(keysOf({}), ["search_aliases"]);
});
