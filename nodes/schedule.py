"""Threshold Schedule: a tree and a budget -> which prompts share which step."""

from comfy_api.latest import io

from ..hierdiff_core.pictures.schedule import draw_schedule
from ..hierdiff_core.plan.budget import UNITS, Budget, reachable_saving
from ..hierdiff_core.plan.building import plan_for
from ..hierdiff_core.plan.noise_levels import levels_of_sigmas, unshared_steps
from ..hierdiff_core.plan.profile import SHAPES, Profile
from . import types
from .host.decoration import Decorations
from .host.plan_texts import alike, duplicates, seeds_in_words, tau_in_words, unsuitable_tau
from .host.search import search_words
from .host.ui import distortion, numbered
from .schedule_plot import plot_data


class ThresholdSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HierDiffThresholdSchedule",
            display_name="Threshold Schedule",
            category="HierDiff",
            **search_words("clustering", "budget", "save steps", "tau", "plan"),
            description="Stage 3: plans which prompts share which steps: a falling threshold cuts the tree.",
            inputs=[
                types.Linkage.Input("linkage", tooltip="From Ward Linkage."),
                io.Int.Input("steps", default=40, min=1, max=1000, tooltip="Denoising steps per image."),
                io.Combo.Input(
                    "mode",
                    options=list(UNITS),
                    default="saving",
                    tooltip="Unit of value. saving: share of the UNet rows to save, for any tree. tau: height of the "
                    "first threshold, as in the paper. root share: the same, as a share of the tree's height.",
                ),
                io.Float.Input(
                    "value",
                    default=0.5,
                    min=0.0,
                    max=10000.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="saving: 0.6 saves 60 % of the UNet rows, or as many as possible. tau: a height; the paper "
                    "uses 1, and 0 shares nothing. root share: 1 starts with a single cluster.",
                ),
                io.Int.Input(
                    "private_steps",
                    display_name="unshared",  # Nodes 2.0 of front end 1.32.9 shows a dozen letters
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Number of final steps that are not shared.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default=SHAPES[0],
                    optional=True,
                    tooltip="How the threshold falls. linear: a straight line, as in the paper. power: faster, so that "
                    "the last steps share less. calibrated: by the model's sensitivity. cosine: much like power 2. "
                    "trunk: not at all until the unshared steps, for models that lay their images out early.",
                ),
                types.Sensitivity.Input(
                    "sensitivity",
                    optional=True,
                    tooltip="From Calibrate Schedule or Load Sensitivity. Needed for shape calibrated, and for the "
                    "expected distortion in the reports.",
                ),
                io.Float.Input(
                    "power",
                    default=2.0,
                    min=0.1,
                    max=20.0,
                    step=0.1,
                    optional=True,
                    tooltip="Exponent of shape power. 1: a straight line. Higher: the threshold falls earlier; try 4.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="For share_above: those of the run, for example from BasicScheduler, for as many steps.",
                ),
                io.Float.Input(
                    "share_above",
                    display_name="share above",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Only steps with more noise than this are shared: a noise level from 0 to 1, the same for "
                    "every model and number of steps. Needs sigmas. 0: no limit.",
                ),
            ],
            outputs=[
                types.Plan.Output(
                    display_name="plan", tooltip="For the samplers, Share Steps, Hierarchical Guider and Shared Noise."
                ),
                io.Image.Output(display_name="plot", tooltip="Threshold and number of clusters at each step."),
                io.Float.Output(display_name="saved", tooltip="Share of UNet rows saved, 0 to 1."),
                io.Int.Output(display_name="nfe", tooltip="UNet rows of the whole set; a guidance pair counts as one."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        linkage,
        steps,
        mode,
        value,
        private_steps,
        shape=SHAPES[0],
        sensitivity=None,
        power=2.0,
        sigmas=None,
        share_above=0.0,
    ):
        levels = levels_of(sigmas, steps, share_above)
        private_steps = private_steps if levels is None else unshared_steps(levels, share_above, private_steps)
        profile, budget = Profile(steps, shape, private_steps, power, sensitivity), Budget(mode, value, clamp=True)
        plan = plan_for(linkage, budget, profile)
        greatest = reachable_saving(linkage.Z, profile.falling(linkage.metric), trees=linkage.num_trees)[1]
        greatest = max(greatest, plan.saved)  # variants share more
        decorations = Decorations()
        picture = decorations.picture("the plot", draw_schedule, plan)
        lines = [*describe(plan, greatest), *distortion(plan), *unshared_by_level(profile, levels, share_above)]
        lines += warnings(plan, greatest, budget, profile)
        text = "\n".join([*lines, first_clusters(plan, linkage.prompts)])
        plot = plot_data(linkage, profile, plan, levels)
        shown = decorations.show(cls, text, picture, hierdiff_schedule=[plot])
        return io.NodeOutput(plan, picture, plan.saved, plan.nfe, ui=shown)


def levels_of(sigmas, steps, share_above):
    """Noise levels of the steps, (K,); None without sigmas.

    Raises
    ------
    ValueError
        If they are needed and not there, or are of another number of steps.
    """
    if sigmas is None:
        if share_above > 0:
            raise ValueError(
                f"share_above is a noise level ({share_above:g}), which takes the sigmas of the run: connect them, for "
                "example from BasicScheduler (for Kandinsky, with the model of Kandinsky 2.2 as MODEL), or set it to 0"
            )
        return None
    if len(sigmas) - 1 != steps:
        raise ValueError(
            f"sigmas are of {len(sigmas) - 1} steps, but steps is {steps}: make both the same (schedulers such as beta "
            "or ddim_uniform may give another number than they are asked for)"
        )
    return levels_of_sigmas(sigmas.detach().cpu().double().numpy())


def unshared_by_level(profile, levels, share_above):
    """A line on the steps that the noise level leaves unshared."""
    if levels is None or not share_above:
        return []
    shared = profile.num_steps - profile.private_steps
    level = f", down to noise level {levels[shared - 1]:.3g}" if shared else ""
    return [f"sharing above noise level {share_above:g}: {shared} of {profile.num_steps} steps{level}"]


def first_clusters(plan, prompts):
    """The clusters of the first step and their prompts, largest first."""
    members = sorted(plan.steps[0].members, key=len, reverse=True)
    lines = [f"({len(rows)}) {', '.join(prompts[i] for i in rows)}" for rows in members]
    return "clusters of the first step:\n" + numbered([line[:300] for line in lines])


def describe(plan, greatest):
    """Budget of a plan, in lines; `greatest` is the share of the rows that can be saved."""
    clusters = plan.clusters_per_step
    return [
        f"saves {plan.saved:.1%} of the UNet rows",
        f"{plan.nfe} rows instead of {plan.nfe_standard}; up to {greatest:.1%} can be saved",
        tau_in_words(plan),
        f"clusters: {clusters[0]} at first, {clusters[len(clusters) // 2]} half-way, {clusters[-1]} at last",
        *duplicates(plan),
        *seeds_in_words(plan),
    ]


def warnings(plan, greatest, budget, profile):
    """Lines on settings that do not do what they seem to."""
    lines = alike(plan)
    missed, saving = budget.missed(plan.tree, profile), budget.unit == "saving"
    lines += [f"⚠ {missed}"] if missed else []
    lines += [] if saving else unsuitable_tau(plan, greatest)
    if plan.num_steps == 1 and plan.num_distinct > 1 and not (saving and budget.value):
        lines.append("⚠ one step leaves nothing to share: use more steps")
    return lines + other_steps(plan)


def other_steps(plan):
    """A warning where the sensitivity is of runs of another length."""
    measured = plan.sensitivity and plan.sensitivity.num_steps
    if not measured or measured == plan.num_steps:
        return []
    return [f"⚠ the sensitivity was measured with {measured} steps, not {plan.num_steps}: calibrate with as many"]
