"""Image sets from prompt sets for a fraction of the compute (Decatur et al., ICCV 2025). Knows nothing of ComfyUI.

The names below are the library. Each is imported when it is first used: torch and diffusers take seconds, and planning
needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .embeddings import PromptEmbeddings
    from .kandinsky.calibration import calibrate
    from .kandinsky.decoder import sample
    from .kandinsky.decoding import decode
    from .kandinsky.loading import load_decoder, load_prior
    from .kandinsky.prior import embed_prompts
    from .plan.budget import Budget, reachable_saving, tau_for_root_share, tau_for_saving
    from .plan.building import build_plan, plan_for
    from .plan.guidance import GuidanceCourse
    from .plan.linkage import flat_clusters, merge_errors, ward_linkage
    from .plan.plan import Plan
    from .plan.plan_file import read_plan, write_plan
    from .plan.profile import Profile, falling_shape, linear_thresholds, thresholds_at
    from .plan.sensitivity import Sensitivity, read_sensitivity, write_sensitivity
    from .plan.steps import Step
    from .plan.tree import PromptTree
    from .sampling.observer import Observer
    from .sampling.store import Store
    from .sampling.trunk_files import TrunkFolder

__version__ = "0.1.0"  # as in pyproject.toml, which ComfyUI's registry reads

_MODULES = {
    "Budget": "plan.budget",
    "GuidanceCourse": "plan.guidance",
    "Observer": "sampling.observer",
    "Plan": "plan.plan",
    "Profile": "plan.profile",
    "PromptEmbeddings": "embeddings",
    "PromptTree": "plan.tree",
    "Sensitivity": "plan.sensitivity",
    "Step": "plan.steps",
    "Store": "sampling.store",
    "TrunkFolder": "sampling.trunk_files",
    "build_plan": "plan.building",
    "calibrate": "kandinsky.calibration",
    "decode": "kandinsky.decoding",
    "embed_prompts": "kandinsky.prior",
    "falling_shape": "plan.profile",
    "flat_clusters": "plan.linkage",
    "linear_thresholds": "plan.profile",
    "load_decoder": "kandinsky.loading",
    "load_prior": "kandinsky.loading",
    "merge_errors": "plan.linkage",
    "plan_for": "plan.building",
    "reachable_saving": "plan.budget",
    "read_plan": "plan.plan_file",
    "read_sensitivity": "plan.sensitivity",
    "sample": "kandinsky.decoder",
    "tau_for_root_share": "plan.budget",
    "tau_for_saving": "plan.budget",
    "thresholds_at": "plan.profile",
    "ward_linkage": "plan.linkage",
    "write_plan": "plan.plan_file",
    "write_sensitivity": "plan.sensitivity",
}
__all__ = [
    "Budget",
    "GuidanceCourse",
    "Observer",
    "Plan",
    "Profile",
    "PromptEmbeddings",
    "PromptTree",
    "Sensitivity",
    "Step",
    "Store",
    "TrunkFolder",
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
    "plan_for",
    "reachable_saving",
    "read_plan",
    "read_sensitivity",
    "sample",
    "tau_for_root_share",
    "tau_for_saving",
    "thresholds_at",
    "ward_linkage",
    "write_plan",
    "write_sensitivity",
]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__():
    return sorted({*globals(), *_MODULES})
