"""Image sets from prompt sets for a fraction of the compute (Decatur et al., ICCV 2025). Knows nothing of ComfyUI."""

from .embeddings import PromptEmbeddings
from .kandinsky.decoding import decode
from .kandinsky.kandinsky import embed_prompts, sample
from .kandinsky.loading import load_decoder, load_prior
from .measure.calibration import calibrate
from .plan.linkage import flat_clusters, merge_errors, ward_linkage
from .plan.plan import Plan, Step, build_plan
from .plan.schedule import (
    falling_shape,
    linear_thresholds,
    reachable_saving,
    tau_for_root_share,
    tau_for_saving,
    thresholds_at,
)
from .plan.sensitivity import Sensitivity, read_sensitivity, write_sensitivity

__all__ = [
    "Plan",
    "PromptEmbeddings",
    "Sensitivity",
    "Step",
    "build_plan",
    "calibrate",
    "decode",
    "embed_prompts",
    "falling_shape",
    "flat_clusters",
    "linear_thresholds",
    "load_decoder",
    "load_prior",
    "merge_errors",
    "reachable_saving",
    "read_sensitivity",
    "sample",
    "tau_for_root_share",
    "tau_for_saving",
    "thresholds_at",
    "ward_linkage",
    "write_sensitivity",
]
