// The panel of Threshold Schedule: the plan of the last run's tree, and a budget that can be dragged.

import { SAVED, SPENT, THRESHOLD } from "./colors.js";
import { after } from "./hooks.js";
import { element, makePanel, oncePerFrame, passToGraph, sized, themeColors, watch } from "./panel.js";
import { Schedule, unsharedSteps } from "./schedule.js";
import { percent, short, text } from "./texts.js";
import { ticks } from "./ticks.js";

export const MIN_HEIGHT = 200;
const [LEFT, TOP, RIGHT, BOTTOM] = [36, 12, 12, 24];
const WARNING = "var(--hierdiff-warning)";
const SHAPING = ["steps", "shape", "private_steps", "power"];
const LEVEL = "share_above"; // a noise level, which the last run's sigmas turn into steps

/**
 * Shows what the node's settings make of the tree of its last run.
 *
 * @param memory  {get(), set(data)}: what the last run sent, kept while the workflow is out of sight
 */
export class SchedulePanel {
  constructor(node, app, api, memory) {
    Object.assign(this, { node, api, memory }, makePanel(text("schedule.label")));
    this.schedule = null;
    this.hovered = null; // step under the pointer
    this.redraw = oncePerFrame(() => this.drawNow());
    this.unwatch = watch(this.root, this.redraw);
    this.canvas.style.touchAction = "none";
    Object.assign(this.status.style, { whiteSpace: "normal", overflow: "visible" }); // no figure is cut off
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerleave", () => this.hover(null));
    for (const type of ["pointerup", "pointercancel"]) this.canvas.addEventListener(type, () => (this.drag = null));
    this.root.addEventListener("keydown", (event) => this.key(event));
    passToGraph(this.root, app);
    this.followWidgets();
    this.followRuns();
    this.reshape();
  }

  remove() {
    this.unwatch();
  }

  // --- the node's settings ---

  widget(name) {
    return this.node.widgets?.find((widget) => widget.name === name);
  }

  setting(name) {
    return this.widget(name)?.value;
  }

  /** Whether another node gives the value, so that the widget does not count. */
  linked(name) {
    return this.node.inputs?.some((input) => input.widget?.name === name && input.link != null) ?? false;
  }

  followWidgets() {
    for (const name of [...SHAPING, LEVEL, "mode", "value"]) {
      const widget = this.widget(name);
      if (!widget) continue;
      after(widget, "callback", () => (["mode", "value"].includes(name) ? this.refresh() : this.reshape()));
    }
    after(this.node, "onConfigure", () => this.reshape());
  }

  followRuns() {
    after(this.node, "onExecuted", (output) => {
      const data = output?.hierdiff_schedule?.[0];
      if (data) this.memory.set(data);
      this.reshape();
    });
  }

  /** Ask the server for the falling shape of the present settings; the answer to the latest question counts. */
  async reshape() {
    const data = this.memory.get();
    if (!data?.heights) return this.refresh();
    const settings = Object.fromEntries(SHAPING.map((name) => [name, this.setting(name)]));
    if (data.levels?.length === settings.steps) {
      settings.private_steps = unsharedSteps(data.levels, this.setting(LEVEL) ?? 0, settings.private_steps);
    }
    const asked = { ...settings, metric: data.metric, sensitivity: data.sensitivity };
    const question = (this.question = JSON.stringify(asked));
    const headers = { "Content-Type": "application/json" };
    const post = { method: "POST", headers, body: question };
    const response = await this.api.fetchApi("/hierdiff/shape", post).catch(() => null);
    const answer = await response?.json();
    if (!answer || question !== this.question) return; // while the server is away, what is shown stays
    this.problem = response.ok ? null : answer.error;
    this.schedule = response.ok ? new Schedule({ ...data, ...answer }, settings.shape === "calibrated") : null;
    this.refresh();
  }

  refresh() {
    const { schedule } = this;
    this.plan = schedule ? schedule.plan(this.setting("mode"), Number(this.setting("value"))) : null;
    this.note.textContent = this.plan ? "" : (this.problem ?? text("schedule.waiting"));
    const possible = this.draggable();
    this.canvas.style.cursor = possible ? "ns-resize" : "default";
    this.canvas.title = possible ? text("schedule.drag") : "";
    this.describe();
    this.redraw();
  }

  draggable() {
    return this.schedule !== null && !this.linked("value") && this.schedule.greatest > 0;
  }

