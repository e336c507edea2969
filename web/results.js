// What nodes said last, built from the server's messages (nodes/host/results.py). No drawing, no ComfyUI.

const WARNING = "⚠";
const SHORT_LINE = 40; // letters that are shown whole at any width

/** A node's text in parts: {warnings, lines}, where each line keeps its place among its kind. */
export function partsOf(text) {
  const parts = { warnings: [], lines: [] };
  for (const line of String(text).split("\n")) (line.startsWith(WARNING) ? parts.warnings : parts.lines).push(line);
  while (parts.lines.length && !parts.lines.at(-1).trim()) parts.lines.pop();
  return parts;
}

/**
 * How a text stands in its panel: its warnings, the words below them and the whole of these, whether they are one
 * line that there is nothing to fold of, and whether they are folded to the first.
 */
export function shownOf(text, folding) {
  const { warnings, lines } = partsOf(text);
  const one = lines.length < 2 && (lines[0] ?? "").length <= SHORT_LINE;
  const folded = !one && folding;
  const whole = lines.join("\n");
  return { warnings, words: folded ? lines[0] : whole, whole, one, folded };
}

/** What is worth keeping of a node's output beside its text. */
function ours(output) {
  return Object.fromEntries(
    Object.entries(output ?? {})
      .filter(([name]) => name.startsWith("hierdiff_"))
      .map(([name, value]) => [name, value?.[0]]),
  );
}

/** All that this page has heard, by workflow and node: a tab that comes back finds its texts again. */
export class Results {
  constructor() {
    this.results = new Map();
    this.listeners = new Set();
    this.heard = 0;
  }

  static key(workflow, node) {
    return `${workflow ?? ""}/${node}`;
  }

  get(workflow, node) {
    // runs that were queued without a workflow belong to whatever is open
    return this.results.get(Results.key(workflow, node)) ?? this.results.get(Results.key(null, node)) ?? null;
  }

  /** Take what a node says: {node, workflow, prompt_id, state, text, data}. */
  receive({ node, workflow, prompt_id, state, text, data }) {
    const result = { node, workflow, prompt_id, state, text, data: ours(data), order: this.heard++ };
    this.results.set(Results.key(workflow, node), result);
    this.tell(result);
  }

  /**
   * Take what the host sends of a node's output: it does not say of which workflow, the node's own text did. `part`: it
   * is of a part of the node, which has others.
   */
  receiveOutput(node, prompt_id, output, part = false) {
    for (const result of this.results.values()) {
      if (result.node !== String(node) || result.prompt_id !== prompt_id || !prompt_id) continue;
      result.data = { ...(part ? result.data : {}), ...ours(output) };
      this.tell(result);
    }
  }

  /** Take an output that the host brings back with a workflow from its history. */
  restore(workflow, node, output) {
    const text = output?.text?.[0];
    if (typeof text !== "string" || this.results.has(Results.key(workflow, node))) return;
    this.receive({ node, workflow, prompt_id: null, state: "done", text, data: output });
  }

  /** A run has ended: what nodes said on the way and did not come to an end of is over. */
  end(prompt_id) {
    for (const result of this.results.values()) {
      if (result.prompt_id !== prompt_id || result.state !== "running") continue;
      Object.assign(result, { state: "done", text: "" });
      this.tell(result);
    }
  }

  tell(result) {
    for (const listener of this.listeners) listener(result);
  }
}
