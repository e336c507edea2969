// A tree with some of its branches folded: each of these takes one row, and what grew out of it is out of sight.

/** Where a line of the tree ends: a leaf, or a branch that is folded. */
export function isTip(tree, branch) {
  return branch.stop === tree.steps || branch.folded === true;
}

/**
 * The tree as it is seen with these branches folded. It is the same tree, and learns what the other does; only the
 * places of its branches are its own.
 *
 * @param tree    Tree
 * @param folded  Set of branch indices
 */
export function withFolded(tree, folded) {
  if (!folded.size) return tree;
  const seen = Object.create(tree);
  const branches = tree.branches.map((branch) => ({ ...branch, folded: false, hidden: false, leaves: 0, first: 0 }));
  for (const branch of branches) {
    const parent = branches[branch.parent];
    branch.hidden = Boolean(parent && (parent.hidden || parent.folded));
    branch.folded = !branch.hidden && folded.has(branch.index) && branch.children.length > 0;
  }
  const rows = [];
  const place = (branch) => {
    branch.first = rows.length;
    if (isTip(tree, branch)) rows.push(branch.index);
    else for (const child of branch.children) place(branches[child]);
    branch.leaves = rows.length - branch.first;
  };
  for (const branch of branches) if (branch.parent < 0) place(branch);
  for (const branch of branches) if (branch.folded) branch.children = [];
  seen.branches = branches;
  seen.leaves = rows.length;
  seen.byRow = Int32Array.from(rows);
  seen.promptsOf = (index) => tree.promptsOf(index);
  return seen;
}

/** The row in which a branch is seen, or the folded one that hides it. */
export function rowOf(seen, index) {
  let branch = seen.branches[index];
  while (branch.hidden) branch = seen.branches[branch.parent];
  return branch.first;
}

/** Branches to fold so that at most `rows` rows are left: all that live at the latest step that has so few. */
export function foldedTo(tree, rows) {
  const living = (step) => tree.branches.filter((branch) => branch.start <= step && step < branch.stop);
  for (let step = tree.steps - 1; step > 0; step--) {
    const alive = living(step);
    if (alive.length <= rows) return new Set(alive.filter((branch) => branch.children.length).map(({ index }) => index));
  }
  return new Set(living(0).filter((branch) => branch.children.length).map(({ index }) => index));
}

/** Branches that hide one of these, with the first one. */
export function hiding(seen, index) {
  for (let at = seen.branches[index].parent; at >= 0; at = seen.branches[at].parent) if (seen.branches[at].folded) return at;
  return null;
}
