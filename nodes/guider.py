"""Hierarchical Guider, Shared Noise and Hierarchical KSampler: thin shells around Share Steps."""

from comfy_api.latest import io

from . import types
from .host.decoration import Decorations, warn_running_node
from .host.keeping import kept_plan
from .host.negative_lists import list_of_negatives
from .host.one_prompt import latent_of_prompt
from .host.per_prompt import CHOICES, SHARE_IF_EQUAL
from .host.plan_rows import latent_of_rows
from .host.sampler_noise import OneNoise
from .host.samplers import latents_for, make_guider, previews, sample
from .host.samplers_by_name import sampler_names, scheduler_names, sigmas_of
from .host.search import search_words
from .host.ui import tell
from .saving import saving_in_run

PLAN_TOOLTIP = "From Threshold Schedule, for the same prompts as the conditioning."
MICRO_BATCH_TOOLTIP = (
    "Clusters per model call. 0: as many as fit into memory. Halved when memory runs out. On a CPU it is always 1, so "
    "that images are bit-identical; on a GPU the size changes them by rounding only."
)


def model_inputs():
    return [
        io.Model.Input("model", tooltip="Any model that ComfyUI loads, with its LoRAs and patches."),
        io.Conditioning.Input("positive", tooltip="One row per prompt, from CLIP Embedding, or one row for all."),
        io.Conditioning.Input(
            "negative",
            tooltip="One row for all prompts, or one per prompt from a second CLIP Embedding, in the same order. A "
            "list of conditionings runs the node once for each.",
        ),
    ]


def cfg_input():
    return io.Float.Input(
        "cfg",
        default=8.0,
        min=0.0,
        max=100.0,
        step=0.1,
        tooltip="Classifier-free guidance (CFG). 1: no negative pass.",
    )


def per_prompt_input():
    return io.Combo.Input(
        "per_prompt_inputs",
        display_name="own inputs",  # Nodes 2.0 of front end 1.32.9 shows a dozen letters
        options=CHOICES,
        default=SHARE_IF_EQUAL,
        optional=True,
        tooltip="For start latents, masks, ControlNet images and LoRA hooks that differ between prompts. "
        f"{CHOICES[0]}: prompts share steps only while all of these are equal (exact, more compute). {CHOICES[1]}: a "
        "cluster of prompts uses those of its first prompt until it splits.",
    )


def vae_input():
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Decodes the images for the tree when the run is done, so that you can look at each at full size. "
        "Costs one decoding per image; VAE Decode is still needed for the images themselves. Without it the tree "
        "keeps its previews.",
    )


def keep_inputs():
    return [
        io.Boolean.Input(
            "keep",
            default=False,
            optional=True,
            tooltip="Keep what was evaluated, and hang new prompts onto the tree that is there: with one prompt edited "
            "only its branch is drawn, and all others stay exactly as they are.",
        ),
        io.String.Input(
            "edits",
            default="",
            optional=True,
            tooltip="What was changed in the tree: rerolls, splits, pins and the tree that is kept, as JSON that the "
            "page writes. Empty: nothing.",
        ),
        types.Trunk.Input(
            "trunk",
            optional=True,
            tooltip="From Keep Trunks: where what was evaluated is kept. Without it, in memory until ComfyUI ends.",
        ),
    ]


def saving_input():
    return types.Saving.Input(
        "saving",
        optional=True,
        tooltip="From Save Pictures as They Finish: a few images at a time are drawn, decoded by vae and saved, before "
        "the next ones are begun. The images are the same.",
    )


