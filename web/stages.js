// Colours of the nodes by stage, for nodes that are added by hand; workflows keep their own.

const STAGES = {
  prompts: ["HierDiffPromptSet", "HierDiffPriorEmbedding", "HierDiffClipEmbedding"],
  load: ["HierDiffPriorLoader", "HierDiffDecoderLoader", "HierDiffSensitivityLoader", "HierDiffKandinskyModel"],
  plan: ["HierDiffWardLinkage", "HierDiffThresholdSchedule", "HierDiffCalibrate", "HierDiffCalibrateModel"],
  sample: [
    "HierDiffBranchingSampler",
    "HierDiffKSampler",
    "HierDiffGuider",
    "HierDiffSharedNoise",
    "HierDiffShareSteps",
    "HierDiffContactSheet",
    "HierDiffSaveSet",
  ],
};
// scripts/build_workflows.py gives the templates the same
const COLORS = { load: "#353535", prompts: "#2a363b", plan: "#223b33", sample: "#3b2f22" };

/** The title colour of a node type, or undefined. */
export function stageColor(type) {
  const stage = Object.keys(STAGES).find((name) => STAGES[name].includes(type));
  return COLORS[stage];
}
