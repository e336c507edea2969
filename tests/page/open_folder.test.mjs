import assert from "node:assert/strict";
import test from "node:test";
import { isLocal, offerFolder, openFolder } from "../../web/open_folder.js";

test("a page is local by its address alone", () => {
  for (const name of ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"]) assert.ok(isLocal(name), name);
  for (const name of ["192.168.1.2", "localhost.example", "example.org", "", "127.0.0.1.example"]) {
    assert.ok(!isLocal(name), name);
  }
});

function server(status, answer) {
  const asked = [];
  const fetchApi = async (route, options) => {
    asked.push([route, options.method, JSON.parse(options.body)]);
    if (status === 0) throw new Error("away");
    return { ok: status === 200, json: async () => answer };
  };
  return { asked, fetchApi };
}

for (const [name, status, answer, said] of [
  ["an open folder says nothing", 200, { opened: true, path: "/o" }, ""],
  ["a server without a desktop says where it is", 200, { opened: false, path: "/o" }, "folder.at"],
  ["a refusal is told", 403, { error: "no" }, "folder.failed"],
  ["a server that is away is told", 0, null, "folder.failed"],
]) {
  test(name, async () => {
    const api = server(status, answer);
    assert.equal(await openFolder(api, "a/b"), said);
    assert.deepEqual(api.asked, [["/hierdiff/open", "POST", { folder: "a/b" }]]);
  });
}

test("there is no button without a folder, nor on another machine", () => {
  offerFolder({}, {}, undefined, "localhost");
  let removed = 0;
  const panel = { folder: { remove: () => removed++ } };
  offerFolder(panel, {}, "sets", "192.168.1.2");
  assert.equal(removed, 1);
});
