// One picture at full size with its prompt: arrows lead through its neighbours, and it can be saved, copied, dragged out.

import { entered, moved, opened, shownOf, stripOf } from "./lightbox_places.js";
import { element } from "./panel.js";
import { copyPicture, fileName, savePicture } from "./picture_files.js";
import { text } from "./texts.js";

/**
 * What other parts of the page offer for a picture: functions `(item) => action, actions or null`, where an action is
 * {label, run}, with a key that runs it also {key: as it is shown, pressed: as the browser calls it}. `run(item,
 * lightbox)` may close the lightbox, or tell something by `lightbox.say(text)`.
 */
export const lightboxActions = [];

const PLEASANT = 512; // pixels to which a smaller picture is enlarged
const LARGEST_FACTOR = 4;

let lightbox = null; // the one that is open

/**
 * Show a picture over the page.
 *
 * @param items    pictures: {url, title, text, actions: [{label, run}]}, and where there are: note (what the picture is
 *                 not), name (of the file that is saved), thumb() (an element for the strip), leaves (items below it),
 *                 source ({run, node, workflow, branch, prompts: their places in the set})
 * @param index    of the one to begin with
 * @param options  {label: of the window, for who cannot see it; onShow(item), onClose()}
 */
export function openLightbox(items, index = 0, options = {}) {
  lightbox?.close();
  if (items.length) lightbox = new Lightbox(items, index, options);
  return lightbox;
}

/** What is offered for the picture that is open has changed. */
export function offerAgain() {
  lightbox?.showButtons();
}

class Lightbox {
  constructor(items, index, options) {
    this.options = options;
    this.places = opened(items, index);
    this.build(options.label ?? text("lightbox.label"));
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.show();
    this.stage.focus();
  }

  build(label) {
    this.dialog = element("dialog", "hierdiff-lightbox");
    this.dialog.setAttribute("aria-label", label);
    const head = element("div", "hierdiff-lightbox-head", this.dialog);
    this.title = element("h2", "", head);
    this.buttons = element("div", "hierdiff-lightbox-buttons", head);
    const body = element("div", "hierdiff-lightbox-body", this.dialog);
    this.back = this.arrow(body, "‹", "previous", "ArrowLeft");
    this.stage = element("figure", "", body);
    this.stage.tabIndex = 0;
    this.forth = this.arrow(body, "›", "next", "ArrowRight");
    this.picture = element("img", "", this.stage);
    this.picture.draggable = true;
    const words = element("figcaption", "", this.dialog);
    this.text = element("div", "hierdiff-lightbox-text", words);
    this.note = element("div", "hierdiff-lightbox-note", words);
    this.strip = element("div", "hierdiff-lightbox-strip", this.dialog);
    this.strip.setAttribute("role", "group");
    this.strip.setAttribute("aria-label", text("lightbox.strip"));
    this.said = element("div", "hierdiff-lightbox-said", this.dialog);
    this.said.setAttribute("role", "status");
    this.listen();
  }

  listen() {
    const { dialog } = this;
    dialog.addEventListener("keydown", (event) => this.key(event));
    for (const type of ["keyup", "keypress", "wheel", "copy"]) dialog.addEventListener(type, (event) => event.stopPropagation());
    dialog.addEventListener("cancel", (event) => event.preventDefault()); // Escape is the keydown's
    dialog.addEventListener("click", (event) => event.target === dialog && this.close());
    dialog.addEventListener("close", () => this.closed());
    this.picture.addEventListener("load", () => this.loaded());
    this.picture.addEventListener("error", () => this.failed());
    this.picture.addEventListener("dragstart", (event) => this.drag(event));
  }

  arrow(parent, sign, name, key) {
    const made = element("button", "hierdiff-lightbox-arrow", parent);
    made.type = "button";
    made.textContent = sign;
    made.title = text(`lightbox.${name}`);
    made.setAttribute("aria-label", made.title);
    made.addEventListener("click", () => this.go(moved(this.places, key)));
    return made;
  }

  get item() {
    return shownOf(this.places);
  }

  show() {
    const { item } = this;
    const { items, index } = this.places.at(-1);
    this.showTitle();
    this.picture.alt = item.text;
    this.picture.hidden = !item.url;
    if (item.url) this.picture.src = item.url;
    this.text.textContent = item.text;
    this.note.textContent = item.note ?? "";
    this.back.disabled = index === 0 && !item.leaves;
    this.forth.disabled = index === items.length - 1 && !item.leaves;
    this.say("");
    this.showButtons();
    this.showStrip();
    this.options.onShow?.(item);
  }

  showTitle(size = "") {
    const { items, index } = this.places.at(-1);
    const place = items.length > 1 ? text("lightbox.place", { index: index + 1, count: items.length }) : "";
    this.title.textContent = [this.item.title, place, size].filter(Boolean).join(" · ");
  }

