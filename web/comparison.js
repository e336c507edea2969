// A prompt drawn once more, unshared, by the host's own queue: asked for, followed, cancelled. No page.

const LAST = "hierdiff-compare"; // the node that compares (nodes/host/comparison.py)
const LONGEST = 500; // letters of a message
const EVENTS = ["progress_state", "executing", "executed", "execution_success", "execution_error", "execution_interrupted"];

/** One comparison: `onChange(state)` hears of each change. */
export class Comparison {
  /**
   * @param api       the page's: fetchApi, apiURL, clientId, addEventListener, removeEventListener
   * @param onChange  called with {state, ...}: "asking", "asks" (whether to draw the set again), "waiting", "running"
   *                  with share, "done" with shared, unshared (addresses), word, mean and share, "failed" with message,
   *                  "cancelled"
   */
  constructor(api, onChange) {
    Object.assign(this, { api, onChange, id: null, state: { state: "asking" } });
    this.hear = (event) => this.receive(event.type, event.detail);
    for (const type of EVENTS) api.addEventListener(type, this.hear);
  }

  get isOver() {
    return ["done", "failed", "cancelled"].includes(this.state.state);
  }

  set(state) {
    if (this.isOver) return;
    this.state = state;
    if (this.isOver) for (const type of EVENTS) this.api.removeEventListener(type, this.hear);
    this.onChange(state);
  }

  /** Ask the server for the graph of a prompt of a run, and queue it unless the set would have to be drawn again. */
  async start(run, prompt) {
    this.set({ state: "asking" });
    const asked = { clientId: this.api.clientId ?? globalThis.name, run, prompt };
    this.told = await this.post("/hierdiff/compare", asked);
    if (!this.told || this.isOver) return;
    if (this.told.kept) await this.queue();
    else this.set({ state: "asks" });
  }

  /** Put the graph into the host's queue. */
  async queue() {
    this.set({ state: "waiting" });
    const { prompt, targets, extra_pnginfo } = this.told;
    const answer = await this.post("/prompt", {
      client_id: this.api.clientId ?? globalThis.name,
      prompt,
      partial_execution_targets: targets,
      extra_data: { extra_pnginfo },
    });
    if (!answer) return;
    this.id = answer.prompt_id;
    if (this.isOver) return this.stop(); // cancelled meanwhile
    for (const [type, detail] of this.early ?? []) this.receive(type, detail);
    this.early = null;
  }

  /** A POST's answer; null where it was refused, which is told. */
  async post(route, data) {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) };
    const response = await this.api.fetchApi(route, options).catch(() => null);
    const answer = await response?.json().catch(() => null);
    if (response?.ok && answer) return answer;
    this.set({ state: "failed", message: messageOf(answer) });
    return null;
  }

  receive(type, detail) {
    if (!detail || typeof detail !== "object") return;
    if (this.id === null) {
      // the queue may be faster than its answer
      if (this.state.state === "waiting") (this.early ??= []).push([type, detail]);
      return;
    }
    if (detail.prompt_id !== this.id) return;
    if (type === "progress_state") this.set({ state: "running", share: shareOf(detail.nodes) });
    else if (type === "executing" && detail.node && this.state.state === "waiting") this.set({ state: "running", share: null });
    else if (type === "executed" && detail.node === LAST) this.set(this.resultOf(detail.output));
    else if (type === "execution_error") this.set({ state: "failed", message: String(detail.exception_message ?? "").slice(0, LONGEST) });
    else if (type === "execution_interrupted") this.set({ state: "cancelled" });
    else if (type === "execution_success") this.restore();
  }

  resultOf(output) {
    const [shared, unshared] = (output?.images ?? []).map((file) => addressOf(this.api, file));
    const told = output?.hierdiff_compare?.[0];
    if (!unshared || !told) return { state: "failed", message: "" };
    return { state: "done", shared, unshared, ...told };
  }

  /** The run has ended without a word of the result: the host has taken it from its cache, its history has it. */
  async restore() {
    if (this.isOver) return;
    const response = await this.api.fetchApi(`/history/${this.id}`).catch(() => null);
    const entry = (await response?.json().catch(() => null))?.[this.id];
    this.set(this.resultOf(entry?.outputs?.[LAST]));
  }

  /** Take it out of the queue, or interrupt it. */
  cancel() {
    if (this.isOver) return;
    this.set({ state: "cancelled" });
    if (this.id !== null) this.stop();
  }

  stop() {
    const post = (route, data) => this.api.fetchApi(route, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data),
    }).catch(() => null);
    return Promise.all([post("/queue", { delete: [this.id] }), post("/interrupt", { prompt_id: this.id })]);
  }
}

/** The share of the work that is done of what takes long: the node that draws the prompt alone. 0 ... 1, or null. */
export function shareOf(nodes) {
  const drawing = Object.entries(nodes ?? {}).filter(([id, { max }]) => id.endsWith("-alone") && max > 1);
  const shares = drawing.map(([, { value, max }]) => value / max);
  return shares.length ? Math.max(...shares) : null;
}

/** What the server says of a refusal, in a line. */
export function messageOf(answer) {
  if (typeof answer?.error === "string") return answer.error;
  const errors = Object.values(answer?.node_errors ?? {}).flatMap((node) => node.errors ?? []);
  const [first] = errors.length ? errors : [answer?.error ?? {}];
  return [first.message, first.details].filter(Boolean).join(": ").slice(0, LONGEST);
}

/** Where the host's server has a picture. */
export function addressOf(api, { filename, subfolder = "", type = "temp" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/**
 * The prompt that stands for a branch: that at the end of its thickest boughs, which has most in common with the others.
 *
 * @param tree    {branches, steps}
 * @param index   of the branch
 */
export function typicalOf(tree, index) {
  let branch = tree.branches[index];
  while (branch.children.length) {
    const children = branch.children.map((child) => tree.branches[child]);
    branch = children.reduce((best, child) => (child.leaves > best.leaves ? child : best));
  }
  return branch.members[0];
}

/** The numbers of a branch's prompts, in the order of the rows. */
export function promptsBelow(tree, index) {
  const { first, leaves } = tree.branches[index];
  const found = [];
  for (let row = first; row < first + leaves; row++) found.push(...tree.branches[tree.byRow[row]].members);
  return found;
}
