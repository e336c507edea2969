// The panel of Pick: pictures to choose from while a run waits, and afterwards which of them went on.

import { element, makePanel, oncePerFrame, passToGraph } from "./panel.js";
import { layoutFor, placeAfter, rangesOf } from "./picks.js";
import { text } from "./texts.js";

export const MIN_HEIGHT = 260;
const LEAST_WIDTH = 88; // pixels of a picture
const GAP = 6; // as in pick.css
const CAPTION = 16 + GAP; // pixels below it, with the gap

export function addPickStyle() {
  const link = element("link", "", document.head);
  link.rel = "stylesheet";
  link.href = new URL("./pick.css", import.meta.url).href;
}

/**
 * @param source  {question(), shown(), left(question), choice(), remember(text), answer(question, chosen), cancel(question),
 *                address(file)}: what is asked and what was chosen last, or null; and what the user does with it
 */
export class PickPanel {
  constructor(app, source) {
    Object.assign(this, { source, question: null, drawn: null, chosen: new Set(), place: 0, shape: 1, columns: 1 });
    Object.assign(this, makePanel(text("pick.label")));
    this.root.classList.add("hierdiff-pick");
    this.root.removeAttribute("tabindex"); // its pictures take the keys
    this.makeBar();
    this.view.replaceChildren();
    this.grid = element("div", "hierdiff-pick-grid", this.view);
    this.grid.setAttribute("role", "listbox");
    this.grid.setAttribute("aria-multiselectable", "true");
    this.grid.setAttribute("aria-label", text("pick.title"));
    this.note = element("div", "hierdiff-note", this.view);
    this.makeFoot();
    this.layout = oncePerFrame(() => this.layoutNow());
    this.sizes = new ResizeObserver(this.layout);
    this.sizes.observe(this.view);
    this.root.addEventListener("keydown", (event) => this.pressed(event));
    this.grid.addEventListener("click", (event) => this.clicked(event));
    passToGraph(this.root, app, () => this.view.scrollHeight > this.view.clientHeight + 1);
    this.refresh();
  }

  remove() {
    clearInterval(this.timer);
    this.sizes.disconnect();
  }

  button(parent, name, work) {
    const made = element("button", "", parent);
    made.type = "button";
    made.textContent = text(`pick.${name}`);
    made.title = text(`pick.${name}_tip`);
    made.addEventListener("click", work);
    return made;
  }

  makeBar() {
    this.status.setAttribute("role", "status");
    this.all = this.button(this.bar, "all", () => this.choose(this.question?.pictures.map((_, i) => i) ?? []));
    this.none = this.button(this.bar, "none", () => this.choose([]));
    this.again = this.button(this.bar, "again", () => this.source.remember(""));
  }

  makeFoot() {
    this.foot = element("div", "hierdiff-pick-foot", this.root);
    const label = element("label", "", this.foot);
    this.keep = element("input", "", label);
    this.keep.type = "checkbox";
    element("span", "", label).textContent = text("pick.remember");
    label.title = text("pick.remember_tip");
    this.stop = this.button(this.foot, "cancel", () => this.source.cancel(this.question));
    this.go = this.button(this.foot, "go", () => this.answer());
    this.go.classList.add("hierdiff-pick-go");
  }

  /** Show what is asked; else what was chosen last. */
  refresh() {
    const question = this.source.question();
    const shown = question ?? this.source.shown();
    if (question !== this.question) this.begin(question);
    if (shown !== this.drawn) this.draw(shown);
    if (!question && shown) this.chosen = new Set(shown.chosen);
    this.update();
  }

  begin(question) {
    const before = this.source.shown();
    const same = question && before?.how === "answered" && String(before.texts) === String(question.texts);
    Object.assign(this, { question, place: 0, chosen: new Set(same ? before.chosen : []) });
    this.keep.checked = false;
    clearInterval(this.timer);
    if (!question) return;
    this.timer = setInterval(() => this.update(), 1000);
    this.announce.textContent = text("pick.asks", { count: question.pictures.length });
  }

  draw(shown) {
    this.drawn = shown;
    this.grid.replaceChildren(...(shown?.pictures ?? []).map((file, i) => this.option(file, shown.texts[i] ?? "", i)));
    this.layout();
  }