class Guider(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffGuider",
            display_name="Hierarchical Guider",
            category="HierDiff",
            **search_words("batch prompts", "shared steps", "cfg guider"),
            description="For SamplerCustomAdvanced, with any sampler: runs the model once per cluster of prompts.",
            inputs=[
                *model_inputs(),
                cfg_input(),
                types.Plan.Input("plan", tooltip=PLAN_TOOLTIP),
                io.Int.Input("micro_batch", default=0, min=0, max=4096, tooltip=MICRO_BATCH_TOOLTIP),
                per_prompt_input(),
                *keep_inputs(),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced, with Shared Noise.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        cfg,
        plan,
        micro_batch,
        per_prompt_inputs=SHARE_IF_EQUAL,
        keep=False,
        edits="",
        trunk=None,
    ):
        repeated = list_of_negatives(negative, (model, positive, cfg, plan, micro_batch), plan.num_prompts)
        warn_running_node("\n".join(repeated))
        plan, keeping = kept_plan(plan, keep, edits, trunk)
        options = {"per_prompt": per_prompt_inputs, "keeping": keeping}
        return io.NodeOutput(make_guider(model, positive, negative, cfg, plan, micro_batch, **options))


class SharedNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffSharedNoise",
            display_name="Shared Noise",
            category="HierDiff",
            **search_words("random noise", "same noise"),
            description="One starting noise for all prompts of a plan: the one RandomNoise makes for a single latent. "
            "Prompts with a seed of their own have that seed's.",
            inputs=[
                types.seed_input(
                    "noise_seed", tooltip="Seed of the starting noise and of the noise that stochastic samplers add."
                ),
                types.Plan.Input("plan", tooltip=PLAN_TOOLTIP),
            ],
            outputs=[io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, noise_seed, plan):
        return io.NodeOutput(OneNoise(noise_seed, plan.num_prompts, plan.seeds))


class HierarchicalKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffKSampler",
            display_name="Hierarchical KSampler",
            category="HierDiff",
            **search_words("batch prompts", "ksampler", "shared steps", "sample set"),
            description="ComfyUI's KSampler with shared steps, for any model and sampler. The plan sets the steps.",
            inputs=[
                *model_inputs(),
                io.Latent.Input("latent_image", tooltip="One latent, repeated for all prompts, or one per prompt."),
                types.Plan.Input("plan", tooltip=PLAN_TOOLTIP),
                types.seed_input(
                    "seed", tooltip="Seed of the shared starting noise and of the noise that stochastic samplers add."
                ),
                cfg_input(),
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    tooltip="Any sampler except dpm_adaptive.",
                ),
                io.Combo.Input("scheduler", options=scheduler_names(), tooltip="How sigmas fall over the steps."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, part of the latent image is kept (img2img).",
                ),
                io.Int.Input("micro_batch", default=0, min=0, max=4096, tooltip=MICRO_BATCH_TOOLTIP),
                per_prompt_input(),
                vae_input(),
                *keep_inputs(),
                saving_input(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="One latent per prompt, in the order of the prompts."),
                io.String.Output(display_name="report", tooltip="Model rows used and saved."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image,
        plan,
        seed,
        cfg,
        sampler_name,
        scheduler,
        denoise,
        micro_batch,
        per_prompt_inputs=SHARE_IF_EQUAL,
        vae=None,
        keep=False,
        edits="",
        trunk=None,
        saving=None,
    ):
        others = (model, positive, latent_image, plan, seed, cfg, sampler_name, scheduler, denoise, micro_batch)
        repeated = list_of_negatives(negative, others, plan.num_prompts)
        plan, keeping = kept_plan(plan, keep, edits, trunk)
        latent_image = latent_of_prompt(latent_image, plan)
        latents = latents_for(model, latent_image["samples"])
        sigmas = sigmas_of(model, plan.num_steps, sampler_name, scheduler, denoise)
        reports, pictures = [], {}

        def told(report, **data):
            reports.append(report)
            pictures.update(data)

        saved = saving_in_run(saving, vae, plan)
        options = {"per_prompt": per_prompt_inputs, "vae": vae, "keeping": keeping, "saving": saved}
        guider = make_guider(model, positive, negative, cfg, plan, micro_batch, tell=told, **options)
        tell(cls, f"Moving the model to the device and sampling {plan.num_prompts} prompts …")
        decorations = Decorations()
        callback = previews(model, len(sigmas) - 1, decorations)
        samples = sample(guider, latents, sampler_name, sigmas, seed, latent_image.get("noise_mask"), callback)
        latent = {**latent_of_rows(latent_image, positive, plan), "samples": samples}
        latent.pop("batch_index", None)  # of the input's rows, no longer of these
        report = "\n".join([*reports, *repeated])
        ui = decorations.show(cls, report, **pictures)
        return io.NodeOutput(latent, decorations.noted(report), ui=ui)
