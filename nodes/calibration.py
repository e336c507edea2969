"""Calibrate Schedule: measure at which steps sharing shows, save it, load it again."""

import dataclasses
import hashlib
import os
from pathlib import Path

import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..hierdiff_core.calibration import Probe, run_probe
from ..hierdiff_core.figures import draw_sensitivity
from ..hierdiff_core.kandinsky import check_sample_inputs, unet_bytes_per_row
from ..hierdiff_core.loading import BUNDLED
from ..hierdiff_core.microbatch import LARGEST_AUTO
from ..hierdiff_core.schedulers import SCHEDULERS
from ..hierdiff_core.sensitivity import read_sensitivity, write_sensitivity
from . import types
from .guider import OneNoise, cfg_input, make_guider, model_inputs
from .models import BUNDLED_NAME
from .show import Progress, image_tensor, show, tell, unsuitable

LONGEST_NAME = 100
# Files lie in models/hierdiff_sensitivity; what is measured goes to the output folder, as the host's saved models do.
CATEGORY = "hierdiff_sensitivity"
BUNDLED_FILE = BUNDLED / "decoder" / "sensitivity.json"


def register_folders():
    """Tell the host where sensitivities lie, so that extra_model_paths.yaml may add places."""
    for root in (folder_paths.models_dir, folder_paths.get_output_directory()):
        folder_paths.add_model_folder_path(CATEGORY, os.path.join(root, CATEGORY))
    folder_paths.folder_names_and_paths[CATEGORY][1].add(".json")


register_folders()


def steps_input(default):
    return io.Int.Input(
        "steps",
        default=default,
        min=1,
        max=1000,
        tooltip="Denoising steps, as many as for the pictures. For another number the result is a guess by the steps "
        "that are left: Threshold Schedule warns of it.",
    )