  option(file, prompt, i) {
    const made = element("div", "hierdiff-pick-option");
    Object.assign(made.dataset, { number: i });
    made.setAttribute("role", "option");
    made.setAttribute("aria-label", `${i} ${prompt}`);
    made.title = prompt;
    const picture = element("img", "", made);
    Object.assign(picture, { alt: "", draggable: false, loading: "lazy", src: this.source.address(file) });
    if (i === 0) picture.addEventListener("load", () => this.shapedAs(picture));
    const caption = element("div", "hierdiff-pick-caption", made);
    element("b", "", caption).textContent = i;
    element("span", "", caption).textContent = prompt;
    return made;
  }

  shapedAs({ naturalWidth, naturalHeight }) {
    this.shape = naturalWidth / naturalHeight || 1;
    this.layout();
  }

  layoutNow() {
    const count = this.grid.children.length;
    const [width, height] = [this.view.clientWidth - 12, this.view.clientHeight - 12];
    if (!count || width <= 0) return;
    const { columns, width: each } = layoutFor(count, width, height, this.shape, CAPTION, LEAST_WIDTH, GAP);
    this.columns = columns;
    this.grid.style.setProperty("--hierdiff-columns", columns);
    this.grid.style.setProperty("--hierdiff-width", `${each}px`);
    this.grid.style.setProperty("--hierdiff-shape", this.shape);
  }

  update() {
    const asks = Boolean(this.question);
    const remembered = !asks && this.source.choice().trim() !== "";
    this.root.dataset.asks = asks;
    this.root.dataset.left = asks ? this.source.left(this.question) : "";
    this.status.textContent = asks ? this.saidOfQuestion() : remembered ? text("pick.remembered", { choice: this.source.choice() }) : "";
    this.bar.hidden = !asks && !remembered;
    for (const shown of [this.all, this.none, this.foot]) shown.hidden = !asks;
    this.again.hidden = !remembered;
    this.note.hidden = this.grid.children.length > 0;
    this.note.textContent = text("pick.empty");
    this.go.textContent = text("pick.go", { count: this.chosen.size });
    this.go.disabled = this.chosen.size === 0;
    [...this.grid.children].forEach((option, i) => {
      option.setAttribute("aria-selected", String(this.chosen.has(i)));
      option.tabIndex = asks && i === this.place ? 0 : -1;
    });
  }

  saidOfQuestion() {
    const [count, left] = [this.question.pictures.length, this.source.left(this.question)];
    return text("pick.status", { chosen: this.chosen.size, count, left: timeLeft(left) });
  }

  choose(numbers) {
    this.chosen = new Set(numbers);
    this.update();
  }

  toggle(i) {
    if (!this.chosen.delete(i)) this.chosen.add(i);
    this.update();
  }

  clicked(event) {
    const option = event.target.closest?.(".hierdiff-pick-option");
    if (!option || !this.question) return;
    const [i, from] = [Number(option.dataset.number), this.place];
    this.place = i;
    if (event.shiftKey) {
      for (let each = Math.min(i, from); each <= Math.max(i, from); each++) this.chosen.add(each);
      this.update();
    } else this.toggle(i);
    option.focus({ preventScroll: true });
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation(); // the page has keys of its own, one of which deletes the node
    if (!this.question || event.target.closest?.("button, input")) return;
    const to = placeAfter(event.key, this.place, this.grid.children.length, this.columns);
    if (to !== null) this.moveTo(to);
    else if (event.key === " ") this.toggle(this.place);
    else if (event.key === "Enter") this.answer();
    else if (event.key.toLowerCase() === "a") this.all.click();
    else if (event.key.toLowerCase() === "n") this.none.click();
    else return;
    event.preventDefault();
  }

  moveTo(place) {
    this.place = place;
    this.update();
    const option = this.grid.children[place];
    option?.focus({ preventScroll: true });
    option?.scrollIntoView?.({ block: "nearest" });
  }

  async answer() {
    const { question } = this;
    if (!question || !this.chosen.size || this.sending) return;
    this.sending = true;
    const keep = this.keep.checked; // the next question begins without
    const chosen = [...this.chosen].sort((a, b) => a - b);
    const wrong = await this.source.answer(question, chosen);
    this.sending = false;
    if (wrong) this.status.textContent = text("pick.failed", { reason: wrong });
    else if (keep) this.source.remember(rangesOf(chosen));
  }
}

/** Seconds as people read a clock. */
export function timeLeft(seconds) {
  if (seconds < 120) return text("pick.seconds", { seconds });
  return text("pick.minutes", { minutes: Math.round(seconds / 60) });
}
