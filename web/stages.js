// Colours of the nodes by stage: of nodes that are added by hand, and of the templates (scripts/build_workflows.py reads
// them here); workflows keep their own.

export const STAGES = {
  prompts: [
    "HierDiffPromptSet",
    "HierDiffPromptTable",
    "HierDiffVariants",
    "HierDiffPriorEmbedding",
    "HierDiffClipEmbedding",
  ],
  load: [
    "HierDiffPriorLoader",
    "HierDiffDecoderLoader",
    "HierDiffSceneLoader",
    "HierDiffSensitivityLoader",
    "HierDiffKandinskyModel",
  ],
  plan: [
    "HierDiffWardLinkage",
    "HierDiffThresholdSchedule",
    "HierDiffPlanGuidance",
    "HierDiffCalibrate",
    "HierDiffCalibrateModel",
    "HierDiffAdvisor",
    "HierDiffAdvisorKandinsky",
    "HierDiffLoadAdvice",
    "HierDiffSavingPlan",
    "HierDiffPlanShard",
  ],
  sample: [
    "HierDiffBranchingSampler",
    "HierDiffKSampler",
    "HierDiffGuider",
    "HierDiffSharedNoise",
    "HierDiffShareSteps",
    "HierDiffUnshared",
    "HierDiffCompare",
    "HierDiffTrunk",
    "HierDiffWorkers",
    "HierDiffPick",
    "HierDiffContactSheet",
    "HierDiffSaveSet",
    "HierDiffSaveAsDrawn",
    "HierDiffSet",
  ],
};
export const COLORS = { load: "#353535", prompts: "#2a363b", plan: "#223b33", sample: "#3b2f22" };

/** The title colour of a node type, or undefined. */
export function stageColor(type) {
  const stage = Object.keys(STAGES).find((name) => STAGES[name].includes(type));
  return COLORS[stage];
}