  /** Say how large the picture is, and enlarge a tiny one, by a whole factor. */
  loaded() {
    const { naturalWidth, naturalHeight, style } = this.picture;
    this.showTitle(`${naturalWidth} × ${naturalHeight}`);
    const factor = Math.max(1, Math.min(LARGEST_FACTOR, Math.floor(PLEASANT / Math.max(naturalWidth, naturalHeight, 1))));
    const highest = (100 * naturalWidth) / Math.max(naturalHeight, 1); // as wide as a picture of the room's height is
    style.width = factor > 1 ? `min(${naturalWidth * factor}px, ${highest}cqh)` : "";
  }

  showButtons() {
    const { item } = this;
    const more = [...(item.actions ?? []), ...lightboxActions.flatMap((offer) => offer(item) ?? [])];
    this.keys = new Map(more.filter(({ pressed }) => pressed).map(({ pressed, run }) => [pressed.toLowerCase(), run]));
    const own = [
      ...(this.places.length > 1 ? [{ label: text("lightbox.up"), key: "↑", run: () => this.go(moved(this.places, "ArrowUp")) }] : []),
      ...more,
      { label: text("lightbox.save"), key: "S", run: () => this.save() },
      { label: text("lightbox.copy"), key: "C", run: () => this.copy() },
      { label: text("lightbox.close"), key: "Esc", run: () => this.close() },
    ];
    const at = [...this.buttons.children].indexOf(document.activeElement);
    this.buttons.replaceChildren(...own.map((action) => this.button(action)));
    if (at >= 0) this.buttons.children[Math.min(at, own.length - 1)].focus();
  }

  button({ label, key, run }) {
    const made = element("button", "");
    made.type = "button";
    made.textContent = label;
    if (key) element("kbd", "", made).textContent = key;
    made.addEventListener("click", () => run(this.item, this));
    return made;
  }

  showStrip() {
    const { items, index } = stripOf(this.places);
    this.strip.hidden = items.length < 2;
    if (this.stripped !== items) {
      this.stripped = items;
      this.strip.replaceChildren(...items.map((item, i) => this.thumb(item, i)));
    }
    [...this.strip.children].forEach((made, i) => made.setAttribute("aria-current", String(i === index)));
    this.strip.children[Math.max(index, 0)]?.scrollIntoView?.({ block: "nearest", inline: "nearest" });
  }

  thumb(item, index) {
    const made = element("button", "hierdiff-lightbox-thumb");
    made.type = "button";
    made.title = item.text;
    made.setAttribute("aria-label", item.text);
    const picture = item.thumb?.();
    if (picture) made.append(picture);
    else made.textContent = index + 1;
    made.addEventListener("click", () => this.go(entered(this.places, index)));
    return made;
  }

  go(places) {
    if (!places) return this.close();
    const left = this.dialog.contains(document.activeElement) ? document.activeElement : null;
    this.places = places;
    this.show();
    if (!left?.isConnected || left.disabled) this.stage.focus(); // a button that is gone takes the focus with it
  }

  key(event) {
    event.stopPropagation(); // the page has keys of its own
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pressed = event.target.closest?.("button") && (event.key === "Enter" || event.key === " ");
    if (pressed) return;
    if (event.key === "Tab") return this.tab(event);
    const pressedKey = event.key.toLowerCase();
    const offered = this.keys.get(pressedKey);
    const letter = { s: () => this.save(), c: () => this.copy() }[pressedKey] ?? (offered && (() => offered(this.item, this)));
    const places = letter ? undefined : moved(this.places, event.key);
    if (!letter && places === undefined) return;
    event.preventDefault();
    if (letter) letter();
    else this.go(places);
  }

  /** The focus goes round in the window, and never out of it. */
  tab(event) {
    const stops = [...this.dialog.querySelectorAll("button:not(:disabled), [tabindex='0']")].filter((stop) => stop.offsetParent);
    const end = event.shiftKey ? stops[0] : stops.at(-1);
    if (document.activeElement !== end) return;
    event.preventDefault();
    (event.shiftKey ? stops.at(-1) : stops[0]).focus();
  }

  async save() {
    const { item } = this;
    const done = await savePicture(item).then(() => true, () => false);
    this.say(done ? text("lightbox.saved", { name: fileName(item) }) : text("lightbox.not_saved"));
  }

  async copy() {
    const done = await copyPicture(this.item.url).then(() => true, () => false);
    this.say(text(done ? "lightbox.copied" : "lightbox.not_copied"));
  }

  drag(event) {
    const url = new URL(this.item.url, location.href).href;
    event.dataTransfer.setData("DownloadURL", `image/png:${fileName(this.item)}:${url}`);
    event.dataTransfer.setData("text/uri-list", url);
  }

  /** A file that is gone, such as one of a server that was started again: what else there is of the picture. */
  failed() {
    const { item } = this;
    if (item.small && this.picture.getAttribute("src") !== item.small) {
      this.picture.src = item.small;
      this.note.textContent = text("lightbox.gone");
    }
  }

  say(words) {
    this.said.textContent = words;
  }

  close() {
    this.dialog.close();
  }

  closed() {
    if (lightbox === this) lightbox = null;
    this.dialog.remove();
    this.options.onClose?.(this.item);
  }
}
