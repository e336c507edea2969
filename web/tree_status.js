// What the bar above a tree says: its numbers, what was there already, and what is known of the plan. No page.

import { timeText } from "./run_time.js";
import { percent, text } from "./texts.js";

/** The numbers of a tree, as a line. */
export function statusOf(tree) {
  const values = {
    step: tree.step,
    steps: tree.steps,
    clusters: tree.clusters,
    rows: tree.rows,
    standard: tree.standard,
    saved: percent(tree.saved),
  };
  const line = text({ running: "tree.status", done: "tree.done", stopped: "tree.stopped" }[tree.state], values);
  return [timeText(tree), line, reusedOf(tree), verdictOf(tree)].filter(Boolean).join(" · ");
}

/** How many of a run's rows were there already, in words; empty where none was. */
export function reusedOf({ reused, rows }) {
  return reused > 0 ? text("edits.reused", { reused, rows }) : "";
}

/** What was measured of the plan on this model, in words; empty where it saves nothing. */
export function verdictOf({ measured }) {
  return measured ? text(`tree.measured_${measured.verdict}`, measured) : "";
}
