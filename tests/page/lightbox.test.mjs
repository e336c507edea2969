// Where the keys of a lightbox lead, and the files of its pictures.

import assert from "node:assert/strict";
import { test } from "node:test";
import { entered, moved, opened, shownOf, stripOf } from "../../web/lightbox_places.js";
import { copyPicture, fileName, safeName, savePicture } from "../../web/picture_files.js";

const leaves = ["a", "b", "c"].map((text) => ({ text }));
const branch = { text: "branch", leaves };
const follow = (places, ...keys) => keys.reduce(moved, places);
const shown = (places) => shownOf(places).text;

test("arrows lead through the pictures, and stay at the ends", () => {
  const places = opened(leaves, 1);
  assert.equal(shown(places), "b");
  assert.equal(shown(follow(places, "ArrowRight")), "c");
  assert.equal(shown(follow(places, "ArrowRight", "ArrowRight")), "c");
  assert.equal(shown(follow(places, "ArrowLeft", "ArrowLeft")), "a");
  assert.deepEqual([shown(follow(places, "End")), shown(follow(places, "Home"))], ["c", "a"]);
  assert.equal(shown(opened(leaves, 99)), "c");
  assert.equal(follow(places, "Escape"), null);
  assert.equal(follow(places, "x"), undefined);
  assert.deepEqual(follow(places, "Enter"), places); // nothing below a leaf
});

test("a branch shows its leaves as a strip, and keys lead into them and back", () => {
  const places = opened([branch], 0);
  assert.deepEqual(stripOf(places), { items: leaves, index: -1 });
  for (const key of ["Enter", "ArrowDown", "ArrowRight"]) assert.equal(shown(follow(places, key)), "a");
  assert.equal(shown(follow(places, "ArrowLeft")), "c");
  const inside = follow(places, "Enter", "ArrowRight");
  assert.deepEqual(stripOf(inside), { items: leaves, index: 1 });
  assert.equal(shown(follow(inside, "Escape")), "branch");
  assert.equal(shown(follow(inside, "ArrowUp")), "branch");
  assert.equal(follow(inside, "Escape", "Escape"), null);
  assert.deepEqual(follow(places, "ArrowUp"), places);
});

test("a picture of the strip is shown, whether it is a leaf of what is shown or beside it", () => {
  const places = entered(opened([branch], 0), 2);
  assert.equal(shown(places), "c");
  assert.equal(shown(entered(places, 0)), "a");
  assert.equal(shown(follow(entered(places, 0), "Escape")), "branch");
  assert.equal(shown(entered(opened(leaves, 0), 1)), "b");
});

test("a file has its picture's name, or one of its text that every system takes", () => {
  assert.equal(fileName({ name: "own.png", text: "x" }), "own.png");
  assert.equal(fileName({ text: 'a <b>: "c"/d\\e|f?*\n g.' }), "a b c d e f g.png");
  assert.equal(fileName({ text: "///" }), "picture.png");
  assert.equal([...safeName("😀".repeat(200))].length, 80);
  assert.equal(safeName(undefined), "");
});

test("saving is a click on a link, under the picture's own name, and fails where the file is gone", async () => {
  const link = { clicked: 0, click: () => link.clicked++ };
  globalThis.document = { createElement: () => link };
  globalThis.fetch = async (url) => ({ ok: url === "here", status: 404, blob: async () => new Blob([url]) });
  await savePicture({ url: "here", name: "x.png", text: "" });
  assert.match(link.href, /^blob:/);
  assert.deepEqual([link.download, link.clicked], ["x.png", 1]);
  await assert.rejects(savePicture({ url: "gone", name: "x.png", text: "" }));
  assert.equal(link.clicked, 1);
});

test("copying puts a PNG on the clipboard, or fails", async () => {
  const written = [];
  const blob = { type: "image/png" };
  globalThis.fetch = async () => ({ ok: true, blob: async () => blob });
  globalThis.ClipboardItem = class {
    constructor(types) {
      this.types = types;
    }
  };
  const clipboard = { write: async ([item]) => written.push(await item.types["image/png"]) };
  Object.defineProperty(globalThis, "navigator", { value: { clipboard }, configurable: true });
  await copyPicture("url");
  assert.deepEqual(written, [blob]);
  globalThis.fetch = () => assert.fail("a data url was fetched");
  await copyPicture(`data:image/png;base64,${btoa("abc")}`);
  assert.deepEqual([written[1].type, await written[1].text()], ["image/png", "abc"]);
  Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
  await assert.rejects(copyPicture("url"));
});