def seed_input():
    """A seed that stays: a new one at each run would measure again each time."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=False,  # left out, the browser adds one to each input of this name
        tooltip="Seed of the noise, and of the choice of prompts.",
    )


def probe_inputs():
    """What both calibrating nodes ask for: how much to probe."""
    return [
        io.Int.Input(
            "samples",
            default=8,
            min=2,
            max=1000,
            tooltip="Prompts that share steps and are compared, chosen from all parts of the set. "
            "More: a steadier result, at more cost.",
        ),
        io.Int.Input(
            "resolution",
            default=12,
            min=1,
            max=1000,
            tooltip="How many numbers of shared steps are tried, closer together towards the end; as many as steps: "
            "each. The cost is shown before it is spent.",
        ),
    ]


def name_input():
    return io.String.Input(
        "name",
        default="sensitivity",
        optional=True,
        tooltip=f"The result is saved under this name in output/{CATEGORY}, for Load Sensitivity. Empty: not saved.",
    )


def outputs():
    return [
        types.Sensitivity.Output(display_name="sensitivity", tooltip="For Threshold Schedule, shape calibrated."),
        io.Image.Output(display_name="plot", tooltip="At which steps sharing shows in the pictures."),
    ]


class Calibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffCalibrate",
            display_name="Calibrate Schedule",
            category="HierDiff",
            description="Measures once for a model at which steps sharing shows in the pictures: prompts "
            "share ever more steps, and are compared with runs that share none.",
            inputs=[
                types.Decoder.Input("decoder", tooltip="From Load Kandinsky 2.2 Decoder."),
                types.Embeddings.Input("embeddings", tooltip="Prompts like those that will be drawn; two or more."),
                steps_input(40),
                seed_input(),
                io.Float.Input(
                    "guidance",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance, as for the pictures.",
                ),
                io.Combo.Input("scheduler", options=list(SCHEDULERS), default="DDPM", tooltip="As for the pictures."),
                *probe_inputs(),
                io.Int.Input("width", default=512, min=64, max=4096, step=64, tooltip="As for the pictures."),
                io.Int.Input("height", default=512, min=64, max=4096, step=64, tooltip="As for the pictures."),
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
        f = pipeline.movq_scale_factor
        row = unet_bytes_per_row(pipeline.unet, height // f, width // f)
        decoder.load(memory_required=row * LARGEST_AUTO)
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
            on_step=lambda k, x0: progress.advance(probe.plan.steps[k].num_clusters),
            before_call=progress.check_cancelled,
        )
        return result(cls, sensitivity, {"model": decoder.name, "width": width, "height": height}, path, warnings)


class CalibrateModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffCalibrateModel",
            display_name="Calibrate Schedule for MODEL",
            category="HierDiff",
            description="Calibrate Schedule for any model that ComfyUI loads, with its own samplers and schedulers.",
            inputs=[
                *model_inputs(),
                types.Embeddings.Input("embeddings", tooltip="From CLIP Embedding, with the positive conditioning."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the pictures' size."),
                steps_input(20),
                seed_input(),
                cfg_input(),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="As for the pictures."
                ),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="As for the pictures."),
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
        sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler).sigmas
        # some schedulers give fewer sigmas than were asked for
        probe = Probe(embeddings.positive, len(sigmas) - 1, samples, resolution, seed)
        rows = probe.rows.tolist()
        positive = rows_of(positive, rows, len(embeddings), "positive")
        if not any(cond.shape[0] == len(rows) for cond, _ in positive):
            raise ValueError("the positive conditioning has one row for all prompts; connect CLIP Embedding's")
        negative = rows_of(negative, rows, len(embeddings), "negative")
        tell(cls, cost(probe, "model rows"))
        # the same key for all prompts: the same noise
        plan = dataclasses.replace(probe.plan, prompt_keys=(0,) * len(rows))
        guider = make_guider(model, positive, negative, cfg, plan, LARGEST_AUTO)
        latents = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"][:1])
        progress = Progress(probe.num_steps)
        latents, _ = guider.sample_with_report(
            OneNoise(seed, len(rows)).generate_noise({"samples": latents}),
            latents,
            comfy.samplers.sampler_object(sampler_name),
            sigmas,
            callback=lambda *_: progress.advance(1),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        sensitivity = probe.sensitivity(latents, sampler=sampler_name, scheduler=scheduler, guidance=cfg, seed=seed)
        return result(cls, sensitivity, {"model": type(model.model).__name__}, path)


class SensitivityLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffSensitivityLoader",
            display_name="Load Sensitivity",
            category="HierDiff",
            description="Loads what Calibrate Schedule has measured for a model.",
            inputs=[
                io.Combo.Input(
                    "sensitivity",
                    options=[BUNDLED_NAME, *folder_paths.get_filename_list(CATEGORY)],
                    tooltip="The bundled model's, or a file in "
                    f"models/{CATEGORY} or output/{CATEGORY}. It must be the model's and the scheduler's.",
                ),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, sensitivity):
        try:
            if sensitivity is not None:  # linked: not known yet
                load_sensitivity(sensitivity)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, sensitivity):
        # text: the host keeps it in the prompt, which it saves as JSON
        return hashlib.sha256(sensitivity_file(sensitivity).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, sensitivity):
        found = load_sensitivity(sensitivity)
        picture = image_tensor(draw_sensitivity(found))
        return io.NodeOutput(found, picture, ui=show(cls, describe(found), picture))


def sensitivity_file(name):
    """Path of a choice of Load Sensitivity.

    Raises
    ------
    ValueError  if there is none; it says how to make one.
    """
    if name == BUNDLED_NAME:
        return BUNDLED_FILE
    path = folder_paths.get_full_path(CATEGORY, name)
    if path is None:
        raise ValueError(
            f"there is no sensitivity '{name}' under models/{CATEGORY} or output/{CATEGORY}; measure one with "
            "Calibrate Schedule, or put the file there (then press R to refresh the list)"
        )
    return Path(path)


def load_sensitivity(name):
    """The `Sensitivity` of a choice; errors name the choice, not where it lies on the disk."""
    path = sensitivity_file(name)
    try:
        return read_sensitivity(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), name)) from None


def new_file(name):
    """Path of a file that does not exist, or None for an empty name; refused before compute is spent."""
    name = name.strip()
    if not name:
        return None
    if set(name) & set('/\\:*?"<>|') or name.startswith("."):
        raise ValueError(f'name must be a plain file name, without folders or any of :*?"<>|; got {name!r}')
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"name must be at most {LONGEST_NAME} printable characters; got {name[:200]!r}")
    folder, file, counter, _, _ = folder_paths.get_save_image_path(
        f"{CATEGORY}/{name}", folder_paths.get_output_directory()
    )
    return Path(folder) / f"{file}_{counter:05}_.json"


def rows_of(conditioning, rows, num_prompts, name):
    """The host's CONDITIONING with these prompts' rows; entries with one row serve all.

    Raises
    ------
    ValueError  if an entry has another number of rows.
    """

    def take(value):
        many = torch.is_tensor(value) and value.ndim > 0 and value.shape[0] == num_prompts > 1
        return value[rows] if many else value

    for cond, _ in conditioning:
        if cond.shape[0] not in (1, num_prompts):
            raise ValueError(
                f"the {name} conditioning has {cond.shape[0]} rows, but there are {num_prompts} embeddings; "
                "make both with one CLIP Embedding, or give one row for all"
            )
    return [[take(cond), {key: take(value) for key, value in values.items()}] for cond, values in conditioning]


def cost(probe, unit):
    """What a calibration will spend, in words."""
    rows, steps = probe.plan.nfe, probe.num_steps
    return f"calibration takes {rows} {unit}: as many as {rows / steps:.0f} pictures of {steps} steps"


def result(cls, sensitivity, settings, path, warnings=()):
    """The node's output: saved, drawn, described."""
    sensitivity = dataclasses.replace(sensitivity, settings={**settings, **sensitivity.settings})
    lines = [describe(sensitivity), *warnings]
    if path is not None:
        write_sensitivity(sensitivity, path)
        lines.append(f"saved as {path.name}; Load Sensitivity finds it after R")
    picture = image_tensor(draw_sensitivity(sensitivity))
    return io.NodeOutput(sensitivity, picture, ui=show(cls, "\n".join(lines), picture))


def describe(sensitivity):
    """What a sensitivity says, in words."""
    weights = sensitivity.weights(sensitivity.num_steps)
    share = weights[::-1].cumsum() / weights.sum()
    most = int((share < 0.9).sum()) + 1
    settings = ", ".join(f"{name} {value}" for name, value in sensitivity.settings.items())
    return f"{sensitivity.num_steps} steps; 90 % of the sensitivity lies in the last {most}\nmeasured with: {settings}"
