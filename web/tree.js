// The tree of one run, built from the server's messages (nodes/host/live_tree.py lists them). No drawing, no ComfyUI.

/** Branches with their place among the leaves: siblings take disjoint rows, parents the rows of their children. */
function placed(records, steps) {
  const branches = records.map(([start, stop, parent, members], index) => {
    return { index, start, stop, parent, members, children: [], leaves: stop === steps ? 1 : 0, first: 0, depth: 0 };
  });
  for (const branch of branches) {
    if (branch.parent >= 0) {
      branches[branch.parent].children.push(branch.index);
      branch.depth = branches[branch.parent].depth + 1;
    }
  }
  for (let i = branches.length - 1; i >= 0; i--) {
    // children come after their parents
    const parent = branches[branches[i].parent];
    if (parent) parent.leaves += branches[i].leaves;
  }
  let taken = 0;
  const used = new Int32Array(branches.length);
  for (const branch of branches) {
    if (branch.parent < 0) {
      branch.first = taken;
      taken += branch.leaves;
    } else {
      branch.first = branches[branch.parent].first + used[branch.parent];
      used[branch.parent] += branch.leaves;
    }
  }
  return branches;
}

/** What is known of one run. */
export class Tree {
  constructor(message) {
    const { run, node, workflow, prompt_id, steps, prompts, branches, measured } = message;
    Object.assign(this, { run, node, workflow, steps, prompts, measured });
    this.promptIds = prompt_id ? [prompt_id] : []; // of the runs that it is of: later ones took it from the cache
    this.branches = placed(branches, steps);
    this.leaves = this.branches.reduce((sum, branch) => sum + (branch.parent < 0 ? branch.leaves : 0), 0);
    this.byRow = new Int32Array(this.leaves); // the branch that ends in each row
    for (const branch of this.branches) if (branch.stop === steps) this.byRow[branch.first] = branch.index;
    this.pictures = new Map(); // branch index -> {image, x, y, width, height}
    this.state = "running";
    Object.assign(this, { step: 0, clusters: 0, rows: 0, standard: 0, reached: null });
    this.update(message);
  }

  /** Take over a message's numbers and pictures; resolves once the pictures can be drawn. */
  async update(message) {
    for (const key of ["step", "clusters", "rows", "standard", "reused", "state", "reached", "share", "seconds"]) {
      if (message[key] !== undefined) this[key] = message[key];
    }
    await Promise.all((message.tiles ?? []).map((sheet) => this.addSheet(sheet)));
  }

  async addSheet({ branches, width, height, columns, image }) {
    const sheet = new Image();
    sheet.src = image;
    try {
      await sheet.decode();
    } catch {
      return; // a picture less; the tree is drawn without it
    }
    branches.forEach((branch, i) => {
      const [x, y] = [(i % columns) * width, Math.floor(i / columns) * height];
      this.pictures.set(branch, { image: sheet, x, y, width, height });
    });
  }

  /** Another run has taken this tree's node from the cache. */
  cachedIn(promptId) {
    if (!this.promptIds.includes(promptId)) this.promptIds.push(promptId);
  }

  /** The picture of a branch, or of the one that it grows out of, or null. */
  pictureOf(index) {
    while (index >= 0 && !this.pictures.has(index)) index = this.branches[index].parent;
    return index >= 0 ? this.pictures.get(index) : null;
  }

  /** Steps that are done along a branch; `shown` where all branches are at the same step. */
  grown(index, shown) {
    return this.reached ? this.reached[index] : shown;
  }

  get saved() {
    return this.standard ? 1 - this.rows / this.standard : 0;
  }

  /** Texts of a branch's prompts, in the order of the rows. */
  promptsOf(index) {
    const { first, leaves } = this.branches[index];
    const texts = [];
    for (let row = first; row < first + leaves; row++) {
      for (const member of this.branches[this.byRow[row]].members) texts.push(this.prompts[member]);
    }
    return texts;
  }

  /** The branch that covers a row at a step (fractions allowed), or null. */
  at(row, step) {
    if (!(row >= 0 && row < this.leaves)) return null;
    let index = this.byRow[Math.floor(row)];
    while (index >= 0 && this.branches[index].start > step) index = this.branches[index].parent;
    return index >= 0 ? index : null;
  }
}

/** All runs that this page has heard of, by workflow and node: a tab that comes back finds its trees again. */
export class Trees {
  constructor() {
    this.trees = new Map();
    this.listeners = new Set();
    this.begun = 0;
  }

  static key(workflow, node) {
    return `${workflow ?? ""}/${node}`;
  }

  get(workflow, node) {
    // runs that were queued without a workflow belong to whatever is open
    return this.trees.get(Trees.key(workflow, node)) ?? this.trees.get(Trees.key(null, node)) ?? null;
  }

  /** Take a message. Returns false for a run that is not known: its beginning was missed. */
  async receive(message) {
    if (message.kind === "begin" || message.kind === "snapshot") {
      const tree = new Tree({ ...message, tiles: [] });
      tree.order = this.begun++;
      this.trees.set(Trees.key(message.workflow, message.node), tree);
      this.tell(tree);
      await tree.update(message);
      this.tell(tree);
      return true;
    }
    const tree = [...this.trees.values()].find((known) => known.run === message.run);
    if (!tree) return false;
    await tree.update(message);
    this.tell(tree);
    return true;
  }

  tell(tree) {
    for (const listener of this.listeners) listener(tree);
  }
}
