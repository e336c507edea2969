"""``python -m hierdiff_core advise``: what pays on a decoder, measured, written and told."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .files.picture_marks import as_png
from .files.whole_files import replace, try_writing
from .kandinsky.workbench import DecoderWorkbench, decoder_fingerprint
from .measure.advice import GOALS, Advice, advise, check_goal, most_passes, write_advice
from .pictures.advice import draw_advice
from .plan.tree import PromptTree

if TYPE_CHECKING:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import KandinskyV22Pipeline

    from .embeddings import PromptEmbeddings
    from .plan.plan import Plan

ADVICE, PLOT, KEPT = "advice.json", "advice.png", "measured"
ALLOWED = 3.0  # per cent
SETTLED = ("saving", "tau", "root_share", "advice")  # options that say what the advisor is asked for
EARLIEST, LATEST = 2, 1000  # samples


def check_advising(options: Namespace) -> None:
    """Refuse, before models are loaded, what the advisor cannot do; fills in the value of the goal.

    Raises
    ------
    ValueError
        Names the option.
    """
    given = [
        name for name in SETTLED if getattr(options, name) is not None and (name != "saving" or options.budget_given)
    ]
    if given:
        raise ValueError(f"advise finds out how much to share; leave --{given[0].replace('_', '-')} out")
    if options.value is None and options.goal != GOALS[0]:
        raise ValueError(
            f"--goal {options.goal!r} needs --value: guided rows per picture, of {options.steps} of full sampling"
        )
    options.value = ALLOWED if options.value is None else options.value
    check_goal(options.goal, options.value, options.measure)
    if not EARLIEST <= options.samples <= LATEST:
        raise ValueError(f"--samples must lie between {EARLIEST} and {LATEST}; got {options.samples}")
    if tuple(options.guidance_interval) != (0.0, 1.0):
        raise ValueError("advise finds out where guidance pays; leave --guidance-interval out")
    if options.boost is not None or options.share_above:
        raise ValueError("advise finds out what to share and where to guide more; leave --share-above and --boost out")
    try_writing(options.out / ADVICE)


def run_advice(
    decoder: KandinskyV22Pipeline, embeddings: PromptEmbeddings, options: Namespace, tell: Callable[[str], Any]
) -> Advice:
    """Measure, write advice.json and advice.png to the folder, and keep what was measured there.

    Parameters
    ----------
    decoder : KandinskyV22Pipeline
        From `load_decoder`.
    embeddings : PromptEmbeddings
        Of the whole set.
    options : argparse.Namespace
        Of the command line.
    tell : callable
        Takes a line of progress.

    Returns
    -------
    advice : Advice
    """
    tree = PromptTree.of(embeddings.positive, options.metric, embeddings.prompts, device=options.device)
    bench = DecoderWorkbench(
        decoder,
        embeddings,
        tree,
        options.steps,
        samples=options.samples,
        seed=options.seed,
        rescale_means=options.rescale_means,
        micro_batch=options.micro_batch,
        acceleration=options.acceleration,
        **run_settings(options),
    )
    most = most_passes(bench, options.measure)
    pictures = most / (options.steps * (1 + bench.guided))
    tell(f"measuring on {bench.tree.num_prompts} prompts: {most} passes at most, as for {pictures:.0f} whole pictures")

    def progress(done: int, most: int, what: str) -> None:
        tell(f"{done / most:4.0%} {what}")

    goal = options.goal, options.value, options.measure
    kept = options.out / KEPT
    try:
        advice = advise(bench, tree, *goal, folder=kept, progress=progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what was measured is kept in {kept}; the same command goes on from there") from None
    write_advice(advice, options.out / ADVICE)
    replace(options.out / PLOT, as_png(draw_advice(**advice.chart())))
    return advice


def run_settings(options: Namespace) -> dict[str, Any]:
    """What advice depends on beside the model and the number of steps."""
    return {name: getattr(options, name) for name in ("scheduler", "guidance", "width", "height")}


def advised_plan(advice: Advice, tree: PromptTree, decoder: KandinskyV22Pipeline, options: Namespace) -> Plan:
    """The plan of advice for a set; `ValueError` if it is that of another decoder or of other settings."""
    settings: Mapping[str, Any] = run_settings(options)
    advice.check_for(decoder_fingerprint(decoder), settings)
    return advice.plan_for(tree)
