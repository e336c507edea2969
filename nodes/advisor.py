"""What Pays Here?: measures what saves compute on a model and what it costs, and plans the set by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hierdiff_core.kandinsky.decoder import check_sample_inputs
from ..hierdiff_core.kandinsky.schedulers import SCHEDULERS
from ..hierdiff_core.measure.advice import GOALS, MEASURES, advise, most_passes
from ..hierdiff_core.measure.trials import trials_path
from ..hierdiff_core.plan.budget import Budget
from ..hierdiff_core.plan.building import plan_for
from ..hierdiff_core.plan.profile import Profile
from . import types
from .advice import found_again, key_of, new_file, outputs, saved, shown, trials_folder
from .calibration import seed_input
from .guider import cfg_input, model_inputs
from .host.advisor_bench import ModelWorkbench
from .host.cond_rows import check_texts
from .host.decoder_bench import HostDecoderWorkbench
from .host.samplers_by_name import sampler_names, scheduler_names
from .host.search import search_words
from .host.ui import Progress, tell, unsuitable

if TYPE_CHECKING:
    from ..hierdiff_core.measure.advice import Workbench
    from ..hierdiff_core.plan.tree import PromptTree

USE_SAVED, ANEW = SAVED = ["use it", "measure anew"]
DESCRIPTION = (
    "Draws a few of your prompts in many ways, and tells what saves compute on this model and what it costs: sharing, "
    "fewer steps, less guidance. The plan does what pays; it was checked by drawing it."
)


def steps_input(default: int) -> Any:
    """Steps of full sampling."""
    return io.Int.Input(
        "steps",
        default=default,
        min=2,
        max=1000,
        tooltip="Denoising steps that you draw with now. The plan may need fewer.",
    )


def goal_inputs() -> list[Any]:
    """What is asked."""
    return [
        io.Combo.Input(
            "goal",
            options=list(GOALS),
            default=GOALS[0],
            tooltip="no visible loss: the fewest passes whose loss stays below the value. rows per picture: the least "
            "loss with so many steps' worth of compute for each image.",
        ),
        io.Float.Input(
            "value",
            default=3.0,
            min=0.1,
            max=1000.0,
            step=0.1,
            tooltip="no visible loss: per cent of what full sampling shows of your prompts that may be lost. rows per "
            "picture: guided steps for each image; 20 steps without sharing are 20.",
        ),
        io.Int.Input(
            "samples",
            default=8,
            min=2,
            max=100,
            tooltip="How many of your prompts are drawn, from all parts of the tree. More of them give a surer answer "
            "and cost more. The cost is shown first.",
        ),
        io.Combo.Input(
            "measure",
            options=list(MEASURES),
            default=MEASURES[0],
            tooltip="looks as good: images may be others, but show the prompts as well and are as sharp. looks the "
            "same: they are to be the images of full sampling.",
        ),
    ]


def kept_inputs() -> list[Any]:
    """What becomes of results."""
    return [
        io.Combo.Input(
            "saved",
            options=SAVED,
            default=USE_SAVED,
            optional=True,
            tooltip="use it: a result for the same model, settings and goal is taken again, whatever the prompts; a "
            "measurement that was stopped goes on. measure anew: everything is drawn again.",
        ),
        io.String.Input(
            "name",
            default="advice",
            optional=True,
            tooltip="Saves the result under this name in output/hierdiff_advice, for Load Advice. Empty: not saved.",
        ),
    ]


def advisor_outputs() -> list[Any]:
    """Outputs of both advisors."""
    return [*outputs(), io.Image.Output(display_name="plot", tooltip="Passes per image against what is lost.")]


class Advisor(io.ComfyNode):
    """The advisor for any MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffAdvisor",
            display_name="What Pays Here?",
            category="HierDiff",
            **search_words("advisor", "save compute", "speed up", "measure", "fewer steps"),
            description=DESCRIPTION,
            inputs=[
                *model_inputs(),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size you draw at; the first is taken."),
                types.Linkage.Input("linkage", tooltip="From Ward Linkage: the tree of your prompts."),
                io.Combo.Input("sampler_name", options=sampler_names(), tooltip="As you draw."),
                io.Combo.Input("scheduler", options=scheduler_names(), tooltip="As you draw."),
                steps_input(20),
                cfg_input(),
                seed_input(),
                *goal_inputs(),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="To measure fine detail on images. Without it, it is measured on latents.",
                ),
                *kept_inputs(),
                io.Boolean.Input(
                    "step_caches",
                    display_name="step caches",
                    default=False,
                    optional=True,
                    tooltip="Also tries ComfyUI's EasyCache and LazyCache. If the plan counts on one, put that node on "
                    "the model that draws.",
                ),
            ],
            outputs=advisor_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        latent_image: dict[str, Any],
        linkage: PromptTree,
        sampler_name: str,
        scheduler: str,
        steps: int,
        cfg: float,
        seed: int,
        goal: str,
        value: float,
        samples: int,
        measure: str,
        vae: Any = None,
        saved: str = USE_SAVED,
        name: str = "advice",
        step_caches: bool = False,
    ) -> io.NodeOutput:
        """Measure, or find again."""
        check_texts(positive, linkage.prompts, "linkage")
        settings = {"sampler_name": sampler_name, "scheduler": scheduler, "steps": steps, "cfg": cfg, "seed": seed}
        more = {"samples": samples, "vae": vae, "try_caches": step_caches}
        bench = ModelWorkbench(model, positive, negative, latent_image, linkage, **settings, **more)
        rows = len(latent_image["samples"])
        lines = [f"⚠ of {rows} latents the first was taken"] if rows > 1 else []
        if bench.settings["detail"] != "pictures" and measure == MEASURES[0]:
            lines.append("connect a vae to measure fine detail on images")
        return run(cls, bench, linkage, goal, value, measure, saved, name, *lines)