  /** Whether the settings give another plan than the last run's, which all texts of the node are about. */
  get changed() {
    const before = this.memory.get()?.clusters;
    return Boolean(this.plan && before) && String(before) !== String(this.plan.clusters);
  }

  describe() {
    const { plan } = this;
    this.status.replaceChildren();
    this.status.title = "";
    const [changed, alike] = [this.changed, Boolean(plan?.alike)];
    const report = this.root.querySelector(".hierdiff-result"); // of the last run
    if (plan) {
      const asked = percent(this.setting("value"));
      const [warnings, figures] = [warningsOf(plan, this.schedule.prompts, asked), figuresOf(plan, this.hovered)];
      this.addLine(figures).style.color = warnings.length ? WARNING : "";
      // what the report below says as well is not said twice
      const said = changed || !report || report.hidden ? "" : report.textContent;
      for (const warning of warningsOf(plan, this.schedule.prompts, asked, said)) this.addLine([warning], WARNING);
      if (changed) this.addLine([text("schedule.changed")]).style.fontStyle = "italic";
      this.status.title = [...figures, ...warnings].join(" · ");
      Object.assign(this.root.dataset, { saved: plan.saved.toFixed(4), rows: plan.rows, alike, changed });
    }
    if (report) report.style.opacity = changed ? 0.45 : "";
  }

  /** A line of the status, which breaks between its parts only. */
  addLine(parts, color = "") {
    const line = element("div", "", this.status);
    line.style.color = color;
    parts.forEach((part, i) => {
      if (i) line.append(" · ");
      element("span", "", line).textContent = part;
      if (!color) line.lastChild.style.whiteSpace = "nowrap";
    });
    return line;
  }

  // --- dragging ---

  /** Choose the budget that saves this share of the rows: the node's value follows. */
  save(share) {
    const value = this.schedule.valueFor(this.setting("mode"), share);
    const widget = this.widget("value");
    if (widget.value === value) return;
    widget.value = value;
    widget.callback?.(value);
    this.node.setDirtyCanvas?.(true, true);
  }

  press(event) {
    if (event.button !== 0 || !this.draggable()) return;
    this.root.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { y: event.clientY, saved: this.plan.saved, height: this.canvas.offsetHeight - TOP - BOTTOM };
    this.hover(null);
  }

  move(event) {
    const box = this.canvas.getBoundingClientRect();
    const zoom = box.width / this.canvas.offsetWidth || 1; // of the graph
    if (this.drag) {
      const share = (event.clientY - this.drag.y) / (this.drag.height * zoom);
      this.save(this.drag.saved + share); // down: fewer clusters
      return;
    }
    const x = (event.clientX - box.left) / zoom;
    const share = (x - LEFT) / (this.canvas.offsetWidth - LEFT - RIGHT);
    this.hover(this.plan && share >= 0 && share < 1 ? Math.floor(share * this.plan.clusters.length) : null);
  }

  hover(step) {
    if (step === this.hovered) return;
    this.hovered = step;
    this.describe();
    this.redraw();
  }

  key(event) {
    const change = { ArrowUp: -0.01, ArrowDown: 0.01, PageUp: -0.1, PageDown: 0.1 }[event.key];
    if (change === undefined || !this.draggable()) return;
    event.preventDefault();
    event.stopPropagation();
    this.save(this.plan.saved + change);
    this.announce.textContent = this.status.title;
  }

  // --- drawing ---

  drawNow() {
    const [width, height] = [this.view.clientWidth, this.view.clientHeight];
    if (!width || !height) return;
    this.content.style.height = `${height}px`;
    const context = sized(this.canvas, width, height);
    context.clearRect(0, 0, width, height);
    if (this.plan) drawPlan(context, this.plan, this.schedule, width, height, themeColors(this.root), this.hovered);
  }
}

/** What the status says of a plan: of all steps, or of the one under the pointer. */
export function figuresOf(plan, hovered) {
  const parts = [
    `${text("schedule.saved")} ${percent(plan.saved)}`,
    `${text("schedule.rows")} ${plan.rows} / ${plan.standard}`,
    `τ ${short(plan.tau)}`,
  ];
  if (plan.distortion !== null) parts.push(`${text("schedule.distortion")} ${short(plan.distortion)}`);
  if (hovered !== null) {
    parts.splice(0, 2, `${text("schedule.step")} ${hovered + 1}`, `${text("schedule.clusters")} ${plan.clusters[hovered]}`);
    parts[2] = `φ ${short(plan.thresholds[hovered])}`;
  }
  return parts;
}

