"""Shared steps as a patch of a MODEL: any sampler node and any guider of the host then share them.

The host's sampler runs on all N rows. The model is evaluated once for each cluster, on the cluster's mean
conditioning, and the result is copied to the cluster's rows. They stay bit-identical until the cluster splits, so every
sampler's history is right by construction.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP

from ...hierdiff_core.plan.one_prompt import set_of
from ...hierdiff_core.sampling.finite import latents_not_finite
from .block_samplers import check_block_sampler
from .clusters import WHOLE_RUN, part_of_plan, rows_for_all
from .cond_rows import check_conds, check_prompts, check_rows_differ, picture_groups, prompts_of
from .decoration import report_in_running_node
from .dry_run import sampler_name
from .edited_run import in_time
from .encode_set import name_of
from .finishing import saved_as_finished
from .fresh_noise import rerolled_noise
from .group_runs import Drawing, Inputs
from .guard import RUN_KEY
from .keeping import Keeping
from .late_rerolls import last_reroll
from .measured import verdict_on_run
from .noise_levels import noise_levels
from .one_prompt import conds_of_prompt, row_of_prompt
from .partial_entries import assigned
from .per_prompt import SHARE_IF_EQUAL, START, Plans, equal_inputs, own_inputs, parted_by
from .plan_rows import plan_rows, with_leaves
from .rows_alone import HostEncoding, encode_rows, mark_rows
from .run_checks import check_context_windows, check_no_video, check_one_medium
from .run_guidance import RunGuidance, check_guider
from .run_price import price_of
from .same_draws import SameDraws
from .same_pictures import check_pictures_differ, same_pictures
from .sampler_noise import noise_of_seeds, rows_of_seeds
from .sharing_run import SharingRun
from .step_caches import check_step_caches

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ...hierdiff_core.plan.plan import Plan
    from .finishing import Saving

KEY = "hierdiff"  # of the wrappers
ONE_OR_EACH = "give one latent, or one for each prompt"
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
        Gets the report of each run; with a VAE also data for the page, by name.
    strict : bool
        As the Hierarchical Guider: the noise must be Shared Noise's already, and a run of another number of steps takes
        the whole plan, resampled, unless it goes on from another. Else the first row's noise is everybody's, and a run
        may be a part of the plan.
    per_prompt : one of CHOICES in `per_prompt`
        What becomes of inputs that differ between prompts: latents, masks, ControlNet images, entries with hooks.
    vae : the host's VAE or None
        Decodes the final pictures for the tree.
    keeping : Keeping or None
        Where rows are kept for later runs, and what is told of the plan's edits.
    saving : Saving or None
        Saves pictures as they are finished: the run then draws one group of subtrees after another.
    """

    plan: Plan
    micro_batch: int = 0
    show_tree: bool = True
    tell: Callable[..., object] = report_in_running_node
    strict: bool = False
    per_prompt: str = SHARE_IF_EQUAL
    vae: Any = None
    keeping: Keeping | None = None
    saving: Saving | None = None

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
        if self.saving is not None:
            check_no_video(latent_image)
        given = guider.conds
        found = plan_rows(given.get("positive", []), set_of(self.plan))
        guider.conds = found.of_conds(given)
        check_prompts(guider.conds.get("positive", []), set_of(self.plan))
        guider.conds = conds_of_prompt(guider.conds, self.plan)
        noise, latent_image, denoise_mask = (
            row_of_prompt(found.of(rows), self.plan) for rows in (noise, latent_image, denoise_mask)
        )
        if len(sigmas) < 2:
            self.tell(NO_STEPS)
            return rows_for_all(latent_image, self.plan.num_prompts, "the latent batch", ONE_OR_EACH)
        check_block_sampler(sampler)
        check_step_caches(guider.model_options, guider.model_patcher)
        check_context_windows(guider.model_options, latent_image, self.plan.num_prompts)
        if self.plan.guidance is not None:
            check_guider(guider, self.plan.guidance)
        guider.conds = assigned(guider.conds, self.plan)
        rows = self._rows(noise, latent_image, denoise_mask, guider.model_patcher.load_device)
        plans, first_step, last, notes = self._plans_of_run(guider, sampler, sigmas, rows)
        conds = {side: list(entries) for side, entries in guider.conds.items()}  # the host encodes its own
        leaves = with_leaves(conds, given, found, plans.run, self.keeping and self.keeping.rows)
        guider.conds = leaves.conds
        notes += leaves.notes
        takes_first = self.per_prompt != SHARE_IF_EQUAL
        run = SharingRun(plans.run, sigmas, self.micro_batch, seed or 0, first_step, takes_first, leaves.rows)
        run.last_reroll = last
        run.current.equal_inputs = functools.cache(lambda: equal_inputs(conds, plans.telling, self.plan.num_prompts))
        noise = rerolled_noise(rows.noise, plans.run, seed or 0) if first_step == 0 else rows.noise
        noise = run.current.all_rows(noise, "the noise", "use Shared Noise")
        rows = rows._replace(noise=noise)
        plain = {side: list(entries) for side, entries in leaves.conds.items()}
        inputs = Inputs(rows, sampler, sigmas, disable_pbar, host_options, callback, seed)
        by_first = takes_first and self._has_own(conds, rows)
        drawing = Drawing(executor, run, inputs, run.sampler(sampler), plain, by_first)
        run.rows_alone = mark_rows(guider.conds, {self.plan.num_prompts, run.current.rows})
        guider.model_options.setdefault("transformer_options", {})[RUN_KEY] = run  # the host made a copy for this run
        put_first(guider.model_options, WrappersMP.PREDICT_NOISE)
        self._guide(run, guider, sigmas)
        if self.keeping is not None:
            notes += self.keeping.begin(run, guider, sampler, sigmas, rows, leaves.conds, seed)
        run.caches.witness.watch(guider.model_options)
        with run.model_calls.graphs.of_run(guider):
            samples, report, data = self._drawn(drawing, plans)
        self.tell("\n".join([report, *notes]), **data)
        return samples

    def _drawn(self, drawing: Drawing, plans: Plans) -> tuple[torch.Tensor, str, dict[str, Any]]:
        """What a run makes, its report, and data for the page."""
        run, given, guider = drawing.run, drawing.inputs, drawing.executor.class_obj
        model = guider.model_patcher.model
        known = self.plan, plans.run, guider, given.sampler, given.sigmas, given.rows.latents.shape
        verdict = run.decorations.attempt("what was measured", verdict_on_run, *known)
        vae = self.vae if self.saving is None else self.saving.vae
        safe = contextlib.nullcontext() if self.keeping is None else self.keeping.kept_safe()
        with safe, run.tree(model.latent_format, self.show_tree, verdict and verdict.told, vae):
            if self.saving is None:
                samples, saved = drawing.one_batch(), []
            else:
                samples, saved = saved_as_finished(drawing, self.saving)
            run.finish(model, samples)
        measured = [verdict.line] if verdict else []
        report = self._report(run, plans, given.rows, guider.conds, samples)  # first: its time is that of the sampling
        data, pictures = run.final_pictures(model, samples)
        if self.saving is not None:
            self.saving.vae.forget()
        if self.keeping is not None:
            data = {**data, **self.keeping.told_of(run)}
            run.offer_price(price_of(run, self.keeping))
        return samples, "\n".join([report, *measured, *pictures, *saved]), data

    def _has_own(self, conds, rows: Rows) -> bool:
        """Whether prompts have inputs of their own."""
        return bool(own_inputs(conds, {START: rows.latents, "noise masks": rows.mask}, self.plan.num_prompts))

    def _guide(self, run: SharingRun, guider, sigmas) -> None:
        """Let a run obey the plan's course of guidance, if there is one."""
        course = self.plan.guidance
        if course is None or not (course.cuts or course.boosts):
            return
        levels = noise_levels(guider.model_patcher.get_model_object("model_sampling"), sigmas[:-1])
        run.guidance = RunGuidance(course, guider, run.current, levels, lambda: run.model_calls.rows_inside)
        run.guidance.attach(guider.model_options)

    def _rows(self, noise, latent_image, denoise_mask, device: torch.device) -> Rows:
        """Latents, noise and mask with a row for each prompt."""
        count = self.plan.num_prompts
        latents = rows_for_all(latent_image, count, "the latent batch", ONE_OR_EACH)
        if self.strict:
            noise = rows_for_all(noise, count, "the noise", "use Shared Noise")
        else:
            noise = self._noise_of_all(noise[:1], latents[:1], device)
        if denoise_mask is not None and (denoise_mask.shape[0] > 1 or denoise_mask.ndim == latents.ndim):
            # newer hosts have made it for the number of latents by now, and do so no more
            denoise_mask = denoise_mask[None] if denoise_mask.ndim == 2 else denoise_mask
            denoise_mask = rows_for_all(denoise_mask, count, "the noise mask", "give one mask, or one for each prompt")
        return Rows(latents, noise, denoise_mask)

    def _noise_of_all(self, noise, latent, device):
        """The sampler's noise for its first latent for all prompts, but for those with a seed of their own.

        These have what the host makes of their seed; where no noise is added, nobody has any.
        """
        count, own = self.plan.num_prompts, self.plan.seeds
        rows = rows_for_all(noise, count, "the noise", "use Shared Noise")
        if own is None or not noise.any():
            return rows
        draws = SameDraws(device)  # the host seeds the global generators, with which the sampler goes on
        with_own_seeds = noise_of_seeds(latent, own)
        draws.undo()
        return rows_of_seeds(rows.clone(), own, with_own_seeds)

    def _plans_of_run(self, guider, sampler, sigmas, rows: Rows) -> tuple[Plans, int, int | None, list[str]]:
        """The plan for a run of these sigmas, as it is and as it can be run; its step to begin with; warnings.

        Before these the last step from which a reroll changes a picture; None where nobody knows or asks.
        """
        conds, sigma_max = guider.conds, float(guider.model_patcher.get_model_object("model_sampling").sigma_max)
        for name, entries in conds.items():
            check_conds(entries, name, self.plan.num_prompts)
        own = own_inputs(conds, {START: rows.latents, "noise masks": rows.mask}, self.plan.num_prompts)
        if not (self.strict or own):
            check_rows_differ(conds, list(rows), self.plan)
        notes = check_pictures_differ(guider, sampler, KEY, rows, self.plan) if self.strict and not own else []
        if self.strict and not is_part(guider, sigmas, sigma_max, rows.noise):
            plan, first_step = self.plan.resampled(len(sigmas) - 1), 0
        else:
            plan, first_step = part_of_plan(self.plan, sigmas, sigma_max)
        last = last_reroll(guider, sampler, sigmas, rows.latents) if self.keeping or plan.rerolls else None
        late: list[str] = []
        if last is not None:
            last += first_step
            plan, late = in_time(plan, last, sampler_name(sampler.sampler_function))
        groups, goes_on = picture_groups(conds, [rows.latents, rows.mask], plan), not bool(rows.noise.any())
        takes_first = self.per_prompt != SHARE_IF_EQUAL
        return Plans.of(plan, groups, own, first_step, takes_first, goes_on), first_step, last, [*notes, *late]

    def _report(self, run, plans: Plans, rows: Rows, conds, samples):
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
        steps = slice(run.current.first_step, run.current.last_step + 1)
        last = run.current.plan.steps[run.current.last_step].first
        lines = [
            *([f"⚠ {problem}"] if problem else []),
            *run.warnings(),
            *parted_prompts(plans.cut, plans.known, names),
            *parted_by(plans, steps),
            *misplaced(run, rows),
        ]
        if not run.current.is_short_of_last:
            compared = samples, last, names, run.current.equal_inputs
            lines += run.decorations.attempt("comparing the pictures", same_pictures, *compared, otherwise=[])
        return run.decorations.noted("\n".join([report, *lines]))


