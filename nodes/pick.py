"""Pick: the run waits while the user chooses which pictures go on."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from . import types
from .host import questions
from .host.picked_rows import picked_embeddings, picked_latent, picked_plan, picked_prompts, shown_files
from .host.results import say
from .host.search import search_words
from .host.ui import tell

if TYPE_CHECKING:
    import torch

    from ..hierdiff_core.embeddings import PromptEmbeddings
    from ..hierdiff_core.plan.plan import Plan

PICTURES = "hierdiff_pick"  # in the node's output: what the page shows afterwards
MOST_SHOWN = 2000
LONGEST_CHOICE = 20_000  # characters
RANGE = re.compile(r"(\d{1,9})(?:\s*[-–~]\s*(\d{1,9}))?")
GIVEN, ONLY = "given", "the only one"


class Pick(io.ComfyNode):
    """The node of `host.questions`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows and checks."""
        return io.Schema(
            node_id="HierDiffPick",
            display_name="Pick",
            category="HierDiff",
            **search_words("image chooser", "choose images", "select", "filter", "preview chooser", "pause"),
            description="Stops the run, shows the pictures in the node, and goes on with those that you choose.",
            inputs=[
                io.Image.Input("images", tooltip="One image per prompt: finished ones, or what a sampler heads for."),
                io.Latent.Input("latent", optional=True, tooltip="Their latents, if the chosen ones are to go on."),
                types.Plan.Input(
                    "plan",
                    optional=True,
                    tooltip="The plan that draws them. Chosen prompts keep their branches, seeds and pictures.",
                ),
                types.Prompts.Input("prompts", optional=True, tooltip="The prompts, shown with the pictures."),
                types.Embeddings.Input("embeddings", optional=True, tooltip="The embeddings of the prompts."),
                io.String.Input(
                    "choice",
                    default="",
                    optional=True,
                    tooltip="Numbers of the pictures that go on, such as 0, 3-5; the first is 0. Empty: the run waits "
                    "for you to choose in the node.",
                ),
                io.Int.Input(
                    "timeout",
                    default=600,
                    min=1,
                    max=604_800,
                    optional=True,
                    tooltip="Seconds to wait for a choice. After that, all pictures go on.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The chosen images."),
                io.Latent.Output(display_name="latent", tooltip="Their latents."),
                types.Plan.Output(
                    display_name="plan",
                    tooltip="Of the chosen prompts, for a sampler; it takes them out of conditioning of the whole set.",
                ),
                types.Prompts.Output(display_name="prompts", tooltip="The chosen prompts."),
                types.Embeddings.Output(
                    display_name="embeddings",
                    tooltip="Of the chosen prompts. With a plan connected those of all prompts, for a sampler with "
                    "that plan: branches that were shared are made of them.",
                ),
                io.String.Output(display_name="report", tooltip="Which pictures were chosen, and how."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, choice: str | None = None) -> bool | str:
        """What can be said of the choice before there are pictures."""
        try:
            numbers_of(choice or "", None)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, choice: str | None = None, **_: Any) -> str:
        """Without a choice each run asks anew."""
        return choice if choice and choice.strip() else uuid.uuid4().hex

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        latent: dict | None = None,
        plan: Plan | None = None,
        prompts: tuple[str, ...] | None = None,
        embeddings: PromptEmbeddings | None = None,
        choice: str = "",
        timeout: int = 600,
    ) -> io.NodeOutput:
        """Ask, and hand on what was chosen."""
        count = len(images)
        check_counts(count, latent, plan, prompts, embeddings)
        given = numbers_of(choice, count)
        if plan is not None and count > 1:
            picked_plan(plan, given or [0])  # or the user would choose for nothing
        texts = texts_of(count, plan, prompts, embeddings)
        chosen, how, pictures = choose(cls, images, texts, given, timeout)
        report = "\n".join(in_words(chosen, count, how, timeout))
        told = {"pictures": pictures, "texts": texts if pictures else [], "chosen": list(chosen), "how": how}
        say(report, "done", False, how != GIVEN, **{PICTURES: [told]})
        own = embeddings if plan is not None else picked(embeddings, chosen, count, picked_embeddings)
        return io.NodeOutput(
            picked(images, chosen, count, lambda rows, which: rows[list(which)]),
            picked(latent, chosen, count, lambda rows, which: picked_latent(rows, which, count)),
            picked(plan, chosen, count, picked_plan),
            picked(prompts, chosen, count, picked_prompts),
            own,
            report,
            ui={"text": (report,), PICTURES: [told]},
        )


def picked(value: Any, chosen: Sequence[int], count: int, take: Callable[[Any, Sequence[int]], Any]) -> Any:
    """What was chosen of an input: all of it as it is, and nothing of one that is not connected."""
    return value if value is None or len(chosen) == count else take(value, chosen)


# --- What is there to choose from


def check_counts(count: int, latent: Any, plan: Any, prompts: Any, embeddings: Any) -> None:
    """`ValueError` for an input that is not of as many prompts as there are images."""
    if not count:
        raise ValueError("there are no images to choose from")
    counts = {
        "latent": None if latent is None else len(latent["samples"]),
        "plan": None if plan is None else plan.num_prompts,
        "prompts": None if prompts is None else len(prompts),
        "embeddings": None if embeddings is None else len(embeddings),
    }
    for name, others in counts.items():
        if others not in (None, count):
            raise ValueError(
                f"there are {count} images, but {name} is of {others} prompts; connect what belongs to these images, "
                "one for each prompt"
            )


def texts_of(count: int, plan: Any, prompts: Any, embeddings: Any) -> list[str]:
    """What each picture is of, as far as any input knows it."""
    known = prompts or getattr(plan, "prompts", None) or getattr(embeddings, "prompts", None)
    return [""] * count if known is None else list(known)


def numbers_of(text: str, count: int | None, name: str = "choice") -> tuple[int, ...]:
    """Numbers of pictures from a text such as "0, 3-5".

    Parameters
    ----------
    text : str
        Numbers and ranges, with commas, semicolons or spaces between them.
    count : int or None
        Pictures that there are; None where that is not known yet.
    name : str
        Of the input, for messages.

    Returns
    -------
    numbers : tuple of int
        Rising, each once; none for an empty text.

    Raises
    ------
    ValueError
        It names what is no number or no picture.
    """
    if len(text) > LONGEST_CHOICE:
        raise ValueError(f"{name} must have at most {LONGEST_CHOICE} characters; got {len(text)}")
    numbers: set[int] = set()
    for part in re.split(r"[,;，、；]|(?<=\d)\s+(?=\d)", text):
        found = RANGE.fullmatch(part.strip())
        if not part.strip():
            continue
        if found is None:
            raise ValueError(f'{name} must be numbers of pictures such as "0, 3-5"; got {part.strip()[:80]!r}')
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"{name} has a range that runs backwards: {part.strip()!r}; write {last}-{first}")
        if count is not None and last >= count:
            raise ValueError(f"{name} names picture {last}, but there are {count}, with numbers from 0 to {count - 1}")
        if count is not None:
            numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


# --- Choosing


def choose(
    cls: Any, images: torch.Tensor, texts: Sequence[str], given: Sequence[int], timeout: float
) -> tuple[Sequence[int], str, list[dict[str, str]]]:
    """The chosen numbers, how they were chosen, and the files of the pictures that the page shows."""
    everything = tuple(range(len(images)))
    if len(images) > MOST_SHOWN:
        if not given:
            raise ValueError(
                f"the page shows at most {MOST_SHOWN} pictures to choose from; got {len(images)}: write their numbers "
                "into choice"
            )
        return given, GIVEN, []
    pictures = shown_files(images, f"pick-{uuid.uuid4().hex}")
    if given:
        return given, GIVEN, pictures
    if len(images) == 1:
        return everything, ONLY, pictures
    question = questions.Question(pictures, texts, timeout)
    tell(cls, f"Waiting for you to choose from {len(images)} pictures …")
    how = questions.ask(question, questions.release_memory)
    return question.chosen or everything, how, pictures


def in_words(chosen: Sequence[int], count: int, how: str, timeout: float) -> list[str]:
    """What was chosen, as lines of a report."""
    if how == ONLY:
        return ["the only picture goes on"]
    if how == questions.LATE:
        return [f"⚠ nobody chose within {timeout:g} seconds: all {count} pictures go on"]
    if how == questions.NOBODY:
        return [f"⚠ no page has queued this run, so nobody could choose: all {count} go on. Write numbers into choice"]
    return [f"{len(chosen)} of {count} pictures go on: {ranges(chosen)}"]


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as text: "0, 3-5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