/** Lines on settings that do not do what they seem to; without those that are in the text `said`, of the same plan. */
export function warningsOf(plan, prompts, asked, said = "") {
  const parts = [];
  if (plan.alike && !said) parts.push(text("schedule.alike", { count: plan.different, prompts }));
  if (plan.missed && !said.includes(asked)) parts.push(text("schedule.most", { asked, most: percent(plan.saved) }));
  return parts.map((part) => `⚠ ${part}`);
}

/** Clusters over steps: the filled area is what is spent, the area above it is what is saved. */
function drawPlan(context, plan, schedule, width, height, colors, hovered) {
  const steps = plan.clusters.length;
  const [right, bottom] = [width - RIGHT, height - BOTTOM];
  const x = (k) => LEFT + ((right - LEFT) * k) / steps;
  const y = (share) => bottom - (bottom - TOP) * share;
  const outline = new Path2D();
  outline.moveTo(LEFT, bottom);
  plan.clusters.forEach((count, k) => {
    outline.lineTo(x(k), y(count / schedule.prompts));
    outline.lineTo(x(k + 1), y(count / schedule.prompts));
  });
  outline.lineTo(right, bottom);
  context.fillStyle = SAVED;
  context.globalAlpha = 0.16;
  context.fillRect(LEFT, TOP, right - LEFT, bottom - TOP);
  context.globalAlpha = 1;
  context.fillStyle = colors.ground;
  context.fill(outline);
  context.globalAlpha = 0.35;
  context.fillStyle = SPENT;
  context.fill(outline);
  context.globalAlpha = 1;
  context.strokeStyle = SPENT;
  context.lineWidth = 2;
  context.stroke(outline);
  drawThresholds(context, plan, schedule, x, y);
  if (hovered !== null) {
    context.fillStyle = colors.ink;
    context.globalAlpha = 0.18;
    context.fillRect(x(hovered), TOP, x(hovered + 1) - x(hovered), bottom - TOP);
    context.globalAlpha = 1;
  }
  drawLabels(context, plan, schedule, { x, y, right, bottom, width, height }, colors);
}

/** The threshold as a share of the tree's height, dashed. */
function drawThresholds(context, plan, schedule, x, y) {
  if (!schedule.root) return;
  context.strokeStyle = THRESHOLD;
  context.lineWidth = 1.5;
  context.setLineDash([5, 4]);
  context.beginPath();
  plan.thresholds.forEach((height, k) => context.lineTo(x(k + 0.5), y(Math.min(height / schedule.root, 1))));
  context.stroke();
  context.setLineDash([]);
}

function drawLabels(context, plan, schedule, { x, y, right, bottom, height }, colors) {
  context.font = "10px Inter, system-ui, sans-serif";
  context.fillStyle = colors.muted;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const share of schedule.prompts % 2 ? [0, 1] : [0, 0.5, 1]) context.fillText(share * schedule.prompts, LEFT - 6, y(share));
  context.textAlign = "center";
  for (const k of ticks(plan.clusters.length, right - LEFT)) context.fillText(k, x(k), bottom + 9);
  context.save();
  context.translate(9, (TOP + bottom) / 2);
  context.rotate(-Math.PI / 2);
  context.fillText(text("schedule.clusters"), 0, 0);
  context.restore();
  context.textAlign = "right";
  context.fillText(text("schedule.step"), right, height - 5);
  drawShare(context, plan, schedule, { x, y, right, bottom });
}

/** What is saved, written into its area where there is room. */
function drawShare(context, plan, schedule, { x, y, bottom }) {
  context.font = "600 13px Inter, system-ui, sans-serif";
  context.textAlign = "left";
  context.fillStyle = SAVED;
  const label = percent(plan.saved);
  const free = y(plan.clusters[0] / schedule.prompts) - TOP;
  if (free > 18) context.fillText(label, x(0) + 8, TOP + 12);
  context.fillStyle = SPENT;
  const low = plan.clusters.at(-1) / schedule.prompts;
  if (bottom - y(low) > 30) {
    context.textAlign = "right";
    context.fillText(percent(1 - plan.saved), x(plan.clusters.length) - 8, bottom - 10);
  }
}