class Rows(NamedTuple):
    """What a run begins with, (N, ...) each; without a mask that is None."""

    latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor | None


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
    model_options = {} if model_options is None else model_options
    run = run_of(model_options)
    if run is None:
        return executor(x, timestep, model_options, *args, **kwargs)
    return run.sampler_call(executor, x, timestep, model_options, *args, **kwargs)


def calc_cond_batch(executor, model, conds, x_in, timestep, model_options, *args, **kwargs):
    """A CALC_COND_BATCH wrapper: evaluates one row for each cluster."""
    run = run_of(model_options)
    if run is None:  # somebody evaluates the model outside of a run
        return executor(model, conds, x_in, timestep, model_options, *args, **kwargs)
    return run.calc_cond_batch(executor, model, conds, x_in, timestep, model_options, *args, **kwargs)


def put_first(model_options: dict, kind: str) -> None:
    """Our wrapper of a kind before those of other nodes, in a run's own options.

    It then sees each call of the sampler once and at its own sigma, whether others repeat it, shift it or answer it.
    """
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {}).get(kind, {})
    rest = {key: wrappers.pop(key) for key in [key for key in wrappers if key != KEY]}
    wrappers.update(rest)


def run_of(model_options: dict) -> SharingRun | None:
    """The run that these options are of."""
    return model_options.get("transformer_options", {}).get(RUN_KEY)


