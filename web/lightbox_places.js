// Where somebody stands in a lightbox: in a list of pictures, or in the leaves of one of them. No page.

/** The places of a lightbox that is opened at a picture: a stack of {items, index}, of which the last is shown. */
export function opened(items, index) {
  return [{ items, index: within(items, index) }];
}

/** The picture that is shown. */
export function shownOf(places) {
  const { items, index } = places.at(-1);
  return items[index];
}

/** The pictures of the strip, and which of them is shown: the leaves of a branch (none yet), or what lies beside. */
export function stripOf(places) {
  const { items, index } = places.at(-1);
  const { leaves } = items[index];
  return leaves?.length ? { items: leaves, index: -1 } : { items, index };
}

/** Where a key leads: other places, the same where there is nothing further, null to close, undefined: not ours. */
export function moved(places, key) {
  const { items, index } = places.at(-1);
  const inside = Boolean(items[index].leaves?.length);
  const to = (next) => [...places.slice(0, -1), { items, index: within(items, next) }];
  switch (key) {
    case "Escape":
      return places.length > 1 ? places.slice(0, -1) : null;
    case "ArrowUp":
      return places.length > 1 ? places.slice(0, -1) : places;
    case "ArrowDown":
    case "Enter":
      return inside ? entered(places, 0) : places;
    case "ArrowRight":
      return inside ? entered(places, 0) : to(index + 1);
    case "ArrowLeft":
      return inside && items.length === 1 ? entered(places, items[index].leaves.length - 1) : to(index - 1);
    case "Home":
      return to(0);
    case "End":
      return to(items.length - 1);
    default:
      return undefined;
  }
}

/** The places after a picture of the strip was chosen. */
export function entered(places, index) {
  const { items } = stripOf(places);
  const inside = shownOf(places).leaves?.length;
  return [...(inside ? places : places.slice(0, -1)), { items, index: within(items, index) }];
}

function within(items, index) {
  return Math.min(Math.max(index, 0), items.length - 1);
}
