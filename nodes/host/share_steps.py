"""Shared steps as a patch of a MODEL: any sampler node and any guider of the host then share them.

The host's sampler runs on all N rows. The model is evaluated once for each cluster, on the cluster's mean
conditioning, and the result is copied to the cluster's rows. They stay bit-identical until the cluster splits, so every
sampler's history is right by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP

from ...hierdiff_core.plan.matching import separated
from ...hierdiff_core.sampling.finite import latents_not_finite
from .clusters import part_of_plan, rows_for_all
from .cond_rows import check_conds, check_prompts, check_rows_differ, picture_groups, prompts_of
from .decoration import report_in_running_node
from .encode_set import name_of
from .rows_alone import HostEncoding, encode_rows, mark_rows
from .same_pictures import check_pictures_differ, same_pictures
from .sharing_run import SharingRun
from .step_caches import check_step_caches

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ...hierdiff_core.plan.plan import Plan

KEY = "hierdiff"  # of the wrappers, and of a run in its transformer_options
ONE_OR_EACH = "give one latent, or one for each prompt"
EQUAL_AT_FIRST = (
    "begin with one latent for all prompts, or, for a second pass over finished images, connect the model from before "
    "its steps were shared"
)
NOT_FINITE = "load the model in another precision (--bf16-unet, --fp32-unet), or use another sampler or a lower cfg"
NO_STEPS = "⚠ no steps (denoise 0): nothing was sampled, each prompt keeps its input latent"


def share_steps(model: ModelPatcher, sharing: Sharing) -> ModelPatcher:
    """A clone of a MODEL that evaluates one row for each cluster of a plan.

    Parameters
    ----------
    model : ModelPatcher
    sharing : Sharing
        The plan, and how to run it.

    Returns
    -------
    patched : ModelPatcher
        Shares the steps of this plan; of one that `model` had before nothing is left.
    """
    patched = model.clone()
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, sharing.outer_sample),
        (WrappersMP.PREDICT_NOISE, predict_noise),
        (WrappersMP.SAMPLER_SAMPLE, sampler_sample),
        (WrappersMP.CALC_COND_BATCH, calc_cond_batch),
    ):
        patched.remove_wrappers_with_key(kind, KEY)
        patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


def shares_steps(model: ModelPatcher) -> bool:
    """Whether a MODEL was patched by `share_steps`."""
    return bool(model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY))


@dataclass(frozen=True, eq=False)
class Sharing:
    """What a patched MODEL knows: the same for all of its runs, each of which has a `SharingRun` of its own.

    Parameters
    ----------
    plan : Plan
    micro_batch : int
    show_tree : bool
        The browser shows the branches in the node that samples.
    tell : callable
        Gets the report of each run.
    strict : bool
        As the Hierarchical Guider: the noise must be Shared Noise's already, and a run of another number of steps takes
        the whole plan, resampled. Else the first row's noise is everybody's, and a run may be a part of the plan.
    """

    plan: Plan
    micro_batch: int = 0
    show_tree: bool = True
    tell: Callable[[str], object] = report_in_running_node
    strict: bool = False

    def outer_sample(
        self,
        executor,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: comfy.samplers.Sampler,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callable | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **host_options,
    ) -> torch.Tensor:
        """An OUTER_SAMPLE wrapper: makes the state of a run, and gives every prompt its row.

        Raises
        ------
        ValueError
            Before any model call, if something cannot be shared; it names what and how to mend it.
        """
        guider = executor.class_obj
        check_one_medium(host_options.get("latent_shapes"))
        check_prompts(guider.conds.get("positive", ()), self.plan)
        if len(sigmas) < 2:
            self.tell(NO_STEPS)
            return rows_for_all(latent_image, self.plan.num_prompts, "the latent batch", ONE_OR_EACH)
        check_step_caches(guider.model_options, guider.model_patcher.object_patches)
        plan, first_step = self._plan_of_run(guider, sigmas)
        parted = separated(plan, picture_groups(guider.conds, [latent_image, denoise_mask], plan))
        run = SharingRun(parted, sigmas, self.micro_batch, seed or 0, first_step)
        latents, noise, mask = self._rows(run, guider.conds, noise, latent_image, denoise_mask)
        notes = check_pictures_differ(guider, sampler, KEY, [latents, noise, mask], self.plan) if self.strict else []
        if "latent_shapes" in host_options:
            host_options["latent_shapes"] = [latents.shape]
        run.rows_alone = mark_rows(guider.conds, self.plan.num_prompts)
        shared = run.noise.shared_sampler(sampler)
        guider.model_options.setdefault("transformer_options", {})[KEY] = run  # the host made a copy for this run
        with run.tree(guider.model_patcher.model.latent_format, self.show_tree):
            watched = run.watched(callback)
            samples = executor(noise, latents, shared, sigmas, mask, watched, disable_pbar, seed, **host_options)
            run.finish(guider.model_patcher.model, samples)
        self.tell("\n".join([self._report(run, plan, guider.conds, samples), *notes]))
        return samples

    def _plan_of_run(self, guider, sigmas):
        """The plan for a run of these sigmas, and its step to begin with."""
        if self.strict:
            return self.plan.resampled(len(sigmas) - 1), 0
        sigma_max = float(guider.model_patcher.get_model_object("model_sampling").sigma_max)
        return part_of_plan(self.plan, sigmas, sigma_max)

    def _rows(self, run, conds, noise, latent_image, denoise_mask):
        """Latents, noise and mask with a row for each prompt; what cannot be shared is refused."""
        latents = run.current.all_rows(latent_image, "the latent batch", ONE_OR_EACH, EQUAL_AT_FIRST)
        noise = run.current.all_rows(noise if self.strict else noise[:1], "the noise", "use Shared Noise")
        if denoise_mask is not None and (denoise_mask.shape[0] > 1 or denoise_mask.ndim == latents.ndim):
            # newer hosts have made it for the number of latents by now, and do so no more
            denoise_mask = run.current.all_rows(denoise_mask, "the noise mask", "use one mask for all prompts")
        for name, entries in conds.items():
            check_conds(entries, name, run.current)
        if not self.strict:
            check_rows_differ(conds, [latent_image, denoise_mask], self.plan)
        return latents, noise, denoise_mask

    def _report(self, run, plan, conds, samples):
        """What was spent, with warnings.

        Raises
        ------
        ValueError
            If no latent is finite.
        """
        known = prompts_of(conds.get("positive", ()), self.plan.num_prompts)
        names = self.plan.prompts or next(known, [""] * self.plan.num_prompts)
        problem = latents_not_finite(samples, names, NOT_FINITE)
        report = run.decorations.attempt("the report", run.report, self.plan, otherwise="")
        lines = [*([f"⚠ {problem}"] if problem else []), *run.warnings(), *parted_prompts(plan, run.plan, names)]
        if not run.current.is_short_of_last:  # which the warnings tell of
            last = run.plan.steps[run.current.last_step].first
            lines += run.decorations.attempt(
                "comparing the pictures", same_pictures, samples, last, names, otherwise=[]
            )
        return run.decorations.noted("\n".join([report, *lines]))


def sampler_sample(
    executor, guider, sigmas, extra_args, callback, noise, latent_image=None, mask=None, *args, **kwargs
):
    """A SAMPLER_SAMPLE wrapper: the host has encoded the run's conditioning, and padded rows are encoded like that."""
    run = run_of(extra_args.get("model_options", {}))
    if run is not None and hasattr(guider, "inner_model"):
        encoding = HostEncoding(guider.inner_model, noise, latent_image, mask, {"seed": extra_args.get("seed")})
        encode_rows(guider.conds, run.rows_alone, encoding)
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, mask, *args, **kwargs)


