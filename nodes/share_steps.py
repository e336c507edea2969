"""Share Steps: a MODEL with which any sampler node shares the steps of a plan."""

from __future__ import annotations

from comfy_api.latest import io

from . import types
from .guider import MICRO_BATCH_TOOLTIP, PLAN_TOOLTIP, keep_inputs, per_prompt_input, saving_input, vae_input
from .host.keeping import kept_plan
from .host.per_prompt import SHARE_IF_EQUAL
from .host.search import search_words
from .host.share_steps import Sharing, share_steps, shares_steps
from .host.ui import show
from .saving import saving_in_run

AGAIN = "⚠ the model shared the steps of another plan already: only this plan counts; remove one of the two Share Steps"


class ShareSteps(io.ComfyNode):
    """The node of `host.share_steps`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffShareSteps",
            display_name="Share Steps",
            category="HierDiff",
            **search_words("batch prompts", "shared steps", "ksampler", "model patch"),
            description="Any sampler node that gets this model shares the steps of a plan: KSampler, or "
            "SamplerCustomAdvanced with any guider. It gives one latent per prompt, and shows the tree and the report.",
            inputs=[
                io.Model.Input("model", tooltip="Any model that ComfyUI loads, with its LoRAs and patches."),
                types.Plan.Input("plan", tooltip=PLAN_TOOLTIP),
                io.Int.Input("micro_batch", default=0, min=0, max=4096, optional=True, tooltip=MICRO_BATCH_TOOLTIP),
                per_prompt_input(),
                vae_input(),
                *keep_inputs(),
                saving_input(),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For a sampler node or a guider, with the conditioning of CLIP Embedding and one latent. "
                    "Give the sampler as many steps as the plan has.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        plan,
        micro_batch: int = 0,
        per_prompt_inputs: str = SHARE_IF_EQUAL,
        vae=None,
        keep: bool = False,
        edits: str = "",
        trunk=None,
        saving=None,
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        plan, keeping = kept_plan(plan, keep, edits, trunk)
        saved = saving_in_run(saving, vae, plan)
        sharing = Sharing(plan, micro_batch, per_prompt=per_prompt_inputs, vae=vae, keeping=keeping, saving=saved)
        patched = share_steps(model, sharing)
        return io.NodeOutput(patched, ui=show(cls, AGAIN) if shares_steps(model) else None)
