"""Step sharing for the host's own samplers.

The host's sampler runs on all N rows. The model is evaluated once for each cluster, on the cluster's mean
conditioning, and the result is copied to the cluster's rows. They stay bit-identical until the cluster splits, so every
sampler's history is right by construction.
"""

import contextlib
import copy
import inspect

import comfy.k_diffusion.sampling
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch

from ...hierdiff_core.devices import on_device
from ...hierdiff_core.plan.keys import branch_keys
from ...hierdiff_core.plan.matching import separated
from ...hierdiff_core.sampling.finite import latents_not_finite
from ...hierdiff_core.sampling.noise import draw_rows, keyed_generator
from .cond_rows import check_conds, check_prompts, in_prompt_order, picture_groups, prompts_of, rows_equal
from .decoration import LIVE_TREE, Decorations, warn_running_node
from .dry_run import rehearsed
from .encode_set import name_of
from .live_tree import LiveTree, host_colours
from .model_calls import ModelCalls
from .plan_texts import duplicates
from .ui import distortion

WRAPPER_KEY = "hierdiff"
ONE_OR_EACH = "give one latent, or one for each prompt"
NOT_FINITE = "load the model in another precision (--bf16-unet, --fp32-unet), or use another sampler or a lower cfg"
# The host's samplers whose noise is a path: one Brownian tree for each branch.
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")


class StepSharingGuider(comfy.samplers.CFGGuider):
    """A CFG guider that evaluates one row per cluster of a plan.

    Parameters
    ----------
    model_patcher : ModelPatcher
    plan : Plan
        for N prompts; conditioning and latents have N rows or 1
    micro_batch : int
        clusters per model call; 0 as many as the host's estimate of memory allows
    show_tree : bool
        the browser shows the branches in the node that samples

    Notes
    -----
    Clusters are looked up by sigma and only ever refined: samplers may call the model several times a step.
    """

    def __init__(self, model_patcher, plan, micro_batch=0, show_tree=True):
        super().__init__(model_patcher)
        self.plan = plan
        self.micro_batch = micro_batch
        self.show_tree = show_tree

    def sample(self, *args, **kwargs):
        samples, report = self.sample_with_report(*args, **kwargs)
        warn_running_node(report)  # which has no place for a report
        return samples

    def sample_with_report(
        self,
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask=None,
        callback=None,
        disable_pbar=False,
        seed=None,
        **host_options,
    ):
        """The host's `CFGGuider.sample`, and in words what was spent.

        Returns
        -------
        samples : (N, ...) tensor, report : str

        Raises
        ------
        ValueError
            before any model call, if something cannot be shared; it names what and how to mend it.
        """
        check_prompts(self.original_conds.get("positive", ()), self.plan)
        if sigmas.shape[-1] < 2:
            latents = rows_for_all(latent_image, self.plan.num_prompts, "the latent batch", ONE_OR_EACH)
            return latents, "⚠ no steps (denoise 0): nothing was sampled, each prompt has the latent as it came in"
        check_model_options(self.model_options)
        plan = self.plan.resampled(len(sigmas) - 1)
        parted = separated(plan, picture_groups(self.original_conds, [latent_image, denoise_mask], plan))
        run = SharingRun(parted, sigmas, self.micro_batch, seed or 0)
        latent_image = run.all_rows(latent_image, "the latent batch", ONE_OR_EACH)
        noise = run.all_rows(noise, "the noise", "use Shared Noise")
        if denoise_mask is not None and denoise_mask.shape[0] > 1:
            run.all_rows(denoise_mask, "the noise mask", "use one mask for all prompts")
        for name, conds in self.original_conds.items():
            check_conds(conds, name, run)
        guider = copy.copy(self)  # the host caches this object; a run's state must not stay on it
        guider.run = run
        shared = run.shared_sampler(sampler)
        decorations = Decorations()
        with self.live_tree(run, decorations) if self.show_tree else contextlib.nullcontext() as live:
            samples = super(StepSharingGuider, guider).sample(
                noise,
                latent_image,
                shared,
                sigmas,
                denoise_mask,
                run.watched(callback, live, decorations) if live else callback,
                disable_pbar,
                seed,
                **host_options,
            )
            if live:
                decorations.attempt(LIVE_TREE, run.show_end, live, self.model_patcher.model, samples)
        problem = latents_not_finite(samples, self.names(), NOT_FINITE)
        report = decorations.attempt("the report", run.report, self.plan, otherwise="")
        lines = [*([f"⚠ {problem}"] if problem else []), *self.parted_prompts(plan, parted)]
        return samples, decorations.noted("\n".join([report, *lines]))

    def live_tree(self, run, decorations):
        """A context: the tree that the browser shows, or None where it fails."""
        return decorations.context(
            LIVE_TREE, lambda: LiveTree(run.plan, host_colours(self.model_patcher.model.latent_format))
        )

    def names(self):
        """N str   the prompts, where the plan or the conditioning knows them"""
        known = prompts_of(self.original_conds.get("positive", ()), self.plan.num_prompts)
        return self.plan.prompts or next(known, [""] * self.plan.num_prompts)

    def parted_prompts(self, plan, parted):
        """A warning where prompts of equal embeddings have pictures of their own, since their conditioning differs."""
        if parted is plan:
            return []
        last, names = plan.steps[-1], self.names()
        labels = parted.steps[-1].labels
        i = next(i for i, first in enumerate(last.first[last.labels]) if labels[i] != labels[first])
        return [
            f"⚠ {name_of(last.first[last.labels[i]], names)} and {name_of(i, names)} have equal embeddings, but "
            "different conditioning: each has a picture of its own"
        ]

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006  the host's signature
        self.run.look_up(x, timestep)
        options = comfy.model_patcher.create_model_options_clone(model_options)
        comfy.patcher_extension.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.CALC_COND_BATCH,
            WRAPPER_KEY,
            self.run.model_calls.calc_cond_batch,
            options,
            is_model_options=True,
        )
        return super().predict_noise(x, timestep, options, seed)


