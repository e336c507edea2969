// Two pictures of one size on top of each other, and a line between them that the pointer and the keys move.

import { element } from "./panel.js";
import { text } from "./texts.js";

const STEP = 2; // percent that an arrow key moves the line

/** The left part shows one picture, the right part the other. */
export class AbSlider {
  constructor(parent) {
    this.root = element("div", "hierdiff-ab", parent);
    this.stage = element("div", "hierdiff-ab-stage", this.root);
    this.pictures = ["shared", "unshared"].map((name) => {
      const picture = element("img", `hierdiff-ab-${name}`, this.stage);
      picture.draggable = false;
      picture.alt = text(`compare.${name}`);
      const label = element("span", `hierdiff-ab-label hierdiff-ab-label-${name}`, this.stage);
      label.textContent = picture.alt;
      return picture;
    });
    element("div", "hierdiff-ab-line", this.stage).setAttribute("aria-hidden", "true");
    // a range lies over the pictures, unseen: keys, touch and readers of the screen know how to handle it
    this.range = element("input", "hierdiff-ab-range", this.stage);
    Object.assign(this.range, { type: "range", min: 0, max: 100, step: "any", value: 50 });
    this.range.setAttribute("aria-label", text("compare.slider"));
    this.range.addEventListener("input", () => this.move(Number(this.range.value)));
    this.range.addEventListener("keydown", (event) => this.key(event));
    // the line is where the pointer is; the range's own thumb would lie beside it near the edges
    for (const type of ["pointerdown", "pointermove"]) this.range.addEventListener(type, (event) => this.point(event));
    this.pictures[0].addEventListener("load", () => this.fit());
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.root);
    this.move(50);
  }

  remove() {
    this.sizes.disconnect();
  }

  /** Show two pictures, by their addresses. */
  show(shared, unshared) {
    [shared, unshared].forEach((url, i) => {
      if (this.pictures[i].getAttribute("src") !== url) this.pictures[i].src = url;
    });
  }

  /** As large as there is room, in the shape of the pictures. */
  fit() {
    const { naturalWidth, naturalHeight } = this.pictures[0];
    const { width, height } = fitted(naturalWidth, naturalHeight, this.root.clientWidth, this.root.clientHeight);
    // nothing is seen of it before there is a picture: the frame of its focus would be a dot
    Object.assign(this.stage.style, { width: `${width}px`, height: `${height}px`, opacity: width ? "" : "0" });
  }

  point(event) {
    if (event.type === "pointermove" && !(event.buttons & 1)) return;
    if (event.type === "pointerdown" && event.button !== 0) return;
    if (event.type === "pointerdown") {
      event.preventDefault(); // no thumb is dragged; what the press would have focused is focused here
      this.range.focus();
      this.range.setPointerCapture?.(event.pointerId);
    }
    event.stopPropagation(); // a node would move with it
    const { left, width } = this.stage.getBoundingClientRect();
    if (width) this.move((100 * (event.clientX - left)) / width);
  }

  key(event) {
    const to = movedBy(this.at, event.key);
    event.stopPropagation(); // the page has keys of its own
    if (to === undefined) return;
    event.preventDefault();
    this.move(to);
  }

  move(percent) {
    this.at = Math.min(Math.max(percent, 0), 100);
    this.range.value = this.at;
    this.range.setAttribute("aria-valuetext", text("compare.at", { percent: Math.round(this.at) }));
    this.stage.style.setProperty("--hierdiff-at", `${this.at}%`);
    this.stage.dataset.at = Math.round(this.at);
  }
}

/** Where a key moves the line; undefined: not ours. */
export function movedBy(at, key) {
  const by = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -10, PageUp: 10 };
  if (key === "Home") return 0;
  if (key === "End") return 100;
  return key in by ? Math.min(Math.max(at + by[key], 0), 100) : undefined;
}

/** The largest size of a picture's shape in a room. */
export function fitted(width, height, roomWidth, roomHeight) {
  if (!width || !height) return { width: 0, height: 0 };
  const scale = Math.max(Math.min(roomWidth / width, roomHeight / height), 0);
  return { width: Math.floor(width * scale), height: Math.floor(height * scale) };
}
