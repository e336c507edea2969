// Where an axis of steps has its numbers.

const APART = 28; // pixels between two numbers, at least

/** The steps from 0 to `steps` that are written on an axis of this width: round numbers, far enough apart. */
export function ticks(steps, width) {
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((n) => (steps / n) * APART <= width) ?? 1000;
  return Array.from({ length: Math.floor(steps / every) + 1 }, (_, i) => i * every);
}