def check_model_options(model_options):
    """Refuse step caches: they would broadcast a trunk's residual onto its branches when a cluster splits."""
    for name in ("easycache", "lazycache"):
        if name in model_options.get("transformer_options", {}):
            raise ValueError(
                "EasyCache and LazyCache keep results of earlier steps by row and cannot follow clusters that split; "
                "remove the cache node from the model that goes to the hierarchical guider"
            )


def rows_for_all(tensor, num_prompts, name, fix):
    """`tensor` with N rows: its own, or the only one repeated."""
    if tensor.is_nested:
        raise ValueError(f"{name} is a nested latent (several media in one); step sharing takes one medium")
    if tensor.shape[0] == num_prompts:
        return tensor
    if tensor.shape[0] != 1:
        raise ValueError(f"{name} has {tensor.shape[0]} rows, but the plan is for {num_prompts} prompts; {fix}")
    return tensor.expand(num_prompts, *tensor.shape[1:]).clone()


class SharingRun:
    """State of one `sample` call: which clusters are current, their noise, and what was spent."""

    def __init__(self, plan, sigmas, micro_batch, seed):
        if (sigmas.diff() > 0).any():
            raise ValueError("sigmas must fall from step to step; step sharing cannot run a sampler backwards")
        if micro_batch < 0:
            raise ValueError(f"micro_batch must be 0 (as many as fit) or more; got {micro_batch}")
        self.plan = plan
        self.sigmas = sigmas.detach().cpu().double()
        self.seed = seed
        self.keys = plan.prompt_keys or range(plan.num_prompts)
        self.k = 0
        self.model_calls = ModelCalls(plan.num_prompts, micro_batch)
        self.use(plan.steps[0])
        self.calls = self.rows = self.draws = 0
        self.trees = {}  # Brownian trees by branch key
        self.by_call = False  # the sampler calls once per step, at sigmas of its own
        self.foreseen = None  # sigmas of all calls, where they are known before
        self.row = None  # one latent: shape, dtype and device of the noise

    # --- which clusters ---

    def use(self, step):
        """Make the clusters of a plan's step the current ones."""
        self.clusters = in_prompt_order(step, self.plan.distinct)
        self.model_calls.use(self.clusters)

    def look_up(self, x, timestep):
        """Make the clusters of this sigma's step current; never back to coarser ones."""
        self.row = x[:1]
        k = min(self.calls, self.plan.num_steps - 1) if self.by_call else self.step_of(self.sigma(timestep))
        if k > self.k:
            finer = self.plan.steps[k].num_clusters > len(self.clusters.first)
            self.k = k
            if finer:
                self.use(self.plan.steps[k])
        self.calls += 1
        self.rows += len(self.clusters.first)

    def sigma(self, timestep):
        """The sigma of this call, if need be read from the device."""
        if self.foreseen is not None and self.calls < len(self.foreseen):
            return self.foreseen[self.calls]
        return float(timestep.flatten()[0])

    def foresee(self, sigmas):
        """Note the sigmas of all calls, or that they are not known."""
        self.foreseen = sigmas

    def step_of(self, sigma):
        """The step that covers a sigma: from sigmas[k] down to above sigmas[k + 1] it is k."""
        slack = 1 - 1e-6  # float32 sigmas
        return int((self.sigmas[:-1] >= sigma * slack).sum()) - 1

    def all_rows(self, tensor, name, fix):
        """`tensor` with N rows that are equal within the first step's clusters."""
        rows = rows_for_all(tensor, self.plan.num_prompts, name, fix)
        if rows is tensor:
            self.check_shared(tensor, name, fix)
        return rows

    def check_shared(self, tensor, name, fix):
        """Refuse rows that differ between prompts which the plan lets share a step."""
        if not rows_equal(tensor, in_prompt_order(self.plan.steps[0])):
            raise ValueError(f"{name} differs between prompts that share their first step; {fix}")

    # --- noise ---

    def shared_sampler(self, sampler):
        """A copy of the host's sampler whose noise is the same for all rows of a cluster.

        Raises
        ------
        ValueError
            if the sampler couples rows or draws noise that cannot be replaced.
        """
        if not isinstance(sampler, comfy.samplers.KSAMPLER):
            raise ValueError(f"{type(sampler).__name__} is not a k-diffusion sampler of ComfyUI; use KSamplerSelect")
        function, options = sampler.sampler_function, dict(sampler.extra_options)
        name = getattr(function, "__name__", "")
        if "adaptive" in name:
            raise ValueError("dpm_adaptive chooses its steps from the error of all rows together; use another sampler")
        self.by_call = "dpm_fast" in name  # it never comes to the last sigma, where every prompt is alone
        if options.get("s_churn", 0) > 0:
            raise ValueError("s_churn > 0 draws noise for every row alone; set it to 0, or use an ancestral sampler")
        if "noise_sampler" in options:
            options["noise_sampler"] = self.repeated(options["noise_sampler"])
        elif "noise_sampler" in inspect.signature(function).parameters:
            options["noise_sampler"] = self.brownian_noise(name) if is_brownian(name) else self.white_noise
        # without inpaint options the mask's noise is the run's own: the host's "random" one differs between rows
        return comfy.samplers.KSAMPLER(rehearsed(function, self.foresee), options, {})

    def white_noise(self, sigma, sigma_next):
        """(N, ...) noise, a function of seed, branch and the number of the draw."""
        generators = [keyed_generator(self.seed, key, self.draws) for key in self.branches()]
        self.draws += 1
        shape = len(generators), *self.row.shape[1:]
        return self.spread(draw_rows(generators, shape, self.row.dtype, self.row.device))

    def brownian_noise(self, name):
        positive = self.sigmas[self.sigmas > 0].float()

        def noise(sigma, sigma_next):
            trees = [self.tree(key, positive, name.endswith("_gpu")) for key in self.branches()]
            return self.spread(torch.cat([tree(sigma, sigma_next) for tree in trees]))

        return noise

    def tree(self, key, sigmas, on_device):
        if key not in self.trees:
            seed = keyed_generator(self.seed, key, 0).initial_seed()
            self.trees[key] = comfy.k_diffusion.sampling.BrownianTreeNoiseSampler(
                self.row, sigmas.min(), sigmas.max(), seed=seed, cpu=not on_device
            )
        return self.trees[key]

    def repeated(self, noise_sampler):
        """Somebody else's noise, each cluster's first row for all of its rows."""

        def noise(sigma, sigma_next):
            rows = noise_sampler(sigma, sigma_next)
            return self.spread(rows[self.model_calls.on(rows.device)[0]])

        return noise

    def branches(self):
        """The current clusters' keys."""
        return branch_keys(self.clusters.labels, self.keys)

    def spread(self, rows):
        """(N, ...) from one row for each cluster."""
        return rows[self.model_calls.on(rows.device)[1]]

    # --- what was spent ---

    def watched(self, callback, live, decorations):
        """The host's callback of each step, and a `LiveTree` beside it."""

        def on_step(step, x0, x, total_steps):
            decorations.attempt(LIVE_TREE, self.show_step, live, x0)
            if callback is not None:
                callback(step, x0, x, total_steps)

        return on_step

    def show_step(self, live, x0):
        first = on_device(self.plan.steps[self.k].first, x0.device)
        live.step(self.k, x0[first], self.rows, self.calls * self.plan.num_distinct)

    def show_end(self, live, model, samples):
        """What came after the last callback: some samplers call the model again."""
        if self.rows > live.progress["rows"]:
            self.show_step(live, model.process_latent_in(samples))

    def report(self, plan):
        standard = self.calls * self.plan.num_distinct
        lines = [
            f"{self.plan.num_prompts} latents, {self.plan.num_steps} steps, {self.calls} model calls",
            f"model rows: {self.rows} instead of {standard}, {1 - self.rows / max(standard, 1):.1%} saved",
            *duplicates(self.plan),
        ]
        if self.plan.num_steps != plan.num_steps:
            lines.append(
                f"the plan's {plan.num_steps} thresholds were resampled over the sampler's {self.plan.num_steps} steps"
            )
        return "\n".join([*lines, *distortion(self.plan)])


def is_brownian(name):
    """Whether a k-diffusion function of this name walks a Brownian path."""
    return any(name.startswith(f"sample_{sampler}") for sampler in BROWNIAN)
