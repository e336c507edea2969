// The panel that shows the text of a Prompt Table as a table. Cells are inputs and are never read as HTML; of long
// tables only the rows in sight are there.

import { element, makePanel, oncePerFrame, passToGraph } from "./panel.js";
import { COLUMNS, blankRow, fileText, isBlank, isOn, pastedRows, rowsOf, rowsOfText, tableText, withPasted } from "./prompt_table_text.js";
import { text } from "./texts.js";

export const MIN_HEIGHT = 220;
const ROW = 26; // pixels, as in prompt_table.css
const BEYOND = 8; // rows above and below those in sight
const WAIT = 250; // milliseconds after the last key before the server is asked
const FILES = ".txt,.csv,.tsv,.jsonl,.ndjson,.json";
const TEXT_CELLS = COLUMNS.slice(1);

export function addTableStyle() {
  const link = element("link", "", document.head);
  link.rel = "stylesheet";
  link.href = new URL("./prompt_table.css", import.meta.url).href;
}

/** Shows and changes `memory` {get(), set(text)}; `ask(route, body)` posts to the server and gives {ok, answer}. */
export class PromptTablePanel {
  constructor(app, memory, ask) {
    Object.assign(this, { memory, ask, rows: [], current: 0, problems: [], asked: 0, asText: false });
    Object.assign(this, makePanel(text("table.label")));
    this.root.classList.add("hierdiff-table");
    this.root.removeAttribute("tabindex"); // its cells take the keys
    this.makeBar();
    this.problem = element("div", "hierdiff-table-problem");
    this.problem.setAttribute("role", "alert");
    this.view.before(this.problem);
    this.view.replaceChildren();
    this.makeHead();
    this.body = element("div", "hierdiff-table-rows", this.view);
    this.area = element("textarea", "hierdiff-table-text", this.view);
    this.area.spellcheck = false;
    this.area.setAttribute("aria-label", text("table.as_text"));
    this.area.addEventListener("input", () => this.write(this.area.value));
    this.shown = new Map(); // number of a row -> its element
    this.render = oncePerFrame(() => this.renderNow());
    this.view.addEventListener("scroll", this.render, { passive: true });
    this.sizes = new ResizeObserver(this.render);
    this.sizes.observe(this.view);
    this.root.addEventListener("dragover", (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
    this.root.addEventListener("drop", (event) => this.dropped(event));
    passToGraph(this.root, app, () => this.view.scrollHeight > this.view.clientHeight + 1);
    this.read();
  }

  remove() {
    clearTimeout(this.timer);
    this.sizes.disconnect();
  }

  makeBar() {
    const button = (name, sign, work) => {
      const made = element("button", "", this.bar);
      made.type = "button";
      made.textContent = sign ?? text(`table.${name}`);
      made.title = text(`table.${name}_tip`);
      made.dataset.action = name;
      made.setAttribute("aria-label", made.title);
      made.addEventListener("click", work);
      return made;
    };
    this.ofRows = [
      button("add", "+", () => this.insert(this.current + 1)),
      button("duplicate", "×2", () => this.insert(this.current + 1, this.rows[this.current])),
      button("up", "↑", () => this.move(-1)),
      button("down", "↓", () => this.move(1)),
      button("remove", "✕", () => this.delete()),
    ];
    button("import", null, () => this.chooseFile());
    const kinds = element("select", "", this.bar);
    kinds.title = text("table.export_tip");
    kinds.dataset.action = "export";
    kinds.setAttribute("aria-label", kinds.title);
    for (const kind of ["", "txt", "csv", "jsonl"]) {
      const option = element("option", "", kinds);
      option.value = kind;
      option.textContent = kind ? `.${kind}` : text("table.export");
    }
    kinds.addEventListener("change", () => {
      if (kinds.value) this.save(kinds.value);
      kinds.value = "";
    });
    this.toText = button("as_text", null, () => this.toggle());
  }

  makeHead() {
    this.head = element("div", "hierdiff-table-head", this.view);
    for (const name of ["number", ...COLUMNS]) {
      const made = element("div", "", this.head);
      made.textContent = name === "number" || name === "on" ? "" : text(`table.${name}`);
      if (name !== "number") made.title = text(`table.${name}_column`);
    }
  }

  // --- the text of the node ---

  /** Take over what the node keeps, unless this panel wrote it. */
  async read() {
    const kept = this.memory.get() ?? "";
    if (kept === this.written) return;
    this.written = kept;
    const rows = rowsOfText(kept);
    if (rows) return this.take(rows);
    const { ok, answer } = await this.ask("table?rows=1", JSON.stringify(kept));
    if (this.written !== kept) return; // another text has come meanwhile
    if (ok) return this.take(rowsOf(answer.rows));
    this.asText = true; // no table: it can be mended as text
    this.take([]);
  }

  take(rows) {
    this.rows = rows.length ? rows : [blankRow()];
    this.current = Math.min(this.current, this.rows.length - 1);
    this.redraw();
    this.check();
  }

  /** Keep the rows as the node's text. */
  keep() {
    this.write(tableText(this.rows));
  }

  write(kept) {
    this.written = kept;
    this.memory.set(kept);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), WAIT);
  }

