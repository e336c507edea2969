// A tree of four prompts, two of them equal, in ten steps; and an `Image` as far as trees need one.

export const PROMPTS = ["cat", "dog", "owl", "dog"];
export const BEGIN = {
  kind: "begin",
  run: "r",
  node: "5",
  workflow: "w",
  steps: 10,
  prompts: PROMPTS,
  branches: [
    [0, 4, -1, []],
    [4, 10, 0, [2]],
    [4, 7, 0, []],
    [7, 10, 2, [0]],
    [7, 10, 2, [1, 3]],
  ],
};

/** `leaves` branches that part after the first of ten steps. */
export function fan(leaves) {
  const branches = Array.from({ length: leaves }, (_, i) => [1, 10, 0, [i]]);
  const prompts = branches.map((_, i) => `prompt ${i}`);
  return { ...BEGIN, prompts, branches: [[0, 1, -1, []], ...branches] };
}

export class FakeImage {
  async decode() {
    if (this.src === "broken") throw new Error("no picture");
  }
}
