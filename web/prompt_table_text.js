// A table of prompts as text: what the node keeps (hierdiff_core/prompts/table.py), what a spreadsheet puts on the
// clipboard, and what is saved to files. No page in here.

export const COLUMNS = ["on", "prompt", "negative", "seed", "pictures", "caption"];
const OFF = ["0", "false", "no", "off"];
const HEADER = COLUMNS.join("\t");
const NAMES = {
  text: "prompt",
  negative_prompt: "negative",
  "negative prompt": "negative",
  images: "pictures",
  enabled: "on",
};

/** A row without anything in it. */
export function blankRow(values = {}) {
  return { on: "", prompt: "", negative: "", seed: "", pictures: "", caption: "", ...values };
}

export function isOn(row) {
  return !OFF.includes(row.on.trim().toLowerCase());
}

export function isBlank(row) {
  return COLUMNS.every((name) => name === "on" || !row[name].trim());
}

/** Rows from lists of cells in the order of the columns, as the server sends them. */
export function rowsOf(lists) {
  return lists.map((cells) => blankRow(Object.fromEntries(COLUMNS.map((name, i) => [name, oneLine(cells[i] ?? "")]))));
}

/** A cell as an input of one line shows it; prompts are read with single spaces anyway. */
function oneLine(cell) {
  return cell.replace(/[\r\n]+/g, " ");
}

/** The text that the node keeps; nothing for a table without anything in it. */
export function tableText(rows) {
  if (rows.every(isBlank)) return "";
  return [HEADER, ...rows.map((row) => COLUMNS.map((name) => quoted(row[name], "\t")).join("\t"))].join("\n");
}

/** The rows of a text that `tableText` has made, or null for any other: the server reads those. */
export function rowsOfText(text) {
  if (!text.trim()) return [];
  if (text !== HEADER && !text.startsWith(`${HEADER}\n`)) return null;
  return rowsOf(cellsOf(text, "\t").slice(1));
}

function quoted(cell, delimiter) {
  const plain = !cell.includes(delimiter) && !/["\r\n]/.test(cell);
  return plain ? cell : `"${cell.replaceAll('"', '""')}"`;
}

/** Cells of a text with quotes as spreadsheets and CSV files have them: a list of cells for each line. */
export function cellsOf(text, delimiter) {
  const lines = [[]];
  let cell = "";
  let inside = false;
  for (let i = 0; i < text.length; i++) {
    const sign = text[i];
    if (inside) {
      if (sign !== '"') cell += sign;
      else if (text[i + 1] === '"') cell += text[++i];
      else inside = false;
    } else if (sign === '"' && cell === "") inside = true;
    else if (sign === delimiter) lines.at(-1).push(cell), (cell = "");
    else if (sign === "\n" || sign === "\r") {
      if (sign === "\r" && text[i + 1] === "\n") i++;
      lines.at(-1).push(cell);
      lines.push([]);
      cell = "";
    } else cell += sign;
  }
  lines.at(-1).push(cell);
  if (lines.at(-1).length === 1 && lines.at(-1)[0] === "") lines.pop(); // the end of the last line
  return lines;
}

/**
 * What is pasted into a cell: null for an ordinary text, which the cell takes by itself; else the rows that change,
 * from the cell's own on: {name: text} of each.
 */
export function pastedRows(text, column) {
  if (!/[\t\r\n]/.test(text.replace(/[\r\n]+$/, ""))) return null;
  const first = text.split(/[\r\n]/, 1)[0];
  const delimiter = first.includes("\t") || text.includes("\t") ? "\t" : namesOf(first, ",") ? "," : namesOf(first, ";") ? ";" : "\t";
  const lines = cellsOf(text, delimiter).filter((cells) => delimiter === "\t" || cells.length > 1 || cells[0].trim());
  const header = namesOf(first, delimiter);
  const names = header ?? COLUMNS.slice(COLUMNS.indexOf(column));
  return (header ? lines.slice(1) : lines).map((cells) =>
    Object.fromEntries(cells.map((cell, i) => [names[i], oneLine(cell).trim()]).filter(([name]) => COLUMNS.includes(name))),
  );
}

/** The names of the columns that a line names, or null where it is no header. */
function namesOf(line, delimiter) {
  const names = (cellsOf(line, delimiter)[0] ?? []).map((name) => name.trim().toLowerCase());
  const known = names.map((name) => (NAMES[name] && !names.includes(NAMES[name]) ? NAMES[name] : name));
  if (!known.includes("prompt") && known.includes("caption")) known[known.indexOf("caption")] = "prompt";
  const count = known.filter((name) => COLUMNS.includes(name)).length;
  return known.includes("prompt") && (count > 1 || count === known.length) ? known : null;
}

/** Put pasted rows into a table from a place on; the table grows as is needed. */
export function withPasted(rows, at, pasted) {
  const made = rows.map((row) => ({ ...row }));
  pasted.forEach((values, i) => {
    made[at + i] ??= blankRow();
    Object.assign(made[at + i], values);
  });
  return made;
}

/** The text of a file: kind is "txt", "csv" or "jsonl". Rows that are off are left out of a txt file. */
export function fileText(rows, kind) {
  const filled = rows.filter((row) => !isBlank(row));
  if (kind === "csv") return lined([COLUMNS, ...filled.map(valuesOf)].map((cells) => cells.map((cell) => quoted(cell, ",")).join(",")));
  if (kind === "jsonl") return lined(filled.map(jsonOf));
  return lined(filled.filter((row) => isOn(row) && row.prompt.trim()).map((row) => row.prompt.trim().replace(/^(#|\/\/|\/\*)/, "\\$1")));
}

function valuesOf(row) {
  return COLUMNS.map((name) => row[name]);
}

function jsonOf(row) {
  const parts = COLUMNS.filter((name) => name !== "on" && row[name] !== "").map((name) => {
    const number = ["seed", "pictures"].includes(name) && /^(0|[1-9]\d*)$/.test(row[name]);
    return `${JSON.stringify(name)}: ${number ? row[name] : JSON.stringify(row[name])}`; // seeds are too large for a number
  });
  if (!isOn(row)) parts.push('"on": false');
  return `{${parts.join(", ")}}`;
}

function lined(lines) {
  return lines.length ? `${lines.join("\n")}\n` : "";
}
