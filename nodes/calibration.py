"""Calibrate Schedule: measure at which steps sharing shows, for a Kandinsky decoder or any MODEL."""

import dataclasses
from collections.abc import Sized

from comfy_api.latest import io

from ..hierdiff_core.kandinsky.calibration import run_probe
from ..hierdiff_core.kandinsky.decoder import check_sample_inputs
from ..hierdiff_core.kandinsky.schedulers import SCHEDULERS
from ..hierdiff_core.measure.calibration import calibrate_with
from ..hierdiff_core.measure.probe import Probe
from ..hierdiff_core.pictures.sensitivity import draw_sensitivity
from ..hierdiff_core.sampling.microbatch import LARGEST_AUTO
from ..hierdiff_core.sampling.observer import Observer
from . import types
from .guider import cfg_input, model_inputs
from .host.cond_rows import check_texts, rows_of
from .host.decoration import Decorations
from .host.samplers import latents_for, model_draw
from .host.samplers_by_name import sampler_names, scheduler_names, sigmas_of
from .host.search import search_words
from .host.ui import Progress, tell, unsuitable
from .host.vae import load_unet
from .sensitivity import CATEGORY, describe, new_file, outputs, save_new


def steps_input(default):
    return io.Int.Input(
        "steps",
        default=default,
        min=1,
        max=1000,
        tooltip="Denoising steps. Use the same number as when sampling; for any other, the result is only an estimate, "
        "and Threshold Schedule warns.",
    )