  /** Ask the server what it thinks of the text: the same checks as when the node runs. */
  async check() {
    const number = ++this.asked;
    if (!this.written.trim()) return this.tell({ prompts: 0, pictures: 0, problems: [] });
    const { ok, answer } = await this.ask("table", JSON.stringify(this.written));
    if (number !== this.asked) return;
    this.tell(ok ? answer : { problems: [{ row: -1, column: "", text: answer?.error ?? text("table.away") }] });
  }

  tell({ prompts, pictures, problems }) {
    this.problems = problems;
    const known = pictures === undefined ? "" : prompts === pictures ? text("table.count", { prompts }) : text("table.counts", { prompts, pictures });
    this.status.textContent = known;
    const more = problems.length > 1 ? ` ${text("table.more", { count: problems.length - 1 })}` : "";
    this.problem.textContent = problems.length ? problems[0].text + more : "";
    this.problem.hidden = !problems.length;
    this.root.dataset.problems = problems.length;
    this.root.dataset.pictures = pictures ?? "";
    for (const [index, row] of this.shown) this.mark(index, row);
    this.render();
  }

  toggle() {
    this.asText = !this.asText;
    if (this.asText) return this.redraw();
    this.written = undefined;
    this.read();
  }

  // --- rows ---

  insert(at, like) {
    this.rows.splice(at, 0, like ? { ...like } : blankRow());
    this.changed(at);
  }

  move(by) {
    const to = this.current + by;
    if (!this.rows[to]) return;
    [this.rows[this.current], this.rows[to]] = [this.rows[to], this.rows[this.current]];
    this.changed(to);
  }

  delete() {
    this.rows.splice(this.current, 1);
    if (!this.rows.length) this.rows.push(blankRow());
    this.changed(Math.min(this.current, this.rows.length - 1));
  }

  /** Rows were added, moved or removed: draw them anew with the cursor in a row. */
  changed(current) {
    const column = document.activeElement?.closest?.(".hierdiff-table") === this.root ? document.activeElement.dataset.column : null;
    this.keep();
    this.redraw();
    this.focus(current, column ?? "prompt");
  }

  focus(index, column) {
    this.current = index;
    const top = index * ROW;
    const room = this.view.clientHeight - this.head.offsetHeight;
    if (top < this.view.scrollTop) this.view.scrollTop = top;
    else if (top + ROW > this.view.scrollTop + room) this.view.scrollTop = top + ROW - room;
    this.renderNow();
    this.shown.get(index)?.querySelector(`[data-column="${column}"]`)?.focus({ preventScroll: true });
  }

  // --- drawing ---

  redraw() {
    for (const row of this.shown.values()) row.remove();
    this.shown.clear();
    this.head.hidden = this.body.hidden = this.asText;
    this.head.style.display = this.asText ? "none" : "";
    this.area.hidden = !this.asText;
    if (this.asText) this.area.value = this.memory.get() ?? "";
    for (const button of this.ofRows) button.disabled = this.asText;
    this.toText.textContent = text(this.asText ? "table.as_table" : "table.as_text");
    this.root.dataset.rows = this.asText ? "text" : "table";
    this.renderNow();
  }

