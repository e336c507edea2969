"""Hierarchical Branching Sampler: embeddings and a plan -> latents."""

import numpy as np
from comfy_api.latest import io

from ..hierdiff_core.kandinsky.acceleration import ACCELERATIONS
from ..hierdiff_core.kandinsky.decoder import NOT_FINITE, check_sample_inputs, sample, steps_until
from ..hierdiff_core.kandinsky.guidance import WHOLE_RUN, course_of, passes_per_row
from ..hierdiff_core.kandinsky.model_folder import DECODER_CLASS
from ..hierdiff_core.kandinsky.plan_embeddings import embeddings_for, own_embeddings
from ..hierdiff_core.kandinsky.schedulers import SCHEDULERS, last_reroll, make_scheduler
from ..hierdiff_core.kandinsky.shared import shared_rows
from ..hierdiff_core.kandinsky.workers import sample_on
from ..hierdiff_core.pictures.tree import draw_tree
from ..hierdiff_core.previews import LARGEST_KEPT, BranchLatents, latents_to_rgb, to_pictures
from ..hierdiff_core.sampling.finite import latents_not_finite
from ..hierdiff_core.sampling.loop import ORDERS
from ..hierdiff_core.sampling.microbatch import LARGEST_AUTO
from ..hierdiff_core.sampling.observer import Observer, Observers
from ..hierdiff_core.sampling.progress import RunProgress, times_in_words
from . import types
from .guider import keep_inputs
from .host.decoder_price import DecoderOffer
from .host.decoration import LIVE_TREE, Decorations
from .host.device import main_device, results_device
from .host.edited_run import edited_run, owner, reused_in_words
from .host.live_tree import LiveTree, linear_colours
from .host.local_workers import check_workers, make_way
from .host.measured import verdict_on_decoder
from .host.models import model_folder
from .host.plan_texts import course_lines, duplicates, passes_line, seeds_in_words, shared_line
from .host.search import search_words
from .host.stopped import until
from .host.tree_files import TreeFiles
from .host.ui import Progress, distortion, tell, unsuitable
from .host.vae import load_unet
from .saving import saving_as_drawn
from .workers import where

PREVIEW = "the preview"


class BranchingSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffBranchingSampler",
            display_name="Hierarchical Branching Sampler",
            category="HierDiff",
            **search_words("kandinsky", "batch prompts", "sample set", "hierarchical diffusion", "shared steps"),
            description="Stage 4: denoises one latent per cluster, and copies it when the cluster splits.",
            inputs=[
                types.Decoder.Input("decoder", tooltip="From Load Kandinsky 2.2 Decoder."),
                types.Embeddings.Input("embeddings", tooltip="From Prior Embedding: the same as for the plan."),
                types.Plan.Input("plan", tooltip="From Threshold Schedule."),
                types.seed_input(
                    "seed",
                    tooltip="Seed of the noise. Neither the micro-batch nor the order of the prompts changes an image: "
                    "bit-identical on a CPU, up to rounding on a GPU.",
                ),
                io.Float.Input(
                    "guidance",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance (CFG). Paper: 10. Bundled model: 2 to 4. 1 or less: no guidance.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default="DDPM",
                    tooltip="How noise is removed at each step. The paper and Kandinsky use DDPM.",
                ),
                io.Int.Input(
                    "width", default=512, min=64, max=4096, step=64, tooltip="Width of each image, in pixels."
                ),
                io.Int.Input(
                    "height", default=512, min=64, max=4096, step=64, tooltip="Height of each image, in pixels."
                ),
                io.Int.Input(
                    "micro_batch",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Branches per UNet call. 0: as many as fit into memory. Halved when memory runs out.",
                ),
                types.rarely_useful(
                    io.Boolean.Input(
                        "rescale_means",
                        display_name="rescale",
                        default=False,
                        optional=True,
                        tooltip="Rarely useful: makes each cluster's mean embedding as long as its members are on "
                        "average. It made no measurable difference.",
                    )
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    optional=True,
                    tooltip="breadth first: all branches of a step, then the next step. depth first: one subtree after "
                    "another, a few dozen branches at a time, which limits memory. The images are the same.",
                ),
                io.Combo.Input(
                    "acceleration",
                    options=list(ACCELERATIONS),
                    default=ACCELERATIONS[0],
                    optional=True,
                    tooltip="For NVIDIA cards. auto: all steps faster, from the first run on, in half precision. none: "
                    "the UNet as it is. CUDA graphs: faster steps with few branches. torch.compile: all steps faster, "
                    "after a minute or two of compiling in the first run. Falls back to none if it fails.",
                ),
                *guidance_interval(),
                *keep_inputs(),
                io.Float.Input(
                    "stop_after",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Share of the steps after which to stop: the latents are then what the branches head for. "
                    "For Pick, with keep or a trunk, so that a second sampler goes on from there. 1: all steps.",
                ),
                types.Saving.Input(
                    "saving",
                    optional=True,
                    tooltip="From Save Pictures as They Finish: each image is saved as soon as it is finished. With "
                    "order depth first that is while others are drawn.",
                ),
                types.Workers.Input(
                    "workers",
                    optional=True,
                    tooltip="From Workers: parts of the set are drawn on several GPUs, or on a Ray cluster. Not "
                    "together with keep, a trunk or stop_after.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="One latent per prompt, in the order of the prompts."),
                io.Image.Output(display_name="tree", tooltip="The tree, with an image of each branch where it splits."),
                io.String.Output(display_name="report", tooltip="UNet rows used and saved, time, warnings."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        decoder,
        embeddings,
        plan,
        seed,
        guidance,
        scheduler,
        width,
        height,
        micro_batch,
        rescale_means=False,
        order=ORDERS[0],
        acceleration=ACCELERATIONS[0],
        guidance_start=WHOLE_RUN[0],
        guidance_end=WHOLE_RUN[1],
        keep=False,
        edits="",
        trunk=None,
        stop_after=1.0,
        saving=None,
        workers=None,
    ):
        interval = guidance_start, guidance_end
        embeddings = embeddings.of_prompt(plan)
        last = last_reroll(make_scheduler(scheduler, decoder.pipeline.scheduler.config, plan.num_steps))
        edited = edited_run(plan, keep, edits, trunk, last, scheduler)
        plan, steps = edited.plan, steps_until(stop_after, plan.num_steps)
        check_sample_inputs(decoder.pipeline, embeddings, plan, width, height, micro_batch, guidance, interval)
        check_workers(workers, edited.store, steps < plan.num_steps)
        own = own_embeddings(plan, embeddings)
        rows = min(micro_batch or LARGEST_AUTO, plan.num_prompts)
        if workers is None:
            tell(cls, "Moving the decoder to the device …")
            load_unet(decoder, width, height, rows, acceleration)
        else:
            tell(cls, f"Starting {where(workers)} …")
            make_way(workers)
        tell(cls, f"Sampling {plan.num_prompts} prompts in {steps} steps …")
        decorations = Decorations()
        known = {"scheduler": scheduler, "guidance": guidance, "width": width, "height": height}
        taken = None if course_of(plan, interval) == course_of(plan) else interval
        verdict = decorations.attempt("what was measured", verdict_on_decoder, plan, decoder, taken, known)
        colours, told = linear_colours(decoder.latent_rgb), verdict and verdict.told
        found = embeddings_for(plan, embeddings, edited.leaves or None, edited.store and edited.store.leaves)
        device = decoder.pipeline.unet.device.type if workers is None else main_device().type
        shared, drawn = shared_rows(plan, found, device), until(plan, steps)
        run = RunProgress(drawn, passes=passes_per_row(plan, guidance, interval, shared)[:steps])
        given = known | {"seed": seed, "rescale_means": rescale_means, "guidance_interval": interval}
        saving = None if steps < plan.num_steps else saving  # there are no pictures yet
        beside = acceleration if workers is None else None
        with (
            saving_as_drawn(saving, decoder, own.prompts, (width, height), rows, beside) as savers,
            decorations.context(LIVE_TREE, lambda: LiveTree(drawn, colours, told, run.times)) as live,
        ):
            shown = Shown(run, decoder.latent_rgb, live, decorations)
            more = {"micro_batch": micro_batch, "acceleration": acceleration, "observer": Observers(shown, *savers)}
            inputs, lost, shares = (decoder.pipeline, embeddings, plan), [], []
            if workers is None:
                kept = {"store": edited.store, "stop_after": stop_after, "owner": owner()}
                latents = sample(*inputs, **given, **more, **kept, order=order, leaves=edited.leaves or None)
            else:
                place = {"folder": model_folder(decoder.name, DECODER_CLASS), "device": main_device().type}
                place |= {"leaves": edited.leaves or None, "on_lost": lost.append, "on_shares": shares.append}
                latents = sample_on(workers, *inputs, **given, **more, **place)
                shown.shrunk = max(latents.shape[2:]) > LARGEST_KEPT  # workers send small ones
            latents = latents.to(results_device())
            run.end()
            offered = DecoderOffer(decoder.pipeline, edited, embeddings, given, steps)
            more = decorations.attempt("what editing would cost", offered.told, live, run, otherwise={})
            decorations.attempt("the text while drawing", tell, cls, "Drawing the tree …")
            drawing = decorations.attempt("the picture of the tree", shown.tree, decoder, own.prompts)
        settings = {"guidance": guidance, "width": width, "height": height, "steps": plan.num_steps}
        lines = decorations.attempt(
            "the report",
            lambda: notes(decoder, run, plan, scheduler, interval, settings),
            otherwise=[f"{plan.num_prompts} pictures"],
        )
        problem = lost[0] if lost else latents_not_finite(latents, own.prompts, NOT_FINITE)
        measured = [verdict.line] if verdict else []
        saved = [line for saver in savers for line in saver.lines()]
        drawers = [f"drawn by {where(workers)}", *shares] if workers is not None else []
        reused = [*drawers, *reused_in_words(run.reused, run.reused + run.rows, edited.store), *edited.notes]
        report = "\n".join([*lines, *reused, *measured, *saved, *([f"⚠ {problem}"] if problem else [])])
        if drawing is not None:
            decorations.attempt(PREVIEW, shown.bar.finish, drawing)
        tree = decorations.picture("the picture of the tree", lambda: drawing)
        ui = decorations.show(cls, report, tree, **shown.pictures, **more)
        return io.NodeOutput({"samples": latents}, tree, decorations.noted(report), ui=ui)


class Shown(Observer):
    """Shows in the node and the page how the branches of a run grow, and keeps latents for the picture of the tree.

    Parameters
    ----------
    run : RunProgress
        Time, rows and work of the run.
    latent_rgb : (C + 1, 3) tensor
        See `latents_to_rgb`.
    live : LiveTree or None
        The page's.
    decorations : Decorations
        Keep what fails here from the run.

    Attributes
    ----------
    pictures : dict
        Data on the pictures of the tree, for the page.
    """

    def __init__(self, run, latent_rgb, live, decorations):
        self.run, self.latent_rgb, self.live, self.decorations = run, latent_rgb, live, decorations
        self.plan, self.branches, self.bar = run.plan, BranchLatents(run.plan), Progress(round(run.work[1]))
        self.pictures = {}
        self.shrunk = False  # what is kept for the tree is smaller than the latents

    def before_call(self):
        self.bar.check_cancelled()

    def on_stored(self, rows):
        self.run.on_stored(rows[: self.plan.num_steps])
        self.bar.total = max(round(self.run.work[1]), 1)

    def on_reused(self, rows):
        self.bar.check_cancelled()
        self.run.on_reused(rows)

    def on_rows(self, k, clusters, x0):
        attempt, run, bar = self.decorations.attempt, self.run, self.bar
        self.shrunk |= max(x0.shape[2:]) > LARGEST_KEPT
        run.on_rows(k, clusters, x0)
        attempt("keeping the tree's latents", self.branches.on_rows, k, clusters, x0)
        if self.live is not None:
            attempt(LIVE_TREE, self.live.step, k, x0, run.rows, run.standard_rows, clusters, run.reused)
        done = round(run.work[0])
        attempt(PREVIEW, bar.advance, done - bar.value, lambda: latents_to_rgb(x0, self.latent_rgb))
        if PREVIEW in self.decorations.failed:
            attempt("the progress bar", bar.bar.update_absolute, done, bar.total)

    def tree(self, decoder, prompts):
        """The tree's picture, with MoVQ's pictures of the branches, which the browser shows too."""

        files = None if self.live is None else TreeFiles(self.live)

        def pictures(wanted):
            made = to_pictures(decoder.vae.shown(self.branches.stacked(wanted))) if wanted else []
            if files is not None:
                self.decorations.attempt(LIVE_TREE, files.add, wanted, made)
            return made

        try:
            return draw_tree(self.plan, prompts, pictures)
        finally:  # files are written while it is drawn
            if files is not None:
                self.decorations.attempt(LIVE_TREE, files.settle)
                self.pictures = files.told(whole=not self.shrunk)


def guidance_interval():
    """Inputs for the steps that take guidance."""
    limits = {"min": 0.0, "max": 1.0, "step": 0.01, "optional": True}
    return [
        io.Float.Input(
            "guidance_start",
            display_name="guide from",  # "guidance_…" twice where a narrow page cuts labels off
            default=WHOLE_RUN[0],
            tooltip="Share of the steps after which guidance starts. Steps without guidance cost half as much.",
            **limits,
        ),
        io.Float.Input(
            "guidance_end",
            display_name="guide until",
            default=WHOLE_RUN[1],
            tooltip="Share of the steps after which guidance ends. The last steps have the most branches: 0.8 saves "
            "much of their time and changes the images slightly.",
            **limits,
        ),
    ]


def notes(decoder, run, plan, scheduler, interval, settings):
    """The report's lines, with warnings of settings that do not suit the model; the run may draw a part of the plan."""
    course, steps = course_of(plan, interval), run.plan.num_steps
    guided = passes_per_row(plan, settings["guidance"], interval) > 1
    stopped = f"stopped after {steps} of {plan.num_steps} steps: the latents are what the branches are heading for"
    return [
        times_in_words(run.times(), plan.num_prompts),
        *([stopped] if steps < plan.num_steps else []),
        describe(run.plan, scheduler, guided[:steps]),
        *planned_guidance(plan, course, settings["guidance"], spared_passes(run, guided)),
        *unsuitable(decoder, **settings),
        *other_scheduler(plan, scheduler),
    ]


def spared_passes(run, guided):
    """Unconditional passes that a run does not make, since branches share them; `guided` (K,) bool."""
    return round(float((1 + guided[: run.plan.num_steps] - run.passes) @ run.plan.clusters_per_step))


def planned_guidance(plan, course, guidance, spared=0):
    """Lines on the guidance that the plan asks for, and what it costs; on what goes before it, and on shared passes."""
    if plan.guidance is None:
        return shared_line(spared)
    planned = f"{plan.guidance.start:g} to {plan.guidance.end:g}"
    lines = []
    if guidance <= 1:
        return [f"guidance {guidance:g} is none: the plan's guidance changes nothing"]
    if course != plan.guidance:
        lines.append(f"guide from and guide until of this node were taken, not the plan's {planned}")
    if not (course.cuts or course.boosts):
        return [*lines, *shared_line(spared)]
    lines.append(passes_line(course.passes(plan) - spared, 2 * plan.nfe_standard))
    return [*lines, *shared_line(spared), *course_lines(course, plan.num_steps)]


def other_scheduler(plan, scheduler):
    """A warning where the plan's sensitivity is of another scheduler."""
    measured = plan.sensitivity and plan.sensitivity.settings.get("scheduler", scheduler)
    if not measured or measured == scheduler:
        return []
    return [
        f"⚠ the plan's sensitivity was measured with {measured}, not {scheduler}: calibrate with the same scheduler"
    ]


def describe(plan, scheduler, guided):
    """What was spent and saved, in words; `guided` (K,) bool are the steps with guidance."""
    shared = sum(len(branch.members) > 1 for branch in plan.branches)
    return "\n".join(
        [
            f"{plan.num_steps} {scheduler} steps, tau {plan.tau:.5g}",
            f"UNet rows: {plan.nfe} instead of {plan.nfe_standard}, {plan.saved:.1%} saved",
            f"rows per picture: {plan.nfe / plan.num_distinct:.1f} instead of {plan.num_steps}",
            *duplicates(plan),
            *seeds_in_words(plan),
            *unguided(plan, guided),
            *distortion(plan),
            f"{shared} shared branch{'es' if shared != 1 else ''}, {len(plan.branches) - shared} of a single prompt",
        ]
    )


def unguided(plan, guided):
    """A line on the unconditional passes that were left out, where guidance is for a part of the steps."""
    if guided.all() or not guided.any():
        return []
    steps = np.flatnonzero(guided) + 1
    left_out = plan.clusters_per_step[~guided].sum() / (2 * plan.nfe)
    return [f"guidance in steps {steps[0]} to {steps[-1]} only: {left_out:.1%} of the UNet's passes left out"]
