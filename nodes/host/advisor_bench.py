"""A MODEL as the advisor asks it (`hierdiff_core.measure.workbench`): drawn through Share Steps, as users draw it.

Legend: N prompts of a set, S of them sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy.patcher_extension import WrappersMP

from ...hierdiff_core.measure.adherence import adherence, adherence_passes
from ...hierdiff_core.measure.sampled import sampled_prompts, sampled_tree
from ...hierdiff_core.measure.workbench import Drawn
from ...hierdiff_core.sampling.microbatch import LARGEST_AUTO
from .adherence import ModelDenoiser
from .cond_rows import rows_of
from .fingerprint import model_fingerprint
from .measured import size_of
from .noise_levels import levels_of_steps
from .samplers import latents_for, make_guider, sample
from .samplers_by_name import sigmas_of
from .step_caches import EASYCACHE, LAZYCACHE, host_cache

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ...hierdiff_core.measure.ways import Way
    from ...hierdiff_core.plan.plan import Plan
    from ...hierdiff_core.plan.tree import PromptTree

COUNTING = "hierdiff_passes"  # key of the wrapper that counts them
LEAST_SIDE = 10  # of latents in which fine contrasts can be measured


class ModelWorkbench:
    """A MODEL, its settings and a few prompts of a set.

    Parameters
    ----------
    model : ModelPatcher
    positive, negative : list
        The host's CONDITIONING; positive has a row for each prompt of the set, negative too or one for all.
    latent : dict
        The host's LATENT; of several rows the first is taken.
    tree : PromptTree
        Of the whole set.
    sampler_name, scheduler : str
    steps : int
        Of full sampling.
    cfg : float
        1: no negative pass.
    seed : int
        Of the noise, and of the choice of prompts.
    samples : int
        Prompts that are drawn.
    vae : VAE, optional
        Decodes them, so that fine detail is measured on pictures; without one on latents, where they are large enough.
    try_caches : bool
        Whether the host's step caches are among the ways to draw.
    on_step : callable, optional
        Called after each step of each drawing.

    Raises
    ------
    ValueError
        If the conditioning does not fit the set, or there is nothing to sample from.
    """

    def __init__(
        self,
        model: ModelPatcher,
        positive: list,
        negative: list,
        latent: dict[str, Any],
        tree: PromptTree,
        *,
        sampler_name: str,
        scheduler: str,
        steps: int,
        cfg: float,
        seed: int = 0,
        samples: int = 8,
        vae: Any = None,
        try_caches: bool = False,
        on_step: Callable[[], Any] = lambda: None,
    ):
        self.rows = sampled_prompts(tree, samples, seed)
        self.tree = sampled_tree(tree, self.rows)
        chosen = self.rows.tolist()
        self.positive = rows_of(positive, chosen, tree.num_prompts, "positive")
        self.negative = rows_of(negative, chosen, tree.num_prompts, "negative")
        if not any(cond.shape[0] == len(chosen) for cond, _ in self.positive):
            raise ValueError("the positive conditioning has one row for all prompts; connect the one of CLIP Embedding")
        self.model, self.sampler_name, self.scheduler = model, sampler_name, scheduler
        self.steps, self.cfg, self.seed, self.vae, self.on_step = steps, cfg, seed, vae, on_step
        self.latents, self.mask = latents_for(model, latent["samples"][:1]), first_mask(latent)
        self.guided = cfg != 1 and bool(negative)
        carried = host_cache(model.model_options.get("transformer_options", {})) or ""
        self.caches: Sequence[str] = tuple(host_caches()) if try_caches and not carried else ()
        self.fingerprint = model_fingerprint(model)
        self.settings: Mapping[str, Any] = {
            "sampler": sampler_name,
            "scheduler": scheduler,
            "steps": steps,
            "cfg": float(cfg),
            "latent": size_of(self.latents.shape),
            "cache": carried,
            "detail": "pictures" if vae is not None else "latents" if large_enough(self.latents.shape) else "none",
        }
        self.adherence_passes = adherence_passes(1)
        self.levels(steps)

    def levels(self, steps: int) -> np.ndarray:
        """See `levels_of_steps`."""
        return levels_of_steps(self.model, steps, self.sampler_name, self.scheduler)

    def draw(self, way: Way, plan: Plan, repeat: int = 0) -> Drawn:
        """The sampled prompts by the host's sampler; their seed is the user's and `repeat`."""
        model, counted = self.model, [0]
        if way.cache:
            model = counting(host_caches()[way.cache](model), counted)
        guider = make_guider(
            model,
            self.positive,
            self.negative,
            self.cfg,
            plan,
            LARGEST_AUTO,
            show_tree=False,
            tell=lambda _: None,
        )
        sigmas = sigmas_of(model, plan.num_steps, self.sampler_name, self.scheduler)
        seed = (self.seed + repeat) % 2**64
        latents = sample(
            guider, self.latents, self.sampler_name, sigmas, seed, self.mask, callback=lambda *_: self.on_step()
        )
        return Drawn(latents.cpu(), self.pictures(latents), counted[0] or None)

    def pictures(self, latents: torch.Tensor) -> torch.Tensor | None:
        """(S, H, W, C) in which fine contrasts can be measured: decoded, or the latents; None where these are small."""
        if self.vae is not None:
            found = torch.cat([self.vae.decode(row[None]) for row in latents]).float().cpu()
        else:
            found = latents.float().cpu().movedim(1, -1)
        found = found.reshape(len(latents), -1, *found.shape[-2:])  # frames of a video, one below the other
        return found if min(found.shape[1:3]) >= LEAST_SIDE else None  # alike in all drawings

    def adherence(self, latents: torch.Tensor) -> np.ndarray:
        """How much each finished latent owes to its prompt: (S,) float64."""
        denoiser = ModelDenoiser(self.model, self.positive, self.negative, len(latents))
        return adherence(latents, denoiser.noised, denoiser.denoised, seed=self.seed % 2**32)


def large_enough(shape: Sequence[int]) -> bool:
    """Whether fine contrasts can be measured on latents (1, C, ..., H, W), frames one below the other."""
    return len(shape) > 3 and min(int(np.prod(shape[2:-1])), shape[-1]) >= LEAST_SIDE


def first_mask(latent: dict[str, Any]) -> torch.Tensor | None:
    """The noise mask of a LATENT's first row, or None."""
    mask = latent.get("noise_mask")
    return mask if mask is None or mask.ndim == 2 else mask[:1]


def host_caches() -> dict[str, Callable[[ModelPatcher], ModelPatcher]]:
    """The host's step caches that follow clusters which split, by name, as its nodes attach them by default."""
    try:
        from comfy_extras import nodes_easycache
    except ImportError:
        return {}
    nodes = {name: getattr(nodes_easycache, f"{name}Node", None) for name in (EASYCACHE, LAZYCACHE)}
    return {name: attaching(node) for name, node in nodes.items() if node is not None}


def attaching(node: Any) -> Callable[[ModelPatcher], ModelPatcher]:
    """What a cache's node does with its defaults."""
    defaults = {entry.id: entry.default for entry in node.define_schema().inputs if hasattr(entry, "default")}
    return lambda model: node.execute(model=model, **defaults).args[0]


def counting(model: ModelPatcher, counted: list[int]) -> ModelPatcher:
    """A clone of a MODEL that adds the rows which its network evaluates, behind whatever answers in its place."""
    patched = model.clone()

    def count(executor, x, *args, **kwargs):
        counted[0] += len(x)
        return executor(x, *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, COUNTING, count)
    return patched
