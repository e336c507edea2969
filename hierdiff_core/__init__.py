"""Image sets from prompt sets for a fraction of the compute (Decatur et al., ICCV 2025). Knows nothing of ComfyUI."""

from .embeddings import PromptEmbeddings
from .kandinsky import decode, embed_prompts, sample
from .linkage import flat_clusters, ward_linkage
from .loading import load_decoder, load_prior
from .plan import Plan, Step, build_plan
from .schedule import linear_thresholds, reachable_saving, tau_for_root_share, tau_for_saving

__all__ = [
    "Plan",
    "PromptEmbeddings",
    "Step",
    "build_plan",
    "decode",
    "embed_prompts",
    "flat_clusters",
    "linear_thresholds",
    "load_decoder",
    "load_prior",
    "reachable_saving",
    "sample",
    "tau_for_root_share",
    "tau_for_saving",
    "ward_linkage",
]