def seed_input():
    """A seed that stays: a new one at each run would measure again each time."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=False,  # left out, the browser adds one to each input of this name
        tooltip="Seed of the noise and of the choice of prompts.",
    )


def probe_inputs():
    """What both calibrating nodes ask for: how much to probe."""
    return [
        io.Int.Input(
            "samples",
            default=8,
            min=2,
            max=1000,
            tooltip="How many prompts share steps and are compared; they come from all parts of the set. More of them "
            "give a steadier result and cost more.",
        ),
        io.Int.Input(
            "resolution",
            default=12,
            min=1,
            max=1000,
            tooltip="At how many points of the run sharing is measured, closer together towards the end. As many as "
            "there are steps: at every step. The cost is shown first.",
        ),
    ]


def name_input():
    return io.String.Input(
        "name",
        default="sensitivity",
        optional=True,
        tooltip=f"Saves the result under this name in output/{CATEGORY}, for Load Sensitivity. Empty: not saved.",
    )


class Calibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffCalibrate",
            display_name="Calibrate Schedule",
            category="HierDiff",
            **search_words("sensitivity", "measure"),
            description="Measures, once per model, at which steps sharing shows in the images: prompts share more and "
            "more steps and are compared with runs that share none.",
            inputs=[
                types.Decoder.Input("decoder", tooltip="From Load Kandinsky 2.2 Decoder."),
                types.Embeddings.Input("embeddings", tooltip="Prompts like those of your sets, at least two."),
                steps_input(40),
                seed_input(),
                io.Float.Input(
                    "guidance",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance (CFG). Use the same value as when sampling.",
                ),
                io.Combo.Input("scheduler", options=list(SCHEDULERS), default="DDPM", tooltip="As when sampling."),
                *probe_inputs(),
                io.Int.Input("width", default=512, min=64, max=4096, step=64, tooltip="In pixels, as when sampling."),
                io.Int.Input("height", default=512, min=64, max=4096, step=64, tooltip="In pixels, as when sampling."),
                name_input(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        decoder,
        embeddings,
        steps,
        seed,
        guidance,
        scheduler,
        samples,
        resolution,
        width,
        height,
        name="sensitivity",
    ):
        path = new_file(name)
        probe = Probe(embeddings.positive, steps, samples, resolution, seed)
        pipeline = decoder.pipeline
        check_sample_inputs(pipeline, probe.leaves(embeddings), probe.plan, width, height, guidance=guidance)
        warnings = unsuitable(decoder, guidance=guidance, width=width, height=height, steps=steps)
        tell(cls, "\n".join([cost(probe, "UNet rows"), *warnings]))
        load_unet(decoder, width, height, min(LARGEST_AUTO, len(probe.rows)))
        progress = Progress(probe.plan.nfe)
        sensitivity = run_probe(
            probe,
            pipeline,
            embeddings,
            seed=seed,
            guidance=guidance,
            scheduler=scheduler,
            width=width,
            height=height,
            observer=Calibrating(progress),
        )
        return result(cls, sensitivity, {"model": decoder.name, "width": width, "height": height}, path, warnings)


class CalibrateModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffCalibrateModel",
            display_name="Calibrate Schedule for MODEL",
            category="HierDiff",
            **search_words("sensitivity", "measure"),
            description="Calibrate Schedule for any model that ComfyUI loads, with its own samplers and schedulers.",
            inputs=[
                *model_inputs(),
                types.Embeddings.Input("embeddings", tooltip="From the same CLIP Embedding as positive."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size you sample at."),
                steps_input(20),
                seed_input(),
                cfg_input(),
                io.Combo.Input("sampler_name", options=sampler_names(), tooltip="As when sampling."),
                io.Combo.Input("scheduler", options=scheduler_names(), tooltip="As when sampling."),
                *probe_inputs(),
                name_input(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        embeddings,
        latent_image,
        steps,
        seed,
        cfg,
        sampler_name,
        scheduler,
        samples,
        resolution,
        name="sensitivity",
    ):
        path = new_file(name)
        sigmas = sigmas_of(model, steps, sampler_name, scheduler)
        # some schedulers give fewer sigmas than were asked for
        probe = Probe(embeddings.positive, len(sigmas) - 1, samples, resolution, seed)
        check_texts(positive, embeddings.prompts, "embeddings")

        def conditioning(leaves):
            count = len(embeddings)
            return rows_of(positive, leaves, count, "positive"), rows_of(negative, leaves, count, "negative")

        rows = probe.rows.tolist()
        if not any(cond.shape[0] == len(rows) for cond, _ in conditioning(rows)[0]):
            raise ValueError("the positive conditioning has one row for all prompts; connect the one of CLIP Embedding")
        tell(cls, cost(probe, "model rows"))
        latents = latents_for(model, latent_image["samples"][:1])
        progress = Progress(probe.num_steps)
        draw = model_draw(
            model, conditioning, latents, sampler_name, sigmas, cfg, seed, on_step=lambda: progress.advance(1)
        )
        sensitivity = calibrate_with(draw, probe, sampler=sampler_name, scheduler=scheduler, guidance=cfg, seed=seed)
        return result(cls, sensitivity, {"model": type(model.model).__name__}, path)


class Calibrating(Observer):
    """Moves a node's progress bar, and stops the run when the user cancels it."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def before_call(self) -> None:
        """Raise the host's interruption if there is one."""
        self.progress.check_cancelled()

    def on_rows(self, k: int, clusters: Sized, x0: object) -> None:
        """Move on by the rows of a step."""
        self.progress.advance(len(clusters))


def cost(probe, unit):
    """What a calibration will spend, in words."""
    rows, steps = probe.plan.nfe, probe.num_steps
    return f"calibration takes {rows} {unit}: as many as {rows / steps:.0f} pictures of {steps} steps"


def saved(sensitivity, path):
    """Save, and say so; what was measured at such a cost is handed on even if it cannot be saved after all."""
    try:
        return f"saved as {save_new(sensitivity, path).name}; press R to see it in Load Sensitivity"
    except OSError as error:
        return f"⚠ not saved ({error.strerror or error}): only connected nodes get the result, while ComfyUI runs"


def result(cls, sensitivity, settings, path, warnings=()):
    """The node's output: saved, drawn, described."""
    sensitivity = dataclasses.replace(sensitivity, settings={**settings, **sensitivity.settings})
    lines = [describe(sensitivity), *warnings]
    if path is not None:
        lines.append(saved(sensitivity, path))
    decorations = Decorations()
    picture = decorations.picture("the plot", draw_sensitivity, sensitivity)
    return io.NodeOutput(sensitivity, picture, ui=decorations.show(cls, "\n".join(lines), picture))
