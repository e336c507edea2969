// A budget against a tree: the arithmetic of hierdiff_core/plan/budget.py and plan.py for heights that are known, the one
// copy of it (tests/plan/test_page_mirror.py compares them). The falling shapes themselves come from the server.

const CLEARANCE = 1e-9; // as in hierdiff_core/plan/budget.py
const LEAST_APART = 0.05; // as in hierdiff_core/plan/plan.py

/** Number of entries of a rising list that are at most `value`. */
function countAtMost(rising, value) {
  let low = 0;
  let high = rising.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rising[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * How many final steps are not shared, where steps at a noise level or below are not: unshared_steps in
 * hierdiff_core/plan/noise_levels.py.
 */
export function unsharedSteps(levels, shareAbove, atLeast) {
  const first = levels.findIndex((level) => level <= shareAbove);
  return Math.max(first < 0 ? 0 : levels.length - first, atLeast);
}

/** What the last run knew of its tree, with a falling shape: plans for any budget follow from it. */
export class Schedule {
  /** @param data  {heights, errors, trees, metric, falling, weights} of nodes/schedule_plot.py */
  constructor({ heights, errors, trees = 1, falling, weights }, calibrated) {
    const equal = countAtMost(heights, 0); // prompts that equal another: drawn once, and no saving
    Object.assign(this, { heights: heights.slice(equal), trees, falling, weights, calibrated });
    this.prompts = heights.length - equal + trees; // a tree for each seed that prompts have of their own
    this.steps = falling.length;
    this.root = heights.at(-1) ?? 0;
    this.errorsUpTo = [0];
    for (const error of errors.slice(equal)) this.errorsUpTo.push(this.errorsUpTo.at(-1) + error);
    const shared = falling.filter((share) => share !== 0).length;
    this.greatest = ((this.prompts - trees) * shared) / (this.prompts * this.steps);
    this.deciding = this.decidingStep();
  }

  /** The step by which a picture of its own must have begun: deciding_step in hierdiff_core/plan/plan.py. */
  decidingStep() {
    if (!this.weights) return Math.max(this.steps - 1 - Math.ceil(LEAST_APART * this.steps), 0);
    const lost = [];
    for (const weight of this.weights) lost.push((lost.at(-1) ?? 0) + weight);
    return lost.findIndex((sum) => sum > lost.at(-1) / 2);
  }

  /** Thresholds at which one more row is saved, rising. */
  get breakpoints() {
    if (!this.sorted) {
      const shares = this.falling.filter((share) => share > 0);
      this.sorted = Float64Array.from(this.heights.flatMap((height) => shares.map((share) => height / share))).sort();
    }
    return this.sorted;
  }

  /** The smallest tau that saves at least this share of the rows. */
  tauForSaving(saving) {
    const rows = Math.ceil(Math.min(saving, this.greatest) * this.prompts * this.steps - CLEARANCE);
    if (rows <= 0 || !this.breakpoints.length) return 0;
    return this.breakpoints[Math.min(rows, this.breakpoints.length) - 1] * (1 + CLEARANCE);
  }

  /** The plan that the node makes of its settings: mode is "tau", "root share" or "saving". */
  plan(mode, value) {
    let tau = value;
    if (mode === "saving") tau = this.tauForSaving(value);
    if (mode === "root share") tau = value * this.root;
    const thresholds = this.falling.map((share) => tau * share);
    const cut = this.calibrated || this.trees > 1 ? thresholds.map((height) => Math.min(height, this.root)) : thresholds;
    const merged = cut.map((height) => countAtMost(this.heights, height));
    const clusters = merged.map((count) => this.prompts - count);
    const rows = clusters.reduce((sum, count) => sum + count, 0);
    const weighted = (total, count, k) => total + this.weights[k] * this.errorsUpTo[count];
    return {
      tau: cut[0],
      thresholds: cut,
      clusters,
      rows,
      standard: this.prompts * this.steps,
      saved: 1 - rows / (this.prompts * this.steps),
      distortion: this.weights ? merged.reduce(weighted, 0) / this.prompts : null,
      different: clusters[this.deciding],
      alike: this.prompts > 1 && clusters[this.deciding] <= this.prompts / 2,
      missed: mode === "saving" && value > this.greatest + CLEARANCE,
    };
  }

  /** The value of the node's widget (4 decimals, as it rounds) that saves about this share of the rows. */
  valueFor(mode, saving) {
    const wanted = Math.min(Math.max(saving, 0), this.greatest);
    if (mode === "saving") return Math.floor(wanted * 10000) / 10000; // never more than can be saved
    const tau = this.tauForSaving(wanted);
    return Math.ceil((mode === "root share" ? tau / (this.root || 1) : tau) * 10000) / 10000;
  }
}