def is_part(guider: comfy.samplers.CFGGuider, sigmas: torch.Tensor, sigma_max: float, noise: torch.Tensor) -> bool:
    """Whether a run of the Hierarchical Guider is a part of one, as Split Sigmas makes them.

    The first part ends above 0. The last takes a latent for each prompt, to which no noise is added; where it gets one
    latent for all, the plan begins with it.
    """
    if float(sigmas[-1]) > 0:
        return float(sigmas[0]) >= WHOLE_RUN * sigma_max
    return getattr(guider, "rows_given", 1) > 1 and not noise.any()


def misplaced(run: SharingRun, rows: Rows) -> list[str]:
    """A warning where a run from an empty latent was taken for the last steps of its plan."""
    if run.current.first_step == 0 or rows.latents.any() or not rows.noise.any():
        return []
    return [
        "⚠ the schedule begins below the model's largest sigma, as ddim_uniform does: the run was taken for the last "
        "steps of the plan, where less is shared; give the sampler as many steps as the plan has"
    ]


def parted_prompts(plan: Plan, parted: Plan, names: Sequence[str]) -> list[str]:
    """A warning where prompts of equal embeddings have pictures of their own, since their conditioning differs."""
    if parted is plan:
        return []
    last, labels = plan.steps[-1], parted.steps[-1].labels
    i = next((i for i, first in enumerate(last.first[last.labels]) if labels[i] != labels[first]), None)
    if i is None:
        return []
    return [
        f"⚠ {name_of(int(last.first[last.labels[i]]), names)} and {name_of(int(i), names)} have equal embeddings, but "
        "different conditioning: each gets its own image"
    ]