  renderNow() {
    this.body.style.height = `${this.rows.length * ROW}px`;
    if (this.asText) return;
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - BEYOND);
    const last = Math.min(this.rows.length, Math.ceil((this.view.scrollTop + (this.view.clientHeight || MIN_HEIGHT)) / ROW) + BEYOND);
    for (const [index, row] of this.shown) {
      const seen = index >= first && index < last;
      if (!seen && !row.contains(document.activeElement)) row.remove(), this.shown.delete(index);
    }
    for (let index = first; index < last; index++) if (!this.shown.has(index)) this.drawRow(index);
    for (const [index, row] of this.shown) row.dataset.current = index === this.current;
  }

  drawRow(index) {
    const row = element("div", "hierdiff-table-row", this.body);
    row.style.top = `${index * ROW}px`;
    const number = element("div", "hierdiff-table-number", row);
    number.textContent = index + 1;
    for (const column of COLUMNS) this.drawCell(row, index, column);
    this.shown.set(index, row);
    this.mark(index, row);
  }

  drawCell(row, index, column) {
    const cell = element("input", "", row);
    cell.dataset.column = column;
    cell.setAttribute("aria-label", text("table.cell", { column: text(`table.${column}`), row: index + 1 }));
    cell.addEventListener("focus", () => {
      this.current = index;
      this.render();
    });
    cell.addEventListener("keydown", (event) => this.key(event, index, column));
    if (column === "on") {
      cell.type = "checkbox";
      cell.checked = isOn(this.rows[index]);
      cell.addEventListener("change", () => this.edit(index, column, cell.checked ? "" : "no"));
      return;
    }
    cell.type = "text";
    cell.spellcheck = false;
    cell.autocomplete = "off";
    if (column === "seed" || column === "pictures") cell.inputMode = "numeric";
    cell.value = this.rows[index][column];
    cell.addEventListener("input", () => this.edit(index, column, cell.value));
    cell.addEventListener("paste", (event) => this.paste(event, index, column));
  }

  edit(index, column, value) {
    this.rows[index] = { ...this.rows[index], [column]: value };
    this.mark(index, this.shown.get(index));
    this.keep();
  }

  /** Show in a row's cells what the server has found in them. */
  mark(index, row) {
    row.dataset.on = isOn(this.rows[index] ?? blankRow());
    for (const cell of row.querySelectorAll("input")) {
      const found = this.problems.find((problem) => problem.row === index && problem.column === cell.dataset.column);
      cell.title = found ? found.text : TEXT_CELLS.includes(cell.dataset.column) ? cell.value : text("table.on_column");
      if (found) cell.setAttribute("aria-invalid", "true");
      else cell.removeAttribute("aria-invalid");
    }
  }

  // --- keys, clipboard, files ---

  key(event, index, column) {
    const work = keyWork(event);
    if (!work) return;
    event.preventDefault();
    event.stopPropagation();
    this.current = index;
    if (work === "next" && index + 1 === this.rows.length) return this.insert(index + 1);
    if (work === "previous") return this.focus(Math.max(0, index - 1), column);
    if (work === "next" || work === "below") return this.focus(Math.min(index + 1, this.rows.length - 1), column);
    if (work === "insert" || work === "duplicate") return this.insert(index + 1, work === "duplicate" ? this.rows[index] : undefined);
    if (work === "remove") return this.delete();
    this.move(work === "up" ? -1 : 1);
  }

  paste(event, index, column) {
    const pasted = pastedRows(event.clipboardData?.getData("text/plain") ?? "", column);
    if (!pasted) return;
    event.preventDefault();
    event.stopPropagation();
    this.rows = withPasted(this.rows, index, pasted);
    this.changed(index);
  }

  chooseFile() {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", accept: FILES });
    input.addEventListener("change", () => input.files[0] && this.open(input.files[0]));
    input.click();
  }

  dropped(event) {
    const file = event.dataTransfer?.files?.[0];
    if (!file) return;
    event.preventDefault();
    event.stopPropagation();
    this.open(file);
  }

  /** Add the rows of a file below those that are there. */
  async open(file) {
    const { ok, answer } = await this.ask(`table/file?${new URLSearchParams({ name: file.name })}`, file);
    if (!ok) return this.tell({ problems: [{ row: -1, column: "", text: answer?.error ?? text("table.away") }] });
    const there = this.asText ? [] : this.rows.filter((row) => !isBlank(row));
    this.asText = false;
    this.rows = [...there, ...rowsOf(answer.rows)];
    if (!this.rows.length) this.rows.push(blankRow());
    this.changed(Math.min(there.length, this.rows.length - 1));
  }

  save(kind) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([fileText(this.rows, kind)], { type: "text/plain;charset=utf-8" }));
    link.download = `prompts.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

/** What a key in a cell does to the table, or null for one that is the cell's own. */
export function keyWork({ key, altKey, shiftKey, ctrlKey, metaKey, isComposing }) {
  if (isComposing || ctrlKey || metaKey) return null;
  if (!altKey) {
    if (key === "Enter") return shiftKey ? "previous" : "next";
    if (shiftKey) return null;
    return { ArrowUp: "previous", ArrowDown: "below" }[key] ?? null;
  }
  if (key === "ArrowUp") return "up";
  if (key === "ArrowDown") return shiftKey ? "duplicate" : "down";
  return { Enter: "insert", Delete: "remove", Backspace: "remove" }[key] ?? null;
}
