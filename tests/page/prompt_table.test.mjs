// Tables of prompts as text, without a page: the node's own form, what is pasted, what is saved.

import assert from "node:assert/strict";
import { test } from "node:test";
import { keyWork } from "../../web/prompt_table.js";
import { blankRow, cellsOf, fileText, isOn, pastedRows, rowsOf, rowsOfText, tableText, withPasted } from "../../web/prompt_table_text.js";

const rows = [
  blankRow({ prompt: 'a "red" {apple|pear}', seed: "18446744073709551615", pictures: "2" }),
  blankRow({ on: "no", prompt: "# a\tdog", negative: "blurry, dark", caption: "猫" }),
];

test("the node's text gives the rows again, whatever is in the cells", () => {
  assert.deepEqual(rowsOfText(tableText(rows)), rows);
  assert.equal(tableText([blankRow(), blankRow({ on: "no" })]), "");
  assert.deepEqual(rowsOfText("  \n"), []);
  assert.deepEqual(rowsOfText("on\tprompt\tnegative\tseed\tpictures\tcaption"), []);
  for (const other of ["a cat", '[{"prompt": "a"}]', "prompt\tseed\na\t7", "prompt,seed\na,7"]) assert.equal(rowsOfText(other), null);
});

test("lists of the server are rows; a line break in a cell is a space, as the server reads it", () => {
  assert.deepEqual(rowsOf([["", "a\r\nb", "", "7"]]), [blankRow({ prompt: "a b", seed: "7" })]);
  assert.deepEqual(["", "yes", "No", " off ", "0"].map((on) => isOn({ on })), [true, true, false, false, false]);
});

test("cells in quotes keep tabs, line breaks and quotes", () => {
  assert.deepEqual(cellsOf('a\t"b\t""c""\nd"\r\n\r\ne\t', "\t"), [["a", 'b\t"c"\nd'], [""], ["e", ""]]);
  assert.deepEqual(cellsOf("a\n", "\t"), [["a"]]);
  assert.deepEqual(cellsOf('say "hi"\tb', "\t"), [['say "hi"', "b"]]);
});

test("an ordinary text is pasted by the cell itself, cells go to the right and below", () => {
  assert.equal(pastedRows("a cat, red", "prompt"), null);
  assert.equal(pastedRows("a cat\n", "prompt"), null);
  assert.deepEqual(pastedRows("a cat\nb, c\n", "prompt"), [{ prompt: "a cat" }, { prompt: "b, c" }]);
  assert.deepEqual(pastedRows("dark\t7\r\nblurry\t8\t2\tcat\tx\r\n", "negative"), [
    { negative: "dark", seed: "7" },
    { negative: "blurry", seed: "8", pictures: "2", caption: "cat" },
  ]);
});

test("a header says which columns they are, with tabs, commas or semicolons", () => {
  const expected = [{ seed: "7", prompt: "a, b" }, { seed: "", prompt: "c" }];
  assert.deepEqual(pastedRows("Seed\tid\tText\n7\t1\ta, b\n\t2\tc", "caption"), expected);
  assert.deepEqual(pastedRows('seed,id,prompt\n7,1,"a, b"\n,2,c\n', "prompt"), expected);
  assert.deepEqual(pastedRows("seed;id;prompt\n7;1;a, b\n;2;c\n", "prompt"), expected);
  assert.deepEqual(pastedRows("images\tprompt\tnegative prompt\n2\ta\tb", "on"), [{ pictures: "2", prompt: "a", negative: "b" }]);
  assert.deepEqual(pastedRows("caption\tseed\na cat\t7", "prompt"), [{ prompt: "a cat", seed: "7" }]);
});

test("what is pasted changes its own cells alone, and makes the rows that are missing", () => {
  const made = withPasted(rows, 1, [{ seed: "3" }, { prompt: "b" }]);
  assert.deepEqual(made, [rows[0], { ...rows[1], seed: "3" }, blankRow({ prompt: "b" })]);
  assert.equal(rows[1].seed, "");
});

test("files: lines that are read again as they are, quotes in csv, seeds beyond numbers in jsonl", () => {
  const more = [...rows, blankRow(), blankRow({ prompt: "# no comment", seed: "x" })];
  assert.equal(fileText(more, "txt"), 'a "red" {apple|pear}\n\\# no comment\n');
  const csv = fileText(rows, "csv").split("\n");
  assert.equal(csv[0], "on,prompt,negative,seed,pictures,caption");
  assert.equal(csv[1], ',"a ""red"" {apple|pear}",,18446744073709551615,2,');
  assert.equal(csv[2], 'no,# a\tdog,"blurry, dark",,,猫');
  const [first, second, third] = fileText(more, "jsonl").trim().split("\n");
  assert.equal(first, '{"prompt": "a \\"red\\" {apple|pear}", "seed": 18446744073709551615, "pictures": 2}');
  assert.deepEqual(JSON.parse(second), { prompt: "# a\tdog", negative: "blurry, dark", caption: "猫", on: false });
  assert.equal(JSON.parse(third).seed, "x");
  assert.equal(fileText([blankRow()], "csv"), "on,prompt,negative,seed,pictures,caption\n");
  assert.equal(fileText([blankRow()], "txt"), "");
});

test("keys of the table, and those that stay the cell's own", () => {
  const work = (key, held = {}) => keyWork({ key, ...held });
  assert.deepEqual(["Enter", "ArrowUp", "ArrowDown", "Tab", "a", "Delete"].map((key) => work(key)), ["next", "previous", "below", null, null, null]);
  assert.equal(work("Enter", { shiftKey: true }), "previous");
  assert.equal(work("ArrowDown", { shiftKey: true }), null);
  const alt = (key, held) => work(key, { altKey: true, ...held });
  assert.deepEqual(["ArrowUp", "ArrowDown", "Enter", "Delete", "x"].map((key) => alt(key)), ["up", "down", "insert", "remove", null]);
  assert.equal(alt("ArrowDown", { shiftKey: true }), "duplicate");
  assert.equal(work("Enter", { ctrlKey: true }), null); // runs the workflow
  assert.equal(work("Enter", { isComposing: true }), null); // takes a Chinese word
});