def predict_noise(executor, x, timestep, model_options=None, *args, **kwargs):
    """A PREDICT_NOISE wrapper: makes the clusters of this call's sigma current."""
    run = run_of(model_options or {})
    if run is not None:
        run.look_up(x, timestep)
    return executor(x, timestep, model_options or {}, *args, **kwargs)


def calc_cond_batch(executor, model, conds, x_in, timestep, model_options, *args, **kwargs):
    """A CALC_COND_BATCH wrapper: evaluates one row for each cluster."""
    run = run_of(model_options)
    if run is None:  # somebody evaluates the model outside of a run
        return executor(model, conds, x_in, timestep, model_options, *args, **kwargs)
    return run.model_calls.calc_cond_batch(executor, model, conds, x_in, timestep, model_options, *args, **kwargs)


def run_of(model_options: dict) -> SharingRun | None:
    """The run that these options are of."""
    return model_options.get("transformer_options", {}).get(KEY)


def check_one_medium(latent_shapes: list | None) -> None:
    """Refuse what the host has packed into one tensor.

    Raises
    ------
    ValueError
        If there are several media.
    """
    if latent_shapes is not None and len(latent_shapes) > 1:
        raise ValueError("the latent batch is a nested latent (several media in one); step sharing takes one medium")


def parted_prompts(plan: Plan, parted: Plan, names: Sequence[str]) -> list[str]:
    """A warning where prompts of equal embeddings have pictures of their own, since their conditioning differs."""
    if parted is plan:
        return []
    last, labels = plan.steps[-1], parted.steps[-1].labels
    i = next(i for i, first in enumerate(last.first[last.labels]) if labels[i] != labels[first])
    return [
        f"⚠ {name_of(int(last.first[last.labels[i]]), names)} and {name_of(int(i), names)} have equal embeddings, but "
        "different conditioning: each gets its own image"
    ]


class SharingGuider(comfy.samplers.CFGGuider):
    """The host's CFG guider of a MODEL whose steps it shares.

    Parameters
    ----------
    model_patcher : ModelPatcher
        Not patched yet.
    sharing : Sharing

    Notes
    -----
    Each prompt has its row before the host looks: without any sigma it hands on the latents and calls no wrapper, and
    newer hosts make masks for as many latents as there are.
    """

    def __init__(self, model_patcher: ModelPatcher, sharing: Sharing):
        super().__init__(share_steps(model_patcher, sharing))
        self.sharing = sharing

    def sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """The host's `CFGGuider.sample`."""
        check_prompts(self.original_conds.get("positive", ()), self.sharing.plan)
        latents = rows_for_all(latent_image, self.sharing.plan.num_prompts, "the latent batch", ONE_OR_EACH)
        if len(sigmas):
            return super().sample(noise, latents, sampler, sigmas, *args, **kwargs)
        self.sharing.tell(NO_STEPS)
        return latents
