// The window in which a picture of a set is compared with the same prompt drawn unshared.

import { AbSlider } from "./ab_slider.js";
import { Comparison } from "./comparison.js";
import { element } from "./panel.js";
import { inWords } from "./run_time.js";
import { percent, text } from "./texts.js";

const LONGEST = 120; // letters of a prompt in the list
const MOST = 1000; // prompts in the list

let open = null; // the window that is open

/**
 * Compare a prompt of a run.
 *
 * @param api     the page's
 * @param run     id of the run
 * @param texts   of all prompts of the set
 * @param prompts numbers of those to choose from
 * @param first   number of the one to begin with
 * @param seconds that the set took, or null
 */
export function compare(api, { run, texts, prompts, first = prompts[0], seconds = null }) {
  open?.close();
  open = new CompareWindow(api, { run, texts, prompts, first, seconds });
  return open;
}

class CompareWindow {
  constructor(api, asked) {
    Object.assign(this, { api, ...asked });
    this.build();
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.begin(this.first);
  }

  build() {
    this.dialog = element("dialog", "hierdiff-compare");
    this.dialog.setAttribute("aria-label", text("compare.title"));
    const head = element("div", "hierdiff-compare-head", this.dialog);
    element("h2", "", head).textContent = text("compare.title");
    this.button(head, text("compare.close"), "Esc", () => this.close());
    this.list = this.choice();
    this.slider = new AbSlider(this.dialog);
    const foot = element("div", "hierdiff-compare-foot", this.dialog);
    this.said = element("div", "hierdiff-compare-said", foot);
    this.said.setAttribute("role", "status");
    this.again = this.button(foot, text("compare.draw_again"), "", () => this.comparison.queue());
    this.cancel = this.button(foot, text("compare.cancel"), "", () => this.comparison.cancel());
    const { dialog } = this;
    dialog.addEventListener("keydown", (event) => event.stopPropagation()); // the page has keys of its own
    for (const type of ["keyup", "keypress", "wheel", "copy", "paste"]) dialog.addEventListener(type, (event) => event.stopPropagation());
    dialog.addEventListener("click", (event) => event.target === dialog && this.close());
    dialog.addEventListener("close", () => this.closed());
  }

  button(parent, label, key, run) {
    const made = element("button", "", parent);
    made.type = "button";
    made.textContent = label;
    if (key) element("kbd", "", made).textContent = key;
    made.addEventListener("click", run);
    return made;
  }

  /** The list of prompts; where there is one only, its text. */
  choice() {
    const row = element("label", "hierdiff-compare-prompt", this.dialog);
    if (this.prompts.length === 1) {
      element("span", "", row).textContent = this.texts[this.prompts[0]] ?? "";
      return null;
    }
    element("span", "", row).textContent = text("compare.prompt");
    const list = element("select", "", row);
    const shown = this.prompts.slice(0, MOST);
    if (!shown.includes(this.first)) shown.unshift(this.first);
    for (const number of shown) {
      const option = element("option", "", list);
      option.value = number;
      option.textContent = shortened(this.texts[number] ?? "");
      option.title = this.texts[number] ?? "";
    }
    list.value = this.first;
    list.addEventListener("change", () => this.begin(Number(list.value)));
    return list;
  }

  begin(prompt) {
    this.comparison?.cancel();
    this.began = performance.now();
    const mine = new Comparison(this.api, (state) => mine === this.comparison && this.show(state));
    this.comparison = mine;
    mine.start(this.run, prompt);
  }

  show(state) {
    this.dialog.dataset.state = state.state;
    this.again.hidden = state.state !== "asks";
    this.cancel.hidden = !["waiting", "running"].includes(state.state);
    this.said.textContent = saidOf(state, { drawing: this.seconds, took: (performance.now() - this.began) / 1000 });
    this.slider.root.hidden = state.state !== "done";
    if (state.state !== "done") return;
    this.slider.show(state.shared, state.unshared);
    this.slider.fit();
    if (!this.list || document.activeElement !== this.list) this.slider.range.focus();
  }

  close() {
    this.dialog.close();
  }

  closed() {
    this.comparison.cancel(); // nobody would see what comes
    this.slider.remove();
    this.dialog.remove();
    if (open === this) open = null;
  }
}

/** What is said of a comparison. */
export function saidOf(state, { drawing = null, took = 0 } = {}) {
  if (state.state === "done") return `${differenceOf(state)} · ${text("compare.took", { time: inWords(took) })}`;
  if (state.state === "running" && typeof state.share === "number") {
    return text("compare.drawing", { percent: Math.floor(100 * state.share) });
  }
  if (state.state === "failed") return state.message || text("compare.failed");
  if (state.state === "asks") {
    return drawing === null ? text("compare.asks") : text("compare.asks_timed", { time: inWords(drawing) });
  }
  return text(`compare.${state.state}`);
}

/** A difference in words: {word, mean, share} of `visible_difference` (hierdiff_core/measure/difference.py). */
export function differenceOf({ word, mean, share }) {
  const name = { "none visible": "none", slight: "slight", visible: "visible" }[word];
  const known = name ? text(`compare.difference_${name}`) : String(word);
  return `${known} · ${text("compare.pixels", { share: percent(share), mean: mean.toFixed(1) })}`;
}

export function shortened(prompt) {
  return prompt.length > LONGEST ? `${prompt.slice(0, LONGEST - 1)}…` : prompt;
}
