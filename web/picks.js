// Questions of runs that wait for the user to choose pictures, built from the server's messages
// (nodes/host/questions.py). No drawing, no ComfyUI.

/** All open questions that this page has heard of. */
export class Picks {
  constructor(clock = () => performance.now()) {
    this.clock = clock;
    this.open = new Map(); // id -> question
    this.listeners = new Set();
    this.heard = 0;
  }

  /** The newest question of a node. */
  get(workflow, node) {
    // runs that were queued without a workflow belong to whatever is open
    const fits = (question) => question.node === String(node) && [workflow, null].includes(question.workflow);
    return [...this.open.values()].filter(fits).at(-1) ?? null;
  }

  /** Take a message: {kind, id, node, workflow, prompt_id}, and to ask pictures, texts and the seconds that are left. */
  receive({ kind, id, node, workflow, prompt_id, pictures, texts, left }) {
    const known = this.open.get(id);
    if (kind !== "ask") {
      if (known) this.close(known);
      return;
    }
    const until = this.clock() + 1000 * left;
    if (known) return void Object.assign(known, { until });
    const question = { id, node: String(node), workflow: workflow ?? null, prompt_id, pictures, texts, until, order: this.heard++ };
    this.open.set(id, question);
    this.tell(question);
  }

  close(question) {
    if (this.open.delete(question.id)) this.tell(question);
  }

  /** A run has ended: nobody waits for an answer any more. */
  end(prompt_id) {
    for (const question of [...this.open.values()]) if (question.prompt_id === prompt_id) this.close(question);
  }

  /** Whole seconds that are left. */
  left(question) {
    return Math.max(Math.ceil((question.until - this.clock()) / 1000), 0);
  }

  tell(question) {
    for (const listener of this.listeners) listener(question);
  }

  /** Send an answer; gives what was wrong with it, or "". */
  async answer(api, question, chosen) {
    const body = JSON.stringify({ clientId: api.clientId ?? globalThis.name, id: question.id, chosen });
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body };
    const response = await api.fetchApi("/hierdiff/pick", options).catch(() => null);
    if (!response?.ok) return (await response?.json().catch(() => null))?.error ?? "?";
    this.close(question);
    return "";
  }
}

/** Numbers as they are written into the node, "0, 3-5". */
export function rangesOf(numbers) {
  const runs = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    if (runs.length && number === runs.at(-1)[1] + 1) runs.at(-1)[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ");
}

/** Where a key leads to from a place among `count` pictures in `columns`; null for keys that lead nowhere. */
export function placeAfter(key, place, count, columns) {
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -place, End: count - 1 - place };
  if (!(key in moves)) return null;
  const to = place + moves[key];
  return to < 0 || to >= count ? place : to;
}

/** {columns, width} with which pictures of this shape are largest in a place of this size, no smaller than `least`. */
export function layoutFor(count, width, height, shape, caption, least, gap) {
  let best = { columns: 1, width: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const wide = width / columns - gap;
    const high = (height / Math.ceil(count / columns) - caption) * shape;
    if (columns > 1 && wide < least) break; // then they scroll
    const size = Math.floor(Math.max(Math.min(wide, high), Math.min(least, wide)));
    if (size >= best.width) best = { columns, width: size };
  }
  return best;
}
