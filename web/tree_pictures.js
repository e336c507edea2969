// The pictures of a tree at full size: which there are and where, and smaller ones of them to draw with.

const AT_ONCE = 2; // pictures that are fetched together
const MOST_KEPT = 160;
const SIDES = [128, 256, 512]; // pixels of the pictures that are drawn

/**
 * Pictures behind a node, one for each prompt in their order: of the nearest node behind it that shows so many.
 *
 * @param node     where the latents come from
 * @param nodeOf   function: id in the node's graph -> node
 * @param imagesOf function: node -> the pictures in its output, or undefined
 */
export function picturesBehind(node, count, nodeOf, imagesOf) {
  const seen = new Set([node]);
  for (let waiting = [node]; waiting.length; ) {
    const next = [];
    for (const found of waiting.flatMap((from) => nodesAfter(from, nodeOf))) {
      if (seen.has(found)) continue;
      seen.add(found);
      const images = imagesOf(found);
      if (images?.length === count) return images;
      next.push(found);
    }
    waiting = next;
  }
  return null;
}

/** Nodes that get what a node makes of pictures: its latents and its images. */
function nodesAfter(node, nodeOf) {
  const links = (node.outputs ?? []).filter(({ type }) => type === "LATENT" || type === "IMAGE").flatMap(({ links }) => links ?? []);
  const graph = node.graph;
  const targets = links.map((id) => graph?.links?.get?.(id) ?? graph?.links?.[id] ?? graph?.getLink?.(id));
  return targets.filter(Boolean).map((link) => nodeOf(link.target_id)).filter(Boolean);
}

/** What there is of the pictures of one panel's trees. */
export class TreePictures {
  /**
   * @param files    function: tree -> {run, folder, whole, files: {branch: name}} or null
   * @param address  function: {filename, subfolder, type} -> url
   * @param redraw   called when there is more to draw
   */
  constructor({ files, address, redraw, load = loaded }) {
    Object.assign(this, { files, address, redraw, load });
    this.behind = new WeakMap(); // tree -> pictures of later nodes, by prompt
    this.drawn = new Map(); // url and side -> picture, or null while it comes or where there is none
    this.queue = [];
    this.busy = 0;
  }

  /** Take note of what later nodes made of a tree's latents. */
  found(tree, images) {
    if (!images) return;
    this.behind.set(tree, images);
    this.redraw();
  }

  /** {url, whole} of a branch's picture; null where there is no file. `whole`: it is no preview. */
  of(tree, index) {
    const told = this.files(tree);
    const name = told?.run === tree.run ? told.files[index] : undefined;
    const own = name && { url: this.address({ filename: name, subfolder: told.folder, type: "temp" }), whole: told.whole };
    const branch = tree.branches[index];
    if (branch.stop !== tree.steps) return own ? { ...own, whole: false } : null;
    if (own?.whole) return own;
    const image = this.behind.get(tree)?.[branch.members[0]];
    return image ? { url: this.address(image), whole: true } : (own ?? null);
  }

  /** A picture {image, x, y, width, height} for a place of this many pixels, sharper than `small`; null until it is there. */
  sharper(tree, index, side, small) {
    if (tree.state === "running" || side <= 0.75 * Math.max(small.width, small.height)) return null;
    const url = this.of(tree, index)?.url;
    if (!url) return null;
    const pixels = SIDES.find((size) => size >= 1.5 * side) ?? SIDES.at(-1);
    const key = `${pixels} ${url}`;
    if (!this.drawn.has(key)) this.ask(key, url, pixels);
    const picture = this.drawn.get(key);
    return picture && { image: picture, x: 0, y: 0, width: picture.width, height: picture.height };
  }

  ask(key, url, pixels) {
    this.drawn.set(key, null);
    for (const oldest of this.drawn.keys()) {
      if (this.drawn.size <= MOST_KEPT) break;
      this.drawn.get(oldest)?.close?.();
      this.drawn.delete(oldest);
    }
    this.queue.push({ key, url, pixels });
    this.next();
  }

  async next() {
    if (this.busy >= AT_ONCE || !this.queue.length) return;
    const { key, url, pixels } = this.queue.pop(); // what was asked for last is in sight
    this.busy++;
    const picture = await this.load(url, pixels).catch(() => null);
    this.busy--;
    if (this.drawn.has(key)) this.drawn.set(key, picture);
    if (picture) this.redraw();
    this.next();
  }
}

/** A picture with sides of at most this many pixels. */
async function loaded(url, pixels) {
  const response = await fetch(url);
  if (!response.ok) return null;
  const whole = await createImageBitmap(await response.blob());
  const scale = Math.min(pixels / Math.max(whole.width, whole.height), 1);
  if (scale === 1) return whole;
  const [resizeWidth, resizeHeight] = [whole.width, whole.height].map((n) => Math.max(1, Math.round(n * scale)));
  const picture = await createImageBitmap(whole, { resizeWidth, resizeHeight, resizeQuality: "high" });
  whole.close();
  return picture;
}