class AdvisorKandinsky(io.ComfyNode):
    """The advisor for a Kandinsky decoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffAdvisorKandinsky",
            display_name="What Pays Here? (Kandinsky)",
            category="HierDiff",
            **search_words("advisor", "save compute", "speed up", "measure", "kandinsky"),
            description=DESCRIPTION,
            inputs=[
                types.Decoder.Input("decoder", tooltip="From Load Kandinsky 2.2 Decoder."),
                types.Embeddings.Input("embeddings", tooltip="From Prior Embedding: the same as for the linkage."),
                types.Linkage.Input("linkage", tooltip="From Ward Linkage: the tree of your prompts."),
                io.Combo.Input("scheduler", options=list(SCHEDULERS), default="DDPM", tooltip="As you draw."),
                steps_input(40),
                io.Float.Input(
                    "guidance",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance (CFG), as you draw. 1 or less: no guidance.",
                ),
                io.Int.Input("width", default=512, min=64, max=4096, step=64, tooltip="In pixels, as you draw."),
                io.Int.Input("height", default=512, min=64, max=4096, step=64, tooltip="In pixels, as you draw."),
                seed_input(),
                *goal_inputs(),
                *kept_inputs(),
            ],
            outputs=advisor_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        decoder: Any,
        embeddings: Any,
        linkage: PromptTree,
        scheduler: str,
        steps: int,
        guidance: float,
        width: int,
        height: int,
        seed: int,
        goal: str,
        value: float,
        samples: int,
        measure: str,
        saved: str = USE_SAVED,
        name: str = "advice",
    ) -> io.NodeOutput:
        """Measure, or find again."""
        unshared = plan_for(linkage, Budget("saving", 0.0), Profile(steps))
        check_sample_inputs(decoder.pipeline, embeddings, unshared, width, height, guidance=guidance)
        sampler = {"seed": seed, "guidance": guidance, "scheduler": scheduler, "width": width, "height": height}
        bench = HostDecoderWorkbench(decoder, embeddings, linkage, steps, samples=samples, **sampler)
        lines = unsuitable(decoder, guidance=guidance, width=width, height=height, steps=steps)
        return run(cls, bench, linkage, goal, value, measure, saved, name, *lines)


def run(
    cls: Any,
    bench: Workbench,
    linkage: PromptTree,
    goal: str,
    value: float,
    measure: str,
    use: str,
    name: str,
    *lines: str,
) -> io.NodeOutput:
    """What either advisor gives: a result that is found again, or one that is measured now."""
    path = new_file(name, key_of(bench, goal, value, measure))
    known = found_again(bench, goal, value, measure) if use == USE_SAVED else None
    if known is not None:
        return io.NodeOutput(*(out := shown(cls, known[1], linkage, *lines, again(known[0])))[:4], ui=out[4])
    most = most_passes(bench, measure)
    full = bench.steps * (2 if bench.guided else 1)
    tell(cls, "\n".join([f"measuring takes at most {most:,} passes: as many as {most / full:.0f} full images", *lines]))
    folder = trials_folder()
    if use == ANEW:
        trials_path(folder, bench).unlink(missing_ok=True)
    advice = advise(bench, linkage, goal, value, measure, folder=folder, progress=measuring(cls))
    kept = [] if path is None else [saved(advice, path)]
    *results, ui = shown(cls, advice, linkage, *lines, *kept)
    return io.NodeOutput(*results, ui=ui)


def again(name: str) -> str:
    """Where a result is from that was not measured now."""
    return f"from {name}: nothing was drawn. To draw again, set saved to {ANEW}"


def measuring(cls: Any) -> Callable[[int, int, str], None]:
    """A `Progress` of the advisor that moves a node's bar, says what is drawn, and stops when the user cancels."""
    bars: list[Progress] = []

    def progress(done: int, most: int, what: str) -> None:
        if not bars:
            bars.append(Progress(most))
        bars[0].advance(done - bars[0].value)
        tell(cls, f"drawing: {what} … {done:,} of at most {most:,} passes")

    return progress
